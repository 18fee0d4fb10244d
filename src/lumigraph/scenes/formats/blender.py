"""Blender's format: `transforms_{train,val,test}.json` beside RGBA images (NeRF-synthetic, D-NeRF).

Each file has `camera_angle_x` and frames with `file_path` (often without extension) and a `transform_matrix` (camera
to world, OpenGL axes); optionally `time` in [0, 1] and `attributes` in [-1, 1] (null where unknown) per frame. Where
one file has times and another has none, frames of that are evenly spread from 0 to 1, in the order of the file
(D-NeRF's reader). `transforms_render.json` and `transforms_video.json` are recorded paths: frames without images.
lumigraph also reads the intrinsics keys of `transforms.json`, for the file or for each frame, the masks, depth maps and
maps of normals that its frames may name or have beside them, `attribute_names` and masks NAME_attribute_K.png, and
`near`, `far` and `aabb` ([[x, y, z], [x, y, z]]) for scenes of other extents. Opaque photos without `aabb` show an
unbounded scene, as with `transforms.json`, unless their cameras stand where NeRF-synthetic's do.
"""

import logging
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from lumigraph.errors import LumigraphError
from lumigraph.files import read_json
from lumigraph.geometry.bounds import Bounds
from lumigraph.geometry.cameras import Cameras, concatenate, finest_of_each
from lumigraph.geometry.conventions import split_similarity
from lumigraph.scenes.depth_reading import DepthReading
from lumigraph.scenes.formats.decoding import decode_image, decode_values
from lumigraph.scenes.formats.fields import Fields
from lumigraph.scenes.formats.frames import (
    MAX_FRAMES,
    Frame,
    FrameFile,
    attribute_names,
    check_downscale,
    check_enough,
    listing,
    make_cameras,
    make_views,
    natural_order,
    read_frame_file,
    uses_alpha,
    warn_of_missing,
)
from lumigraph.scenes.formats.intrinsics import FOCAL_KEYS, Intrinsics, read_intrinsics
from lumigraph.scenes.formats.maps import (
    DepthMeaning,
    NormalFile,
    attribute_masks_beside,
    depth_loader,
    named_maps,
    named_normals,
    normal_loader,
    ray_lengths,
    within,
)
from lumigraph.scenes.formats.pictures import reduce_depth
from lumigraph.scenes.placing import Place, capture_place, object_region, read_box
from lumigraph.scenes.scene import SPLITS, Background, Scene, SceneInfo
from lumigraph.scenes.splits import SplitOptions, divide
from lumigraph.scenes.stored_arrays import MemoryBudget

log = logging.getLogger("lumigraph")

# The layout of NeRF-synthetic: cameras about 4 from the origin, the object within 1.5, so that it lies in [2, 6].
NEAR, FAR, HALF_EXTENT = 2.0, 6.0, 1.5
_CAMERA_DISTANCES = (3.0, 5.0)
# NeRF-synthetic's depth maps: 255 at the camera, 0 at this distance along the ray.
_DEPTH_RANGE = 8.0
_NEAREST = 0.1
"""Sensors of rooms measure nothing nearer."""
_RECORDED = {"render": "transforms_render.json", "video": "transforms_video.json"}
"""What recorded paths are called, and their files (D-NeRF's, and that of rooms with depth)."""


def is_blender(folder: Path) -> bool:
    """Whether the folder has the file that this reader starts from."""
    return (folder / "transforms_train.json").is_file()


def read(
    folder: Path, downscale: int, splits: SplitOptions, background: Background | None, reading: DepthReading
) -> Scene:
    """Reads a Blender scene. Scene units are the file's, except where photos show more than an object (`placed`).

    Raises:
        LumigraphError: anything in the files that cannot be used; says which file, frame and field.
    """
    files = [
        read_frame_file(path) for split in SPLITS if (path := folder / f"transforms_{split}.json").is_file()
    ]
    files = _with_times(files)
    missing = [name for file in files for name in file.missing]
    frames = {file.path: sorted(file.frames, key=lambda frame: natural_order(frame.name)) for file in files}
    everything = [frame for file in files for frame in frames[file.path]]
    warn_of_missing(missing, len(missing) + len(everything), folder)
    check_enough(len(frames[files[0].path]), len(files[0].missing), files[0].path)
    check_downscale(everything, downscale)
    alpha = uses_alpha(everything, thorough=background is not None)
    # By the training frames alone: what is added to other splits later must not move the scene.
    place = placed(files[0].common, frames[files[0].path], alpha)
    scale, _, _ = split_similarity(place.transform)
    parts, first = [], 0
    for file in files:
        if frames[file.path]:
            # Near and far are given in scene units, but a file's own are in its units: all are transformed alike.
            planes = _planes(file.common, place.near / scale, place.far / scale)
            parts.append(make_cameras(frames[file.path], *planes, first_id=first))
            first += len(frames[file.path])
    cameras = _joined(parts, folder).transformed(place.transform)
    times = None if cameras.times is None else cameras.times.tolist()
    chosen = _chosen(files, frames, splits, folder, times)
    commons = [file.common for file in files for _ in frames[file.path]]
    views, memory = {}, MemoryBudget()
    for split, places in chosen.items():
        kept, lenses = [everything[place] for place in places], cameras[torch.tensor(places)]
        told = [commons[i] for i in places]
        maps = named_maps(kept, told, lenses, folder, downscale, reading, scale)
        if "load_depth" not in maps:
            maps |= _depth_maps_beside(kept, lenses, downscale, reading, scale)
        if "load_depth" not in maps:
            maps |= _target_depths(kept, told, lenses, folder, downscale, reading, scale)
        maps |= attribute_masks_beside(kept, lenses, downscale)
        normals = [
            named or beside
            for named, beside in zip(named_normals(kept, told, folder), _normals_beside(kept), strict=True)
        ]
        maps |= normal_loader(normals, lenses, place.transform, downscale)
        views[split] = make_views(kept, lenses, alpha, downscale, maps, memory)
    info = SceneInfo(
        name=folder.name,
        source=str(folder),
        format="blender",
        downscale=downscale,
        cameras={split: part.cameras for split, part in views.items()},
        bounds=place.bounds,
        background=(background or "white") if alpha else "opaque",
        world_transform=place.transform,
        splits=splits,
        depths=reading,
        attributes=attribute_names(files[0].common, cameras),
    )
    return Scene(info, views, missing)


def path_names(folder: Path) -> list[str]:
    """The names of the recorded camera paths of a scene: `render` and `video`, where it has their files."""
    return [name for name, file in _RECORDED.items() if (folder / file).is_file()]


def recorded_path(folder: Path, name: str, info: SceneInfo) -> Cameras:
    """The cameras of the path `name`, one of `path_names`, in scene units, with the size, near and far of the first
    training camera and, unless the file says otherwise, its lens. Where that has a time, these have their own, or pass
    evenly through the time of the capture (D-NeRF's reader).

    Raises:
        LumigraphError: something in the file cannot be used.
    """
    path, template = folder / _RECORDED[name], finest_of_each(info.cameras["train"])[0]
    common = Fields.of(read_json(path), str(path))
    entries = common.items("frames", MAX_FRAMES)
    if not entries:
        raise LumigraphError("'frames' is an empty list", where=path, todo="Add poses, or remove the file")
    fields = [Fields.of(entry, f"{path}, frame {number}") for number, entry in enumerate(entries)]
    frames = [
        Frame(
            frame,
            frame.where,
            path,
            frame.pose("transform_matrix"),
            _lens(frame, common, template, info.downscale),
            False,
        )
        for frame in fields
    ]
    scale, _, _ = split_similarity(info.world_transform)
    cameras = make_cameras(frames, float(template.near) / scale, float(template.far) / scale)
    cameras = cameras.transformed(info.world_transform).downscale(info.downscale)
    times = None
    if template.times is not None:
        times = torch.linspace(0, 1, len(frames)) if cameras.times is None else cameras.times
    return replace(cameras, times=times, attributes=None, ids=torch.full_like(cameras.ids, -1))


def _lens(frame: Fields, common: Fields, template: Cameras, downscale: int) -> Intrinsics:
    """The lens of a camera without an image, at the photos' full size: what the file says of it, or that of the
    template, which is `downscale` times smaller."""
    width, height = (downscale * side for side in template.size[0].tolist())
    if any(key in fields for fields in (frame, common) for key in FOCAL_KEYS):
        return read_intrinsics(frame, common, (width, height))
    fx, fy = (downscale * value for value in template.focal[0].tolist())
    cx, cy = (downscale * value for value in template.principal[0].tolist())
    distortion = tuple(template.distortion[0].tolist())
    return Intrinsics((width, height), (fx, fy), (cx, cy), distortion, template.fisheye)


def _with_times(files: Sequence[FrameFile]) -> list[FrameFile]:
    """The files with times for all frames of those that have none, if another file has times."""
    timed = [any("time" in frame.fields for frame in file.frames) for file in files]
    return [
        file if has or not any(timed) else _evenly_timed(file) for file, has in zip(files, timed, strict=True)
    ]


def _evenly_timed(file: FrameFile) -> FrameFile:
    last = max(len(file.frames) + len(file.missing) - 1, 1)
    log.warning(
        "its frames have no 'time': they are taken to be evenly spread from 0 to 1 (in %s)", file.path
    )
    frames = [
        replace(
            frame, fields=replace(frame.fields, members={**frame.fields.members, "time": frame.number / last})
        )
        for frame in file.frames
    ]
    return replace(file, frames=frames)


def _planes(common: Fields, near: float, far: float) -> tuple[float, float]:
    return float(common.optional("near", near)), float(common.optional("far", far))


def _joined(parts: Sequence[Cameras], folder: Path) -> Cameras:
    try:
        return concatenate(parts)
    except LumigraphError as error:
        raise LumigraphError(
            "the splits differ: in their kind of lens, or in having 'time' or 'attributes'",
            where=folder,
            todo="Give the frames of all splits the same keys, or remove a split",
        ) from error


def _chosen(
    files: Sequence[FrameFile],
    frames: dict[Path, list[Frame]],
    splits: SplitOptions,
    folder: Path,
    times: Sequence[float] | None,
) -> dict[str, list[int]]:
    """Places of each split's frames in the list of all frames."""
    listed, names = {}, []
    for file in files:
        # A name may occur in two splits; with its file in front it is unique.
        own = [f"{file.path.name}/{frame.name}" for frame in frames[file.path]]
        listed[file.path.stem.removeprefix("transforms_")] = own
        names += own
    positions = [frame.pose[:, 3].tolist() for file in files for frame in frames[file.path]]
    return divide(names, splits, listed, str(folder), positions, times)


def placed(common: Fields, frames: Sequence[Frame], alpha: bool) -> Place:
    """Where the scene is: as the file says, as NeRF-synthetic has it, or as the cameras tell. Opaque photos from other
    places than NeRF-synthetic's show a room, or whatever is behind an object: these are unbounded, of unit size."""
    box = read_box(common)
    same = torch.eye(4, dtype=torch.float64)
    distances = np.linalg.norm([frame.pose[:, 3] for frame in frames], axis=1)
    if _CAMERA_DISTANCES[0] <= distances.min() and distances.max() <= _CAMERA_DISTANCES[1]:
        corner = torch.full((3,), HALF_EXTENT)
        return Place(same, NEAR, FAR, box or Bounds(-corner, corner))
    cameras = make_cameras(frames, 1e-3, 1e6)
    if box is None and not alpha:
        return capture_place(cameras)
    region = object_region(cameras)
    return Place(same, region.near, region.far, box or region.bounds)


def _depth_maps_beside(
    frames: Sequence[Frame], cameras: Cameras, downscale: int, reading: DepthReading, scale: float
) -> dict[str, Any]:
    """The loader of depth maps for `Views`, when there are any beside NAME.png: NAME_depth_0001.png (NeRF-synthetic's
    distances), or NAME_depth.npy or NAME_depth_0001.exr (z-depth unless `reading` says otherwise)."""
    found: dict[Path, str] = {}
    for folder in {frame.path.parent for frame in frames}:
        for name in sorted(listing(folder)):
            match = re.fullmatch(r"(.+)_depth(?:_\d+\.png|\.npy|(?:_\d+)?\.exr)", name)
            if match:
                found.setdefault(folder / match[1], name)
    paths = [
        frame.path.with_name(found[key]) if (key := frame.path.with_suffix("")) in found else None
        for frame in frames
    ]
    return (
        {"load_depth": _depth_loader(frames, cameras, paths, downscale, reading, scale)} if any(paths) else {}
    )


def _target_depths(
    frames: Sequence[Frame],
    commons: Sequence[Fields],
    cameras: Cameras,
    folder: Path,
    downscale: int,
    reading: DepthReading,
    scale: float,
) -> dict[str, Any]:
    """The loader of depth maps for `Views`, when there are any in a folder `target_depth` beside the photos' `rgb`,
    NAME.png for each (rooms as Dense Depth Priors lays them out): millimetres along the camera's axis, unless the file
    of the frames or `reading` says otherwise, and unknown nearer than 0.1 or beyond the `max_depth` of the scene's
    config.json. `commons`: of each frame, what its file says for all."""
    paths = []
    for frame in frames:
        path = frame.path.parent.with_name("target_depth") / f"{frame.path.stem}.png"
        paths.append(path if frame.path.parent.name == "rgb" and path.is_file() else None)
    if not any(paths):
        return {}
    meanings = [DepthMeaning.of_file(reading, common) for common in commons]
    if reading.depth_range is None:
        config = folder / "config.json"
        told = Fields.of(read_json(config) if config.is_file() else {}, str(config))
        most = told.optional("max_depth", math.inf, positive=True)
        meanings = [replace(meaning, limits=(_NEAREST, most)) for meaning in meanings]
    return {"load_depth": depth_loader(paths, cameras, meanings, downscale, scale)}


def _normals_beside(frames: Sequence[Frame]) -> list[NormalFile | None]:
    """Maps of normals beside NAME.png, in the axes of the poses: NAME_normal_0001.png or NAME_normal.png, whose levels
    stand for -1 to 1 (NeRF-synthetic's, multinerf's), NAME_normal_0001.exr or NAME_normal.npy; or NAME_normal.png in a
    folder `omni` beside the photos' `rgb`, in the axes of the camera (Omnidata)."""
    found: dict[Path, NormalFile] = {}
    parents = {frame.path.parent for frame in frames}
    for folder in parents:
        for name in sorted(listing(folder)):
            match = re.fullmatch(r"(.+)_normal(?:(?:_\d+)?\.(?:png|exr)|\.npy)", name)
            if match:
                found.setdefault(folder / match[1], NormalFile(folder / name, "world"))
        omni = folder.with_name("omni")
        if folder.name == "rgb" and omni.is_dir():
            for name in sorted(listing(omni)):
                if name.endswith("_normal.png"):
                    key = folder / name.removesuffix("_normal.png")
                    found.setdefault(key, NormalFile(omni / name, "opencv"))
    return [found.get(frame.path.with_suffix("")) for frame in frames]


def _depth_loader(
    frames: Sequence[Frame],
    cameras: Cameras,
    paths: Sequence[Path | None],
    downscale: int,
    reading: DepthReading,
    scale: float,
) -> Callable[[int], Float[np.ndarray, "h w"] | None]:
    for path in paths:
        if path is not None and path.suffix == ".png" and (reading.depth_unit or reading.depth_kind):
            raise LumigraphError(
                "--depth-unit and --depth-kind have no effect: NAME_depth_0001.png holds distances of 0 to 8",
                where=path,
                todo="Leave them out",
            )
    meanings = [DepthMeaning.told(reading, 1.0)] * len(frames)
    load_array = depth_loader(paths, cameras, meanings, downscale, scale)

    def load_depth(index: int) -> Float[np.ndarray, "h w"] | None:
        path = paths[index]
        if path is None:
            return None
        if path.suffix != ".png":
            return load_array(index)
        values, image = decode_values(path), decode_image(frames[index].path)
        if values.shape != image.shape[:2]:
            raise LumigraphError(
                f"the depth map is {values.shape[1]}x{values.shape[0]}, its image {image.shape[1]}x{image.shape[0]}",
                where=path,
                todo="Render the depth map at the size of the image",
            )
        distance = _DEPTH_RANGE * (1.0 - values / 255.0)
        # The map holds the distance along the unit ray; z-depth is that over the length of the ray of unit depth.
        depth = distance / ray_lengths(cameras, index)
        if image.shape[2] == 4:
            depth = np.where(image[..., 3] == 255, depth, np.nan)
        return reduce_depth(
            np.float32(scale) * within(depth.astype(np.float32), reading.depth_range), downscale
        )

    return load_depth
