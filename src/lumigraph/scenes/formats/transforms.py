"""`transforms.json` as instant-ngp and nerfstudio write it.

Poses are camera to world with OpenGL axes. Intrinsics stand in the file or in each frame. Photos are unbounded: the
scene is turned upright and brought to unit size about what the cameras look at. Images with transparency show an
object: its bounds are the file's (`aabb`, or instant-ngp's `aabb_scale`, `scale`, `offset`) or follow from the cameras.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from lumigraph.errors import LumigraphError
from lumigraph.geometry.bounds import NGP_OFFSET, NGP_SCALE, Bounds, ngp_bounds
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.conventions import similarity, split_similarity
from lumigraph.scenes.depth_reading import DepthReading
from lumigraph.scenes.formats.fields import Fields
from lumigraph.scenes.formats.frames import (
    MAX_FRAMES,
    Frame,
    FrameFile,
    attribute_names,
    check_downscale,
    check_enough,
    make_cameras,
    make_views,
    natural_order,
    read_frame_file,
    uses_alpha,
    warn_of_missing,
)
from lumigraph.scenes.formats.maps import (
    attribute_masks_beside,
    named_maps,
    named_normals,
    normal_loader,
)
from lumigraph.scenes.placing import (
    CAPTURE_FAR,
    CAPTURE_NEAR,
    Place,
    capture_place,
    object_region,
    read_box,
    unit_transform,
)
from lumigraph.scenes.scene import SPLITS, Background, Scene, SceneInfo
from lumigraph.scenes.splits import SplitOptions, divide
from lumigraph.scenes.stored_arrays import MemoryBudget

NAME = "transforms.json"


def is_transforms(folder: Path) -> bool:
    """Whether the folder has the file that this reader starts from."""
    return (folder / NAME).is_file()


def read(
    folder: Path, downscale: int, splits: SplitOptions, background: Background | None, reading: DepthReading
) -> Scene:
    """Reads a scene described by `transforms.json`.

    The world transform leads from the units of the original capture (before `applied_transform` and
    `applied_scale`, where the file has them) to scene units.

    Raises:
        LumigraphError: anything in the files that cannot be used; says which file, frame and field.
    """
    file = read_frame_file(folder / NAME)
    frames = sorted(file.frames, key=lambda frame: natural_order(frame.name))
    warn_of_missing(file.missing, len(file.missing) + len(frames), file.path)
    check_enough(len(frames), len(file.missing), file.path)
    check_downscale(frames, downscale)
    alpha = uses_alpha(frames, thorough=background is not None)
    place = _place(file, make_cameras(frames, CAPTURE_NEAR, CAPTURE_FAR), alpha)
    scale, _, _ = split_similarity(place.transform)
    # Near and far are given in scene units here, but a file's own are in file units: all pass through `transformed`.
    cameras = make_cameras(frames, *_planes(file.common, place.near / scale, place.far / scale))
    cameras = cameras.transformed(place.transform)
    world_transform = place.transform @ _applied(file.common)
    capture_scale, _, _ = split_similarity(world_transform)
    positions = [frame.pose[:, 3].tolist() for frame in frames]
    names = [frame.name for frame in frames]
    times = None if cameras.times is None else cameras.times.tolist()
    chosen = divide(names, splits, _listed(file, frames), str(file.path), positions, times)
    views, memory = {}, MemoryBudget()
    for split, places in chosen.items():
        kept = [frames[i] for i in places]
        lenses = cameras[torch.tensor(places)]
        commons = [file.common] * len(kept)
        maps = named_maps(kept, commons, lenses, folder, downscale, reading, capture_scale)
        maps |= attribute_masks_beside(kept, lenses, downscale)
        normals = named_normals(kept, commons, folder)
        maps |= normal_loader(normals, lenses, place.transform, downscale)
        views[split] = make_views(kept, lenses, alpha, downscale, maps, memory)
    info = SceneInfo(
        name=folder.name,
        source=str(folder),
        format="transforms",
        downscale=downscale,
        cameras={split: part.cameras for split, part in views.items()},
        bounds=place.bounds,
        background=(background or "white") if alpha else "opaque",
        world_transform=world_transform,
        splits=splits,
        depths=reading,
        attributes=attribute_names(file.common, cameras),
    )
    return Scene(info, views, file.missing)


def _planes(common: Fields, near: float, far: float) -> tuple[float, float]:
    return float(common.optional("near", near)), float(common.optional("far", far))


def _place(file: FrameFile, cameras: Cameras, alpha: bool) -> Place:
    box = read_box(file.common)
    core = box or _ngp_cube(file.common)
    if core is not None:
        half = float(core.half_extent.max())
        transform = similarity(1.0 / half, translation=-core.centre.double() / half)
        corner = (core.half_extent / half).float()
    else:
        transform = unit_transform(cameras)
        corner = torch.ones(3)
    if box is None and not alpha:
        return capture_place(cameras, transform)
    region = object_region(cameras.transformed(transform))
    if core is None:
        return Place(transform, region.near, region.far, region.bounds)
    away = cameras.transformed(transform).positions.norm(dim=1)
    reach = float(corner.norm())
    near, far = max(float(away.min()) - reach, 0.05 * float(away.min()), 1e-3), float(away.max()) + reach
    return Place(transform, near, far, Bounds(-corner, corner))


def _ngp_cube(common: Fields) -> Bounds | None:
    """The cube that instant-ngp's keys describe, in file units (see `ngp_bounds`).

    `aabb_scale` alone says how far the background reaches, which contraction covers; scale or offset say where the
    scene is.
    """
    if "scale" not in common and "offset" not in common:
        return None
    scale = common.optional("scale", NGP_SCALE, positive=True)
    offset = common.numbers("offset", 3) if "offset" in common else NGP_OFFSET
    if len(offset) != 3:
        raise common.wrong("offset", "three numbers")
    return ngp_bounds(common.optional("aabb_scale", 1.0, positive=True), scale, offset)


def _applied(common: Fields) -> Float[Tensor, "4 4"]:
    """What was done to the capture before it was written: `applied_scale` after `applied_transform`."""
    matrix = similarity()
    if "applied_transform" in common:
        rows = len(common.items("applied_transform", 4))
        matrix[:3] = torch.from_numpy(common.matrix("applied_transform", 4 if rows == 4 else 3, 4))[:3]
    applied = similarity(common.optional("applied_scale", 1.0, positive=True)) @ matrix
    try:
        split_similarity(applied)
    except LumigraphError as error:
        raise LumigraphError(
            "'applied_transform' is not a rotation with one scale and a shift",
            where=common.where,
            todo="Correct it or remove it from the file",
        ) from error
    return applied


def _listed(file: FrameFile, frames: Sequence[Frame]) -> dict[str, list[str]] | None:
    """The image names of each split, where the file has `train_filenames`, `val_filenames` or `test_filenames`."""
    keys = {split: f"{split}_filenames" for split in SPLITS if f"{split}_filenames" in file.common}
    if not keys:
        return None
    by_entry = {_plain(frame.fields.text("file_path")): frame.name for frame in frames}
    known = by_entry.keys() | {_plain(name) for name in file.missing}
    listed: dict[str, list[str]] = {}
    for split, key in keys.items():
        entries = [_plain(entry) for entry in file.common.texts(key, MAX_FRAMES)]
        for entry in entries:
            if entry not in known:
                raise LumigraphError(
                    f"'{key}' names {entry[:200]!r}, which is no frame",
                    where=file.path,
                    todo=f"Correct '{key}'",
                )
        listed[split] = [by_entry[entry] for entry in entries if entry in by_entry]
    _check_disjoint(listed, file.path)
    if "train" not in listed:
        held_out = {name for names in listed.values() for name in names}
        listed["train"] = [frame.name for frame in frames if frame.name not in held_out]
    return listed


def _check_disjoint(listed: Mapping[str, Sequence[str]], where: Path) -> None:
    """Raises LumigraphError when an image is in two splits: what trains must not judge."""
    first: dict[str, str] = {}
    for split, names in listed.items():
        for name in names:
            if first.setdefault(name, split) != split:
                raise LumigraphError(
                    f"'{first[name]}_filenames' and '{split}_filenames' both name {name!r}",
                    where=where,
                    todo="Keep it in one of the two, or choose another --split, such as every",
                )


def _plain(name: str) -> str:
    return name.replace("\\", "/").removeprefix("./")
