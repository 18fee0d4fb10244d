"""Nerfies' format, which HyperNeRF and CoNeRF keep to (Park et al. 2021): captures of scenes that move.

| file | what |
|---|---|
| `scene.json` | `scale` and `center`: scene units are (x - center) scale; `near`, `far` in these; perhaps `bbox` |
| `dataset.json` | `ids` of the frames; `train_ids` and `val_ids` |
| `metadata.json` | of each frame `warp_id`, `camera_id`, and perhaps `time_id` |
| `camera/ID.json` | orientation (world to camera, OpenCV axes), position, focal length, pixel aspect, distortion |
| `rgb/{1,2,4,8}x/ID.png` | the photos, reduced by so much |
| `points.npy` | points that do not move, for the background loss |
| `camera-paths/NAME/*.json` | cameras of recorded paths |
| `colmap/sparse/0` | the model that all of it was made from |

The time of a frame is its `time_id`, or where there is none its `warp_id`, over the largest of the whole capture: two
cameras of a rig that pressed the shutter together share it. Where one camera has a `warp_id` twice, because training
and held-out frames were counted apart, it is the number in the frame's name instead.

The published processing writes a pixel aspect of 1 whatever COLMAP found. Where the model is there, it is asked.
"""

import logging
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lumigraph.errors import LumigraphError
from lumigraph.files import inside, io_errors, read_json
from lumigraph.geometry.bounds import Bounds
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.conventions import opencv_to_opengl, similarity, transform_points
from lumigraph.scenes import colmap
from lumigraph.scenes.formats import annotations
from lumigraph.scenes.formats.decoding import image_size, read_matrix
from lumigraph.scenes.formats.fields import Fields
from lumigraph.scenes.formats.frames import (
    EXTENSIONS,
    MAX_FRAMES,
    Frame,
    check_downscale,
    check_enough,
    listing,
    make_cameras,
    make_views,
    natural_order,
    uses_alpha,
    warn_of_missing,
)
from lumigraph.scenes.formats.intrinsics import Intrinsics
from lumigraph.scenes.scene import Background, Scene, SceneInfo
from lumigraph.scenes.splits import SplitOptions, divide
from lumigraph.scenes.stored_arrays import MemoryBudget, threads

log = logging.getLogger("lumigraph")

SCENE, DATASET, METADATA, CAMERAS, PATHS = (
    "scene.json",
    "dataset.json",
    "metadata.json",
    "camera",
    "camera-paths",
)
POINTS = "points.npy"
_MODELS = ("colmap/sparse/0", "sparse/0", "colmap/sparse", "sparse")
_MAX_BYTES = 1 << 20
_LARGEST_ID = 10**6
_SAME_FOCAL = 1e-3
"""How much the focal length of a file and that of COLMAP's lens may differ, as a part of it."""
_ASPECT_TOLERANCE = 1e-4
_LEAST_TRACK = 5
"""Points seen by fewer photos are not told of; the published processing drops them as well."""


@dataclass(frozen=True)
class _Place:
    """What `scene.json` says: the similarity from file to scene units; near and far in scene units; the box."""

    scale: float
    transform: Float[Tensor, "4 4"]
    near: float
    far: float
    bounds: Bounds


@dataclass(frozen=True)
class _Repair:
    """What COLMAP knows of the lenses, in pixels of images of `width`; empty where there is no model."""

    lenses: Sequence[colmap.Lens] = ()

    def aspect(self, focal: float, width: int, stored: float) -> float:
        """The pixel aspect ratio fy / fx of a camera: that of the lens with its focal length, or what is stored."""
        for lens in self.lenses:
            scaled = lens.focal[0] * width / lens.size[0]
            if abs(scaled - focal) <= _SAME_FOCAL * focal:
                return lens.focal[1] / lens.focal[0]
        return stored


def is_nerfies(folder: Path) -> bool:
    """Whether the folder has the files that this reader starts from."""
    return (folder / DATASET).is_file() and (folder / CAMERAS).is_dir()


def read(folder: Path, downscale: int, splits: SplitOptions, background: Background | None) -> Scene:
    """Reads a capture in Nerfies' format.

    With `downscale` K, `rgb/Kx` is used where it is there, else the largest folder from which K is reached by averaging
    blocks of pixels. Scene units are those of `scene.json`.

    Raises:
        LumigraphError: anything in the files that cannot be used; says which file and field.
    """
    place = _read_place(folder)
    ids, listed = _read_ids(folder, splits)
    entries = _read_metadata(folder, ids)
    devices = _devices(entries)
    times = _read_times(folder, ids, listed, entries, devices)
    images, reduced = _image_folder(folder, downscale)
    found = _images(images, ids)
    missing = [f"{images.relative_to(folder)}/{name}" for name in ids if name not in found]
    warn_of_missing(missing, len(ids), folder)
    kept = [name for name in ids if name in found]
    check_enough(len(kept), len(missing), folder / DATASET)
    marks = annotations.read(folder, ids)
    frames = _frames(folder, {name: found[name] for name in kept}, reduced, times, marks)
    left = downscale // reduced
    check_downscale(frames, left)
    alpha = uses_alpha(frames, thorough=background is not None)
    captured = make_cameras(frames, place.near / place.scale, place.far / place.scale)
    if len({devices[name] for name in kept}) > 1:
        captured = replace(captured, devices=torch.tensor([devices[name] for name in kept]))
    cameras = captured.transformed(place.transform)
    names = [frame.name for frame in frames]
    by_id = dict(zip(kept, names, strict=True))
    known = {split: [by_id[name] for name in part if name in by_id] for split, part in listed.items()}
    chosen = divide(
        names,
        splits,
        known or None,
        str(folder / DATASET),
        captured.positions.tolist(),
        [times[name] for name in kept],
    )
    views, memory = {}, MemoryBudget()
    for split, places in chosen.items():
        part, lenses = [frames[i] for i in places], cameras[torch.tensor(places)]
        maps = annotations.mask_loaders(marks, [kept[i] for i in places], part, reduced, left)
        views[split] = make_views(part, lenses, alpha, left, maps, memory)
    info = SceneInfo(
        name=folder.name,
        source=str(folder),
        format="nerfies",
        downscale=downscale,
        cameras={split: part.cameras for split, part in views.items()},
        bounds=place.bounds,
        background=(background or "white") if alpha else "opaque",
        world_transform=place.transform,
        splits=splits,
        attributes=() if marks is None else marks.names,
    )
    return Scene(info, views, missing, folders=[images.relative_to(folder).as_posix()])


def path_names(folder: Path) -> list[str]:
    """The names of the recorded camera paths of a capture."""
    if not (folder / PATHS).is_dir():
        return []
    with io_errors(folder / PATHS):
        parts = [part.name for part in (folder / PATHS).iterdir() if part.is_dir()]
    return sorted((name for name in parts if not name.startswith(".")), key=natural_order)


def recorded_path(folder: Path, name: str, downscale: int = 1) -> Cameras:
    """The cameras of a recorded path, in scene units, without times.

    Raises:
        LumigraphError: there is no such path, or one of its files cannot be used.
    """
    names = path_names(folder)
    if name not in names:
        there = f"There are: {', '.join(names)}" if names else "This capture has none"
        raise LumigraphError(f"there is no recorded camera path {name!r}", where=folder / PATHS, todo=there)
    part = folder / PATHS / name
    files = sorted((entry for entry in listing(part) if entry.endswith(".json")), key=natural_order)
    if not files or len(files) > MAX_FRAMES:
        raise LumigraphError(
            f"the recorded camera path has {len(files):,} cameras",
            where=part,
            todo=f"It must have 1 to {MAX_FRAMES:,}, each a file NUMBER.json",
        )
    place, repair = _read_place(folder), _Repair(_lenses(folder))
    with ThreadPoolExecutor(threads()) as pool:
        fields = list(pool.map(_camera_file, [part / file for file in files]))
    frames = [
        Frame(camera, camera.where, part, _pose(camera), _intrinsics(camera, repair), alpha=False)
        for camera in fields
    ]
    cameras = make_cameras(frames, place.near / place.scale, place.far / place.scale)
    cameras = replace(cameras, ids=torch.full_like(cameras.ids, -1))
    return cameras.transformed(place.transform).downscale(downscale)


def background_points(info: SceneInfo) -> Float[Tensor, "n 3"] | None:
    """Points of a capture that do not move, in scene units: those of `points.npy`, or of the COLMAP model those that
    five photos or more saw, which is what that file is made from. None where there is neither.

    Raises:
        LumigraphError: a file is damaged.
    """
    folder = Path(info.source)
    points = _stored_points(folder)
    return None if points is None else transform_points(info.world_transform, points).float()


def _stored_points(folder: Path) -> Float[Tensor, "n 3"] | None:
    """Those points, float64, in units of the file."""
    if (folder / POINTS).is_file():
        points = read_matrix(folder / POINTS, np.float64)
        if points.shape[1] != 3 or not np.isfinite(points).all():
            raise LumigraphError(
                "the points are not rows of three finite numbers",
                where=folder / POINTS,
                todo="Write the file again, or remove it",
            )
        return torch.from_numpy(points)
    model = _model(folder)
    if model is None:
        return None
    places = [point.place for point in colmap.read_points(model) if point.track >= _LEAST_TRACK]
    return torch.tensor(places, dtype=torch.float64).reshape(-1, 3)


# ------------------------------------------------------------------ what the files for all frames say


def _read_place(folder: Path) -> _Place:
    fields = Fields.of(read_json(folder / SCENE, _MAX_BYTES), str(folder / SCENE))
    scale = fields.number("scale", positive=True)
    if not 1e-9 < scale < 1e9:
        raise fields.wrong("scale", "a number between 1e-9 and 1e9")
    centre = torch.tensor(_triple(fields, "center"), dtype=torch.float64)
    near, far = fields.number("near"), fields.number("far")
    if not 0.0 <= near < far:
        raise LumigraphError(
            f"near {near:g} and far {far:g} are not in order", where=fields.where, todo="Give 0 <= near < far"
        )
    transform = similarity(scale, translation=-scale * centre)
    return _Place(scale, transform, near, far, _core(fields, transform))


def _core(fields: Fields, transform: Float[Tensor, "4 4"]) -> Bounds:
    """The cube about the file's box. Where it gives none: the scale is one over the diagonal of the box about the
    centre, so that a cube of unit side holds it."""
    if "bbox" not in fields:
        return Bounds(torch.full((3,), -0.5), torch.full((3,), 0.5), unbounded=True)
    corners = transform_points(transform, torch.from_numpy(fields.matrix("bbox", 2, 3)))
    if not bool((corners[1] > corners[0]).all()):
        raise fields.wrong("bbox", "a lower and an upper corner, in this order")
    centre, half = corners.mean(0), float((corners[1] - corners[0]).max()) / 2
    return Bounds((centre - half).float(), (centre + half).float(), unbounded=True)


def _read_ids(folder: Path, splits: SplitOptions) -> tuple[list[str], dict[str, list[str]]]:
    """The ids of all frames, in the order of the file, and those of each split that it lists."""
    path = folder / DATASET
    fields = Fields.of(read_json(path, _MAX_BYTES * 16), str(path))
    listed = {
        split: _ids(fields, key)
        for split, key in (("train", "train_ids"), ("val", "val_ids"))
        if key in fields
    }
    everything = (
        _ids(fields, "ids") if "ids" in fields else [name for part in listed.values() for name in part]
    )
    if "ids" in fields and "train" not in listed and listed:
        listed["train"] = [name for name in everything if name not in listed["val"]]
    if not everything:
        raise fields.wrong("ids", "a list of the frames' names", "Name the frames")
    known = set(everything)
    for split, part in listed.items():
        absent = [name for name in part if name not in known]
        if absent:
            raise LumigraphError(
                f"'{split}_ids' names {absent[0]!r}, which is no frame of 'ids' ({len(absent)} such names)",
                where=path,
                todo=f"Correct '{split}_ids'",
            )
    shared = sorted(set(listed.get("train", ())) & set(listed.get("val", ())))
    if shared and splits.split in ("auto", "files"):
        raise LumigraphError(
            f"'train_ids' and 'val_ids' both name {shared[0]!r} ({len(shared)} such names)",
            where=path,
            todo="Keep it in one of the two, or choose another --split, such as interpolation",
        )
    return everything, listed


def _ids(fields: Fields, key: str) -> list[str]:
    names = fields.texts(key, MAX_FRAMES)
    seen: set[str] = set()
    for name in names:
        if not re.fullmatch(r"[\w.-]{1,100}", name, re.ASCII) or name.startswith("."):
            raise LumigraphError(
                f"'{key}' holds {name[:60]!r}, which is no name of a frame",
                where=fields.where,
                todo="Names have letters, digits, '_', '-' and '.'",
            )
        if name in seen:
            raise LumigraphError(
                f"'{key}' names {name!r} twice", where=fields.where, todo="Remove one of the two"
            )
        seen.add(name)
    return names


def _read_metadata(folder: Path, ids: Sequence[str]) -> dict[str, Fields]:
    """What is said of each frame. Raises LumigraphError where one of `ids` is missing."""
    path = folder / METADATA
    metadata = Fields.of(read_json(path, _MAX_BYTES * 64), str(path))
    entries = {name: Fields.of(value, f"{path}, {name}") for name, value in metadata.members.items()}
    for name in ids:
        if name not in entries:
            raise LumigraphError(f"the frame {name!r} is missing", where=path, todo="Add its 'warp_id'")
    return entries


def _devices(entries: dict[str, Fields]) -> dict[str, int]:
    """The number of the camera that took each frame; 0 where nothing is said of it."""
    return {
        name: _number(entry, "camera_id") if "camera_id" in entry else 0 for name, entry in entries.items()
    }


def _read_times(
    folder: Path,
    ids: Sequence[str],
    listed: dict[str, list[str]],
    entries: dict[str, Fields],
    devices: dict[str, int],
) -> dict[str, float]:
    """The share of the capture that has passed at each frame.

    Raises:
        LumigraphError: a frame has no time, or one camera took two of the training photos at the same time.
    """
    path = folder / METADATA
    key = "time_id" if any("time_id" in entry for entry in entries.values()) else "warp_id"
    numbers = {name: _number(entry, key) for name, entry in entries.items()}
    moments = {name: (devices[name], numbers[name]) for name in ids}
    twice = _repeated(moments, listed.get("train", ()))
    if twice is not None:
        raise LumigraphError(
            f"the training frames {twice[0]!r} and {twice[1]!r} of one camera have the same '{key}'",
            where=path,
            todo=f"Give each its own '{key}', or its own 'camera_id'",
        )
    twice = _repeated(moments, ids)
    if twice is not None:
        named = {name: found[0] for name in ids if (found := re.findall(r"\d+$", name))}
        if key == "warp_id" and len(named) == len(ids):
            # The published processing counts the frames of each split for itself, and skips none that COLMAP has lost.
            log.warning(
                "%s: 'warp_id' counts training and held-out frames apart; times are those of the names", path
            )
            first = min(map(int, named.values()))
            numbers = {name: int(number) - first for name, number in named.items()}
        else:
            log.warning(
                "%s: frames %r and %r of one camera have the same '%s'; both are taken to be of that moment",
                path, *twice, key,
            )  # fmt: skip
    last = max(max(numbers.values()), 1)
    return {name: numbers[name] / last for name in ids}


def _repeated(moments: dict[str, tuple[int, int]], names: Sequence[str]) -> tuple[str, str] | None:
    """The first two of `names` of the same camera and moment."""
    seen: dict[tuple[int, int], str] = {}
    for name in names:
        if moments[name] in seen:
            return seen[moments[name]], name
        seen[moments[name]] = name
    return None


def _number(entry: Fields, key: str) -> int:
    value = entry.number(key) if key in entry else None
    if value is None or value != int(value) or not 0 <= value <= _LARGEST_ID:
        raise entry.wrong(key, f"a whole number from 0 to {_LARGEST_ID}")
    return int(value)


# ------------------------------------------------------------------ images


def _image_folder(folder: Path, downscale: int) -> tuple[Path, int]:
    """The folder of images from which `downscale` is reached with least work, and by how much they are reduced."""
    found: dict[int, Path] = {}
    if (folder / "rgb").is_dir():
        with io_errors(folder / "rgb"):
            for entry in (folder / "rgb").iterdir():
                match = re.fullmatch(r"([1-9]\d{0,3})x", entry.name)
                if match and entry.is_dir():
                    found[int(match[1])] = entry
    usable = [size for size in found if downscale >= size and downscale % size == 0]
    if usable:
        return found[max(usable)], max(usable)
    if not found:
        raise LumigraphError(
            "there is no folder of images", where=folder, todo="Put them in rgb/1x, or reduced in rgb/4x"
        )
    there = ", ".join(f"rgb/{size}x" for size in sorted(found))
    raise LumigraphError(
        f"there are no images for --downscale {downscale}, only {there}",
        where=folder,
        todo=f"Pass --downscale {min(found)}",
    )


def _images(folder: Path, ids: Sequence[str]) -> dict[str, Path]:
    """The image of each frame that has one."""
    there = listing(folder)
    found = {}
    for name in ids:
        match = next((name + extension for extension in EXTENSIONS if name + extension in there), None)
        if match is not None:
            found[name] = folder / match
    return found


# ------------------------------------------------------------------ frames


def _frames(
    folder: Path,
    images: dict[str, Path],
    reduced: int,
    times: dict[str, float],
    marks: annotations.Annotations | None,
) -> list[Frame]:
    """The frames with their lenses for the images in the folder, which are reduced by `reduced`."""
    lenses = _lenses(folder)
    repair = _Repair(lenses)
    with ThreadPoolExecutor(threads()) as pool:
        headers = list(pool.map(image_size, images.values()))
        cameras = list(pool.map(lambda name: _camera_file(inside(folder / CAMERAS, f"{name}.json")), images))
    frames, repaired = [], []
    for (name, image), header, camera in zip(images.items(), headers, cameras, strict=True):
        members: dict[str, Any] = {"time": times[name]}
        if marks is not None:
            members["attributes"] = marks.values_of(name)
        lens = _intrinsics(camera, repair)
        stored = _intrinsics(camera, _Repair())
        if abs(lens.focal[1] / stored.focal[1] - 1.0) > _ASPECT_TOLERANCE:
            repaired.append((lens.focal[1] / lens.focal[0], stored.focal[1] / stored.focal[0]))
        width, height, alpha = header
        frames.append(
            Frame(
                fields=Fields(members, camera.where),
                name=image.name,
                path=image,
                pose=_pose(camera),
                intrinsics=_reduced(lens, reduced, (width, height), image),
                alpha=alpha,
            )
        )
    if repaired:
        log.warning(
            "the pixel aspect ratio (fy/fx) of %d of %d cameras is %.4f in their files and %.4f in the COLMAP model "
            "beside them, which is believed (in %s)",
            len(repaired),
            len(frames),
            repaired[0][1],
            repaired[0][0],
            folder,
        )
    return frames


def _camera_file(path: Path) -> Fields:
    return Fields.of(read_json(path, _MAX_BYTES), str(path))


def _pose(camera: Fields) -> Float[np.ndarray, "3 4"]:
    """Camera to world in units of the file, with OpenGL axes as frames hold it."""
    rotation = camera.matrix("orientation", 3, 3).T
    position = np.array(_triple(camera, "position"))
    matrix = np.concatenate([rotation, position[:, None]], axis=1)
    pose = Fields({"orientation": matrix.tolist()}, camera.where).pose("orientation")
    return opencv_to_opengl(torch.from_numpy(pose)).numpy()


def _triple(fields: Fields, key: str) -> list[float]:
    values = fields.numbers(key, 3)
    if len(values) != 3:
        raise fields.wrong(key, "three numbers")
    return values


def _intrinsics(camera: Fields, repair: _Repair) -> Intrinsics:
    """The lens for the image at its full size."""
    size = camera.numbers("image_size", 2)
    if len(size) != 2 or not all(1 <= side <= 65536 and side == int(side) for side in size):
        raise camera.wrong("image_size", "width and height in pixels")
    principal = camera.numbers("principal_point", 2)
    if len(principal) != 2:
        raise camera.wrong("principal_point", "two numbers")
    if abs(camera.optional("skew", 0.0)) > 1e-6:
        raise camera.wrong("skew", "0", "Undistort the images to square angles first")
    focal = camera.number("focal_length", positive=True)
    aspect = repair.aspect(focal, int(size[0]), camera.optional("pixel_aspect_ratio", 1.0, positive=True))
    return Intrinsics(
        size=(int(size[0]), int(size[1])),
        focal=(focal, focal * aspect),
        principal=(principal[0], principal[1]),
        distortion=_distortion(camera),
        fisheye=False,
    )


def _distortion(camera: Fields) -> tuple[float, ...]:
    """k1 k2 k3 k4 p1 p2; both names of the tangential terms are in use."""
    radial = camera.numbers("radial_distortion", 3) if "radial_distortion" in camera else []
    tangential = next(
        (camera.numbers(key, 2) for key in ("tangential_distortion", "tangential") if key in camera), []
    )
    k1, k2, k3 = [*radial, 0.0, 0.0, 0.0][:3]
    p1, p2 = [*tangential, 0.0, 0.0][:2]
    return (k1, k2, k3, 0.0, p1, p2)


def _reduced(lens: Intrinsics, factor: int, size: tuple[int, int], image: Path) -> Intrinsics:
    """The lens for an image that is smaller by `factor`; its sides may be rounded."""
    if any(abs(side - whole / factor) > 1.0 for side, whole in zip(size, lens.size, strict=True)):
        raise LumigraphError(
            f"the image is {size[0]}x{size[1]} and should be {round(lens.size[0] / factor)}x"
            f"{round(lens.size[1] / factor)}, as its camera has {lens.size[0]}x{lens.size[1]} pixels",
            where=image,
            todo="Give the images that the cameras were made for",
        )
    return replace(
        lens,
        size=size,
        focal=(lens.focal[0] / factor, lens.focal[1] / factor),
        principal=(lens.principal[0] / factor, lens.principal[1] / factor),
    )


# ------------------------------------------------------------------ the COLMAP model


def _model(folder: Path) -> Path | None:
    """The folder of the COLMAP model of a capture, if it is there."""
    return next((folder / name for name in _MODELS if colmap.is_model(folder / name)), None)


def _lenses(folder: Path) -> list[colmap.Lens]:
    model = _model(folder)
    return [] if model is None else colmap.read_lenses(model)
