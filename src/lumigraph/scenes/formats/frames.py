"""What the JSON formats share: a list of frames, each an image with a pose, from file to cameras and views."""

import logging
import math
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lumigraph.errors import LumigraphError
from lumigraph.files import inside, io_errors, read_json
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.conventions import opengl_to_opencv
from lumigraph.scenes.formats.decoding import decode_image, image_size
from lumigraph.scenes.formats.fields import Fields
from lumigraph.scenes.formats.intrinsics import Intrinsics, own_intrinsics, read_intrinsics
from lumigraph.scenes.formats.pictures import is_opaque, read_image
from lumigraph.scenes.scene import Views
from lumigraph.scenes.stored_arrays import MemoryBudget, threads

log = logging.getLogger("lumigraph")

MAX_FRAMES = 100_000
MAX_ATTRIBUTES = 64
EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".PNG", ".JPG", ".JPEG")
_SAMPLED_IMAGES = 4


@dataclass(frozen=True)
class Frame:
    """One image that exists, with all that the file says about it.

    Attributes:
        fields: its JSON object; `fields.where` names file and frame.
        name: the file name relative to the scene's folder, with its extension.
        path: the image.
        pose: camera-to-world [3, 4] in file units, OpenGL axes as in the file.
        intrinsics: for the image at its full size.
        alpha: whether the image has an alpha channel.
        number: its place in the file, from 0.
    """

    fields: Fields
    name: str
    path: Path
    pose: Float[np.ndarray, "3 4"]
    intrinsics: Intrinsics
    alpha: bool
    number: int = 0


@dataclass(frozen=True)
class FrameFile:
    """The frames of one JSON file whose images exist, and the names of those that do not."""

    path: Path
    common: Fields
    frames: list[Frame]
    missing: list[str]


def read_frame_file(path: Path) -> FrameFile:
    """Reads a `transforms*.json`: every pose and lens is checked, of every image the header is read.

    Frames without an image are skipped; the caller warns of them (`warn_of_missing`).

    Raises:
        LumigraphError: something in it cannot be used; says which frame and field.
    """
    common = Fields.of(read_json(path), str(path))
    entries = common.items("frames", MAX_FRAMES)
    if not entries:
        raise LumigraphError("'frames' is an empty list", where=path, todo="Add images with their poses")
    fields = [Fields.of(entry, f"{path}, frame {number}") for number, entry in enumerate(entries)]
    names = [frame.text("file_path") for frame in fields]
    folders: dict[Path, frozenset[str]] = {}
    found = [find_image(frame, path.parent, name, folders) for frame, name in zip(fields, names, strict=True)]
    there = [number for number, image in enumerate(found) if image is not None]
    check_duplicates([(fields[number], found[number]) for number in there])
    with ThreadPoolExecutor(threads()) as pool:
        headers = dict(zip(there, pool.map(image_size, [found[number] for number in there]), strict=True))
    frames = [
        _frame(number, fields[number], common, path.parent, found[number], headers[number])  # pyright: ignore
        for number in there
    ]
    _check_sizes(frames)
    return FrameFile(
        path, common, frames, [names[number] for number in range(len(names)) if found[number] is None]
    )


def find_image(frame: Fields, folder: Path, name: str, folders: dict[Path, frozenset[str]]) -> Path | None:
    """The image file that `name` means, with or without its extension, or None where there is none."""
    try:
        path = inside(folder, name)
    except LumigraphError as error:
        raise LumigraphError(error.what, where=f"{frame.where}, file_path", todo=error.todo) from error
    if path.parent not in folders:
        folders[path.parent] = listing(path.parent)
    for extension in ("", *EXTENSIONS):
        if path.name + extension in folders[path.parent]:
            return path.with_name(path.name + extension)
    return None


def listing(folder: Path) -> frozenset[str]:
    """The names of the files in a folder; none where it does not exist. One call serves all its frames."""
    try:
        with io_errors(folder):
            return frozenset(entry.name for entry in folder.iterdir() if not entry.is_dir())
    except LumigraphError:
        if folder.is_dir():
            raise
        return frozenset()


def check_duplicates(images: Sequence[tuple[Fields, Path | None]]) -> None:
    seen: dict[Path | None, Fields] = {}
    for frame, path in images:
        if path in seen:
            raise LumigraphError(
                f"this frame has the same image as {seen[path].where.rsplit(', ', 1)[-1]}",
                where=frame.where,
                todo="Remove one of the two",
            )
        seen[path] = frame


def _frame(
    number: int, frame: Fields, common: Fields, folder: Path, path: Path, header: tuple[int, int, bool]
) -> Frame:
    width, height, alpha = header
    return Frame(
        fields=frame,
        name=path.relative_to(folder).as_posix(),
        path=path,
        pose=frame.pose("transform_matrix"),
        intrinsics=read_intrinsics(frame, common, (width, height)),
        alpha=alpha,
        number=number,
    )


def _check_sizes(frames: Sequence[Frame]) -> None:
    """Frames that share a lens must share a size: otherwise its focal length in pixels means nothing."""
    shared = [frame for frame in frames if not own_intrinsics(frame.fields)]
    for frame in shared[1:]:
        if frame.intrinsics.size != shared[0].intrinsics.size:
            this, first = frame.intrinsics.size, shared[0].intrinsics.size
            raise LumigraphError(
                f"images of different sizes share one lens: {frame.name} is {this[0]}x{this[1]}, "
                f"{shared[0].name} is {first[0]}x{first[1]}",
                where=frame.fields.where,
                todo="Save all images at one size, or give each frame its own 'fl_x', 'w' and 'h'",
            )


def warn_of_missing(missing: Sequence[str], total: int, where: Path) -> None:
    """One warning for all frames that were skipped."""
    if missing:
        log.warning(
            "%d of %d frames have no image and are skipped, first %s (in %s)",
            len(missing),
            total,
            missing[0],
            where,
        )


def check_enough(count: int, missing: int, where: Path) -> None:
    """Raises LumigraphError when fewer than two images are left to learn from."""
    if count >= 2:
        return
    what = "there are no images" if count == 0 else "there is only one image: a scene needs two or more"
    todo = (
        f"{missing} frames have no image: check that 'file_path' is relative to this folder"
        if missing
        else "Add images with their poses"
    )
    raise LumigraphError(what, where=where, todo=todo)


def natural_order(name: str) -> list[tuple[int, int | str]]:
    """A sort key by which image 10 follows image 9."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d{1,18})", name)]


def make_cameras(frames: Sequence[Frame], near: float, far: float, first_id: int = 0) -> Cameras:
    """The cameras of frames, in file units, for images at full size. A frame's or file's own near and far go first.

    Raises:
        LumigraphError: perspective and fisheye lenses, or frames with and without time, are mixed.
    """
    lenses = [frame.intrinsics for frame in frames]
    for frame in frames:
        if frame.intrinsics.fisheye != lenses[0].fisheye:
            raise LumigraphError(
                "perspective and fisheye cameras are mixed",
                where=frame.fields.where,
                todo="Use one kind of camera",
            )
    planes = [_planes(frame.fields, near, far) for frame in frames]
    poses = torch.from_numpy(np.stack([frame.pose for frame in frames]))
    times, attributes = _per_frame(frames, "time", _time), _per_frame(frames, "attributes", _attributes)
    try:
        return Cameras.from_tensors(
            {
                "camera_to_world": opengl_to_opencv(poses).float(),
                "focal": torch.tensor([lens.focal for lens in lenses]),
                "principal": torch.tensor([lens.principal for lens in lenses]),
                "size": torch.tensor([lens.size for lens in lenses]),
                "near": torch.tensor([plane[0] for plane in planes]),
                "far": torch.tensor([plane[1] for plane in planes]),
                "distortion": torch.tensor([lens.distortion for lens in lenses]),
                "ids": torch.arange(first_id, first_id + len(frames)),
                **({} if times is None else {"times": torch.tensor(times)}),
                **({} if attributes is None else {"attributes": torch.tensor(attributes)}),
            },
            fisheye=lenses[0].fisheye,
        )
    except LumigraphError as error:
        raise LumigraphError(
            error.what, where=frames[0].fields.where.rsplit(", ", 1)[0], todo=error.todo
        ) from error


def _planes(frame: Fields, near: float, far: float) -> tuple[float, float]:
    own = (float(frame.optional("near", near)), float(frame.optional("far", far)))
    if not 0.0 <= own[0] < own[1]:
        raise LumigraphError(
            f"near {own[0]:g} and far {own[1]:g} are not in order",
            where=frame.where,
            todo="Give 0 <= near < far",
        )
    return own


def _per_frame(frames: Sequence[Frame], key: str, read: Any) -> list[Any] | None:
    """The values of an optional key that all frames must have if one has it."""
    with_key = [frame for frame in frames if key in frame.fields]
    if not with_key:
        return None
    for frame in frames:
        if key not in frame.fields:
            raise LumigraphError(
                f"{len(with_key)} of {len(frames)} frames have '{key}', this one has not",
                where=frame.fields.where,
                todo=f"Give every frame its '{key}', or none",
            )
    values = [read(frame.fields) for frame in frames]
    lengths = [len(value) if isinstance(value, list) else 1 for value in values]
    for frame, length in zip(frames, lengths, strict=True):
        if length != lengths[0]:
            raise frame.fields.wrong(key, f"a list of {lengths[0]} numbers, as in the first frame")
    return values


def _time(frame: Fields) -> float:
    """The share of the capture that has passed: the one convention inside, so a file must have it too."""
    time = frame.number("time")
    if not 0.0 <= time <= 1.0:
        todo = "Times are shares of the capture: subtract the first and divide by the time it took"
        raise frame.wrong("time", "a number from 0 to 1", todo)
    return time


def _attributes(frame: Fields) -> list[float]:
    """Control values, NaN where the file says null."""
    entries = frame.items("attributes", MAX_ATTRIBUTES)
    known = Fields({"attributes": [0.0 if entry is None else entry for entry in entries]}, frame.where)
    values = known.numbers("attributes", MAX_ATTRIBUTES)
    if any(abs(value) > 1.0 for value in values):
        raise frame.wrong(
            "attributes", "numbers from -1 to 1, or null where unknown", "Scale the values to [-1, 1]"
        )
    return [math.nan if entry is None else value for entry, value in zip(entries, values, strict=True)]


def attribute_names(common: Fields, cameras: Cameras) -> tuple[str, ...]:
    """What the attributes of the cameras are called, as the file says (`attribute_names`), else by their numbers.

    Raises:
        LumigraphError: there are other names than attributes, or one twice.
    """
    count = 0 if cameras.attributes is None else cameras.attributes.shape[1]
    if "attribute_names" not in common:
        return tuple(f"attribute_{number}" for number in range(count))
    names = common.texts("attribute_names", MAX_ATTRIBUTES)
    if len(names) != count or len(set(names)) != count:
        raise common.wrong(
            "attribute_names", f"{count} different names, one for each attribute of the frames"
        )
    return tuple(names)


def check_downscale(frames: Sequence[Frame], factor: int) -> None:
    """Raises LumigraphError when `factor`, which is positive, leaves an image without pixels."""
    for frame in frames:
        width, height = frame.intrinsics.size
        if factor > min(width, height):
            raise LumigraphError(
                f"--downscale {factor} cannot be applied to {width}x{height} pixels",
                where=frame.path,
                todo=f"Choose a number from 1 to {min(width, height)}",
            )


def uses_alpha(frames: Sequence[Frame], *, thorough: bool) -> bool:
    """Whether transparency means something: some images have an alpha channel that is not opaque everywhere.

    Photos are often saved with an alpha channel that says nothing. A few of them, evenly spread, are decoded to see,
    or all when `thorough`: decoding hundreds of photos before anything else takes long. What the few did not show is
    found when the image is used (`read_image`).
    """
    with_alpha = [frame.path for frame in frames if frame.alpha]
    step = max(1, len(with_alpha) // _SAMPLED_IMAGES)
    if any(_is_transparent(path) for path in with_alpha[::step][:_SAMPLED_IMAGES]):
        return True
    if not thorough or not with_alpha:
        return False
    with ThreadPoolExecutor(threads()) as pool:
        return any(pool.map(_is_transparent, with_alpha))  # `map` cancels the rest once one is found


def _is_transparent(path: Path) -> bool:
    return not is_opaque(decode_image(path))


def make_views(
    frames: Sequence[Frame],
    cameras: Cameras,
    alpha: bool,
    downscale: int,
    maps: Mapping[str, Any],
    memory: MemoryBudget,
    pixel_areas: Tensor | None = None,
) -> Views:
    """Views over the files of `frames`; `maps` holds the loaders of masks and depths that `Views` takes, `memory` is
    what all splits of the scene share."""
    paths = [frame.path for frame in frames]
    sizes = [frame.intrinsics.size for frame in frames]

    def load_image(index: int) -> np.ndarray:
        return read_image(paths[index], sizes[index], alpha, downscale)

    names = [frame.name for frame in frames]
    reduced = cameras.downscale(downscale)
    return Views(reduced, names, alpha, load_image, memory=memory, pixel_areas=pixel_areas, **maps)
