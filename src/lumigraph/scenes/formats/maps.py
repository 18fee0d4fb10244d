"""Masks, depth maps and maps of normals that the frames of a scene name or have beside them, for `Views`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float16
from torch import Tensor

from lumigraph.errors import LumigraphError
from lumigraph.files import inside
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.conventions import split_similarity
from lumigraph.scenes.depth_reading import DepthReading
from lumigraph.scenes.formats.decoding import decode_values
from lumigraph.scenes.formats.fields import Fields
from lumigraph.scenes.formats.frames import Frame, listing
from lumigraph.scenes.formats.pictures import (
    read_depth,
    read_mask,
    read_normals,
    reduce_depth,
    reduce_normals,
    reduce_shares,
)

MILLIMETRES = 1e-3
"""What 1 in a depth map is in units of the capture, where nothing says it."""


@dataclass(frozen=True)
class DepthMeaning:
    """What the numbers in a depth map mean: `unit` is 1 in units of the capture; `along_rays`: they are distances, not
    depths along the camera's axis; depths outside of `limits`, in units of the capture, are unknown."""

    unit: float
    along_rays: bool
    limits: tuple[float, float] | None

    @classmethod
    def told(cls, reading: DepthReading, unit: float, along_rays: bool = False) -> "DepthMeaning":
        """As a reader or a file says (`unit`, `along_rays`), unless `reading` says otherwise."""
        kind = reading.depth_kind
        return cls(
            reading.depth_unit or unit,
            along_rays if kind is None else kind == "euclidean",
            reading.depth_range,
        )

    @classmethod
    def of_file(cls, reading: DepthReading, common: Fields) -> "DepthMeaning":
        """As a file of frames says for all of them, thousandths along the camera's axis if it says nothing, unless
        `reading` says otherwise.

        Raises:
            LumigraphError: the file says what has no meaning.
        """
        return cls.told(reading, _unit(common), _along_rays(common))

    def read(self, path: Path, cameras: Cameras, index: int) -> Float[np.ndarray, "H W"]:
        """The z-depth in a file, units of the capture, NaN where unknown, of the size of camera `index`."""
        width, height = cameras.size[index].tolist()
        depth = read_depth(path, (width, height), self.unit)
        if self.along_rays:
            depth /= ray_lengths(cameras, index)
        return within(depth, self.limits)


def ray_lengths(cameras: Cameras, index: int) -> Float[np.ndarray, "H W"]:
    """How long a piece of each ray of a camera is that goes one unit along its axis."""
    return cameras.view_rays(index).directions.norm(dim=-1).numpy()


def within(depth: Float[np.ndarray, "H W"], limits: tuple[float, float] | None) -> Float[np.ndarray, "H W"]:
    """Depth with NaN where it lies outside of `limits`."""
    if limits is None:
        return depth
    return np.where((depth >= limits[0]) & (depth <= limits[1]), depth, np.float32(np.nan))


def depth_loader(
    paths: Sequence[Path | None],
    cameras: Cameras,
    meanings: Sequence[DepthMeaning],
    downscale: int,
    scale: float = 1.0,
) -> Callable[[int], Float[np.ndarray, "h w"] | None]:
    """The loader of depth maps that `Views` takes, in scene units, which are `scale` of the capture's. `cameras` are
    those of the images at full size."""

    def load_depth(index: int) -> Float[np.ndarray, "h w"] | None:
        path = paths[index]
        if path is None:
            return None
        return reduce_depth(np.float32(scale) * meanings[index].read(path, cameras, index), downscale)

    return load_depth


NORMAL_FRAMES = ("world", "opencv", "opengl")
"""Axes of normal maps: those of the poses; those of the camera, x right, y down, z forward; or the camera's, x right,
y up, z back."""


@dataclass(frozen=True)
class NormalFile:
    """A map of normals, and its axes, one of `NORMAL_FRAMES`."""

    path: Path
    axes: str


def normal_loader(
    files: Sequence[NormalFile | None],
    cameras: Cameras,
    to_scene: Float[Tensor, "4 4"],
    downscale: int,
) -> dict[str, Any]:
    """The loader of normals that `Views` takes, when there are any. `cameras` are those of the images at full size, in
    scene units; `to_scene` is the similarity from the poses' frame to that of the scene."""
    if not any(files):
        return {}
    _, rotation, _ = split_similarity(to_scene)
    flip = np.diag([1.0, -1.0, -1.0])

    def load_normals(index: int) -> Float16[np.ndarray, "h w 3"] | None:
        file = files[index]
        if file is None:
            return None
        turn = rotation.numpy()
        if file.axes != "world":
            turn = cameras.camera_to_world[index, :, :3].double().numpy()
            turn = turn if file.axes == "opencv" else turn @ flip
        width, height = cameras.size[index].tolist()
        normals = read_normals(file.path, (width, height)) @ turn.T
        return reduce_normals(normals.astype(np.float16), downscale)

    return {"load_normals": load_normals}


def named_normals(
    frames: Sequence[Frame], commons: Sequence[Fields], folder: Path
) -> list[NormalFile | None]:
    """The maps of normals that frames of a JSON format name as `normal_file_path`. Their axes are `normal_frame` of the
    file, "world" (the poses') if it says nothing."""
    found = []
    for frame, common in zip(frames, commons, strict=True):
        path = _named_file(frame, folder, ("normal_file_path",))
        found.append(None if path is None else NormalFile(path, _normal_frame(common)))
    return found


def _normal_frame(common: Fields) -> str:
    axes = common.text("normal_frame") if "normal_frame" in common else "world"
    if axes not in NORMAL_FRAMES:
        raise common.wrong(
            "normal_frame",
            '"world" (the axes of the poses), "opencv" (the camera\'s, y down) or "opengl" (the camera\'s, y up)',
        )
    return axes


def named_maps(
    frames: Sequence[Frame],
    commons: Sequence[Fields],
    cameras: Cameras,
    folder: Path,
    downscale: int,
    reading: DepthReading,
    scale: float = 1.0,
) -> dict[str, Any]:
    """The loaders of masks and depth maps that `Views` takes, for those that frames of a JSON format name; none where
    they name none. `commons`: of each frame, what its file says for all. `scale`: scene units per unit of the capture.

    Depth is measured along the camera's axis, or where the file says `depth_kind` "euclidean", along the ray. Its unit
    is `depth_unit_scale_factor` (nerfstudio) or `integer_depth_scale` (instant-ngp), or there are
    `depth_scaling_factor` of the numbers to one unit (Dense Depth Priors).

    Raises:
        LumigraphError: a file that is named is not there.
    """
    sizes = [frame.intrinsics.size for frame in frames]
    masks = [_named_file(frame, folder, ("mask_path",)) for frame in frames]
    depths = [_named_file(frame, folder, ("depth_file_path", "depth_path")) for frame in frames]

    def load_mask(index: int) -> Bool[np.ndarray, "h w"] | None:
        path = masks[index]
        return None if path is None else read_mask(path, sizes[index], downscale)

    loaders: dict[str, Any] = {"load_mask": load_mask} if any(masks) else {}
    if any(depths):
        meanings = [DepthMeaning.of_file(reading, common) for common in commons]
        loaders["load_depth"] = depth_loader(depths, cameras, meanings, downscale, scale)
    return loaders


def _unit(common: Fields) -> float:
    count = common.optional("depth_scaling_factor", 1.0 / MILLIMETRES, positive=True)
    unit = common.optional("integer_depth_scale", 1.0 / count, positive=True)
    return common.optional("depth_unit_scale_factor", unit, positive=True)


def _along_rays(common: Fields) -> bool:
    kind = common.text("depth_kind") if "depth_kind" in common else "z"
    if kind not in ("z", "euclidean"):
        raise common.wrong("depth_kind", '"z" (along the camera\'s axis) or "euclidean" (along the ray)')
    return kind == "euclidean"


def attribute_masks_beside(frames: Sequence[Frame], cameras: Cameras, downscale: int) -> dict[str, Any]:
    """The loader of masks of attributes for `Views`, when there are any: NAME_attribute_K.png beside NAME.png, the
    share of each pixel that attribute K moves, 255 for all of it; NaN where a file is missing."""
    count = 0 if cameras.attributes is None else cameras.attributes.shape[1]
    folders = {folder: listing(folder) for folder in {frame.path.parent for frame in frames}} if count else {}

    def files(index: int) -> list[Path | None]:
        image = frames[index].path
        names = [f"{image.stem}_attribute_{number}.png" for number in range(count)]
        return [image.with_name(name) if name in folders[image.parent] else None for name in names]

    def load(index: int) -> Float[np.ndarray, "h w A"]:
        size = frames[index].intrinsics.size
        return np.stack([_shares(path, size, downscale) for path in files(index)], axis=-1)

    there = [index for index in range(len(frames)) if count and any(files(index))]
    return {"load_attribute_masks": load, "with_attribute_masks": there} if there else {}


def _shares(path: Path | None, size: tuple[int, int], downscale: int) -> Float[np.ndarray, "h w"]:
    if path is None:
        return np.full((size[1] // downscale, size[0] // downscale), np.nan, np.float32)
    values = decode_values(path)
    if values.shape[::-1] != size or values.max() > 255:
        raise LumigraphError(
            f"the mask of an attribute is {values.shape[1]}x{values.shape[0]}, its image {size[0]}x{size[1]}"
            if values.shape[::-1] != size
            else "the mask of an attribute has more than 8 bits",
            where=path,
            todo="Save it at the size of the image, with 8 bits",
        )
    return reduce_shares(values[..., None] / np.float32(255), downscale)[..., 0]


def _named_file(frame: Frame, folder: Path, keys: Sequence[str]) -> Path | None:
    """The file that a frame names under the first of `keys` it has; it must exist."""
    for key in keys:
        if key not in frame.fields:
            continue
        name, where = frame.fields.text(key), f"{frame.fields.where}, {key}"
        try:
            path = inside(folder, name)
        except LumigraphError as error:
            raise LumigraphError(error.what, where=where, todo=error.todo) from error
        if not path.is_file():
            raise LumigraphError(
                f"there is no file {name[:200]!r}", where=where, todo="Add it or remove the key"
            )
        return path
    return None
