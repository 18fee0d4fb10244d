"""Pseudo views and photos written as published ray files, for programs that read these."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from lumigraph.distillation.ray_table import (
    ATTRIBUTE,
    COLUMNS,
    KIND,
    MANIFEST,
    MASK,
    RAY,
    RGB,
    Layout,
    Table,
    attribute_names,
)
from lumigraph.distillation.shard_source import draws
from lumigraph.distillation.shards import Plan, Shards
from lumigraph.errors import LumigraphError
from lumigraph.files import io_errors, new_folder, require_replaceable, write_json
from lumigraph.geometry.cameras import Cameras, concatenate
from lumigraph.geometry.conventions import transform_rays
from lumigraph.rendering.background import as_rgba, display_target
from lumigraph.scenes.scene import Scene, SceneInfo, Views

RAYS_PER_FILE = 4096
_WRITTEN = re.compile(r"(data|train)_[1-9]\d*\.npy")
_HEADER, _ROW = 128, RAYS_PER_FILE * 4
"""Bytes of numpy's header, and of one column, of every file that is written."""
_GROUP = 100
"""Views that are shuffled together, as in the published generator: all of them need not fit into memory."""


@dataclass(frozen=True)
class _Pictures:
    """What is to be written. Of each view `colours` gives [H, W, 3] in 0..1, `masks` the share of each pixel that each
    attribute moves [H, W, A], NaN where unknown, and `used` which pixels are written [H, W], None for all."""

    cameras: Cameras
    info: SceneInfo
    colours: Callable[[int], np.ndarray]
    masks: Callable[[int], np.ndarray]
    used: Callable[[int], np.ndarray | None]


def export_legacy(
    shards: Shards, folder: Path, *, seed: int = 0, overwrite: bool = False, layout: Layout | None = None
) -> int:
    """Writes pseudo views as `data_1.npy`, `data_2.npy`, ..., float32, and a manifest; returns the number of files.

    Rays of 100 views at a time are shuffled and cut into files of 4096; what is left over goes on into the next
    group, and what is left at the very end is dropped.

    Raises:
        LumigraphError: see `check_legacy_folder` and `table_of`; or the views have too few rays for one file.
    """
    table = table_of(shards.plan, layout, shards.folder)

    def colours(view: int) -> np.ndarray:
        return np.asarray(shards.image(view)).astype(np.float32) / (2**shards.plan.bits - 1)

    def masks(view: int) -> np.ndarray:
        return np.asarray(shards.mask_image(view)).astype(np.float32) / 255

    pictures = _Pictures(shards.cameras, shards.plan.info, colours, masks, lambda view: None)
    return _write(folder, "data", table, pictures, seed, overwrite, str(shards.folder))


def export_photos(
    scene: Scene,
    splits: Sequence[str],
    folder: Path,
    *,
    seed: int = 0,
    overwrite: bool = False,
    layout: Layout | None = None,
) -> int:
    """Writes the photos of some splits alike, as `train_1.npy`, ...: by this name the published loaders know rays of
    photos. Photos lie on the scene's display background, pixels outside their masks are left out, lens distortion is
    in the rays; of attributes and masks that nobody has said, NaN is written. Returns the number of files.

    Raises:
        LumigraphError: the scene has no such split, and as `export_legacy`.
    """
    check_legacy_folder(folder, overwrite)
    parts = [scene.split(split) for split in splits]
    places = [(part, index) for part in parts for index in range(len(part))]
    cameras = concatenate([part.cameras for part in parts])
    masked = any(part.has_attribute_masks for part in parts)
    table = _table_of(cameras, scene.info, masked, layout, scene.info.source)

    def colours(view: int) -> np.ndarray:
        part, index = places[view]
        return display_target(as_rgba(part.image(index)), scene.info.background).numpy()

    def masks(view: int) -> np.ndarray:
        part, index = places[view]
        return _attribute_masks(part, index)

    def used(view: int) -> np.ndarray | None:
        part, index = places[view]
        mask = part.mask(index)
        return None if mask is None else mask.numpy()

    pictures = _Pictures(cameras, scene.info, colours, masks, used)
    return _write(folder, "train", table, pictures, seed, overwrite, scene.info.source)


def _attribute_masks(views: Views, index: int) -> np.ndarray:
    found = views.attribute_masks(index)
    if found is None:
        assert views.cameras.attributes is not None
        width, height = views.cameras.size[index].tolist()
        found = torch.full((height, width, views.cameras.attributes.shape[1]), torch.nan)
    return found.numpy()


# ------------------------------------------------------------------ what is checked first


def check_export(plan: Plan, folder: Path, overwrite: bool, layout: Layout | None, where: Path) -> None:
    """Raises what `export_legacy` would raise of the views of a plan, before they are made; `where` names what makes
    them."""
    check_legacy_folder(folder, overwrite)
    table_of(plan, layout, where)
    width, height = plan.size
    _check_enough(len(plan.cameras) * width * height, str(where))


def check_legacy_folder(folder: Path, overwrite: bool) -> None:
    """Raises `LumigraphError` when ray files may not be put into `folder`: it is not empty and `overwrite` is false,
    or it holds anything but files such as are written here."""
    require_replaceable(folder, overwrite)
    with io_errors(folder):
        foreign = [path.name for path in folder.iterdir() if not _is_ours(path)] if folder.is_dir() else []
    if foreign:
        raise LumigraphError(
            f"there is something here that is no ray file of ours: {min(foreign)}",
            where=folder,
            todo="Choose another folder for ray files, or remove this one yourself",
        )


def _is_ours(path: Path) -> bool:
    if not path.is_file() or path.is_symlink():
        return False
    if path.name == MANIFEST:
        return f'"{KIND}"'.encode() in path.read_bytes()[:4096]
    columns, over = divmod(path.stat().st_size - _HEADER, _ROW)
    return bool(_WRITTEN.fullmatch(path.name)) and over == 0 and columns >= len(COLUMNS["r2l"])


def table_of(plan: Plan, layout: Layout | None, where: Path) -> Table:
    """How pseudo views are written: in `layout`, or in that which fits what they have.

    Raises:
        LumigraphError: the views lack what the layout holds.
    """
    return _table_of(plan.cameras, plan.info, bool(plan.masks), layout, str(where))


def _table_of(cameras: Cameras, info: SceneInfo, masks: bool, layout: Layout | None, where: str) -> Table:
    # What views were asked for with may be more than what they tell: attributes that nobody knows of.
    told = info.cameras["train"].attributes is not None
    if not told:
        cameras = replace(cameras, attributes=None)
    if layout is None:
        layout = "codylin" if told else "r2l" if cameras.times is None else "dylin"
    needs = {"dylin": "times", "dylin-hypernerf": "times", "codylin": "attributes"}.get(layout)
    if needs is not None and getattr(cameras, needs) is None:
        raise LumigraphError(
            f"the views have no {needs}, which layout {layout} holds",
            where=where,
            todo="Choose a layout of what they have, or leave it out",
        )
    if layout != "codylin":
        return Table(layout, COLUMNS[layout])
    attributes, shares = ([start + name for name in attribute_names(info)] for start in (ATTRIBUTE, MASK))
    time = ["t"] * (cameras.times is not None)
    return Table(layout, (*RAY, *time, *attributes, *RGB, *(shares if masks else [])))


def _check_enough(rays: int, where: str) -> None:
    if rays < RAYS_PER_FILE:
        raise LumigraphError(
            f"the views have fewer than {RAYS_PER_FILE} rays, which is one file",
            where=where,
            todo="Take more views, or larger ones",
        )


# ------------------------------------------------------------------ writing


def _write(
    folder: Path, name: str, table: Table, pictures: _Pictures, seed: int, overwrite: bool, where: str
) -> int:
    check_legacy_folder(folder, overwrite)
    columns, views = len(table.columns), len(pictures.cameras)
    files, rest = 0, np.empty((0, columns), np.float32)
    with new_folder(folder, overwrite) as temporary:
        write_json(temporary / MANIFEST, table.to_json())
        for first in range(0, views, _GROUP):
            group = range(first, min(first + _GROUP, views))
            rows = np.concatenate([rest, *(_rows_of_view(pictures, view, table) for view in group)])
            draws(seed, first).shuffle(rows)
            whole = len(rows) // RAYS_PER_FILE
            for part in rows[: whole * RAYS_PER_FILE].reshape(whole, RAYS_PER_FILE, columns):
                files += 1
                with (temporary / f"{name}_{files}.npy").open("wb") as file:
                    np.save(file, part, allow_pickle=False)
            rest = rows[whole * RAYS_PER_FILE :]
        _check_enough(files * RAYS_PER_FILE, where)
    return files


def _rows_of_view(pictures: _Pictures, view: int, table: Table) -> np.ndarray:
    rays = pictures.cameras.view_rays(view).flatten()
    origins, directions = rays.origins, rays.view_directions
    if not table.unit_directions:
        origins, directions = transform_rays(pictures.info.to_capture, rays.origins, rays.directions)
    rows = np.empty((len(rays), len(table.columns)), np.float32)
    rows[:, table.places(*RAY)] = np.concatenate([origins.numpy(), directions.numpy()], 1)
    rows[:, table.places(*RGB)] = pictures.colours(view).reshape(-1, 3)
    if "t" in table.columns and rays.times is not None:
        rows[:, [column == "t" for column in table.columns]] = rays.times.numpy()[:, None]
    if table.places(ATTRIBUTE) and rays.attributes is not None:
        rows[:, table.places(ATTRIBUTE)] = rays.attributes.numpy()
    if table.places(MASK):
        rows[:, table.places(MASK)] = pictures.masks(view).reshape(len(rays), -1)
    used = pictures.used(view)
    return rows if used is None else rows[used.reshape(-1)]
