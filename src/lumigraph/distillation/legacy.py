"""The published ray files: float32 `.npy` arrays of 4096 rays each, one ray per row, shuffled.

| layout | columns |
|---|---|
| r2l | origin 3, direction 3, rgb 3 |
| r2l-depth | r2l, depth 1 |
| r2l-surface | r2l, surface point 3 |
| dylin | origin 3, direction 3, time repeated 3 times, rgb 3 |

Nine columns are always `r2l`. Ten are `r2l-depth` (DyLiN's ten columns exist in memory only), and twelve are
`r2l-surface` or `dylin`, which nothing in the file tells apart: they have to be named. Directions are not normalised;
origins are in the units of the capture, so both are taken through the scene's world transform.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from lumigraph.distillation.shard_source import draws
from lumigraph.distillation.shards import Shards
from lumigraph.errors import LumigraphError
from lumigraph.files import io_errors, new_folder, require_replaceable
from lumigraph.geometry.conventions import split_similarity, transform_rays
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.renderer import Batch
from lumigraph.scenes.scene import SceneInfo
from lumigraph.training.sources import RaySource

Layout = Literal["r2l", "r2l-depth", "r2l-surface", "dylin"]
COLUMNS: dict[str, int] = {"r2l": 9, "r2l-depth": 10, "r2l-surface": 12, "dylin": 12}
RAYS_PER_FILE = 4096
_WRITTEN = re.compile(r"data_[1-9]\d*\.npy")
_BYTES = 128 + RAYS_PER_FILE * 9 * 4
"""Size of every file that `export_legacy` writes: numpy's header and the rays."""
_GROUP = 100
"""Views that are shuffled together, as in the published generator: all of them need not fit into memory."""


def export_legacy(shards: Shards, folder: Path, *, seed: int = 0, overwrite: bool = False) -> int:
    """Writes pseudo views as `data_1.npy`, `data_2.npy`, ... in layout r2l; returns the number of files.

    Rays of 100 views at a time are shuffled and cut into files of 4096; what is left over goes on into the next
    group, and what is left at the very end is dropped.

    Raises:
        LumigraphError: see `check_legacy_folder`; or the views have too few rays for one file.
    """
    check_legacy_folder(folder, overwrite)
    files, rest = 0, np.empty((0, 9), np.float32)
    with new_folder(folder, overwrite) as temporary:
        for first in range(0, len(shards), _GROUP):
            rows = [_rows_of_view(shards, view) for view in range(first, min(first + _GROUP, len(shards)))]
            group = np.concatenate([rest, *rows])
            draws(seed, first).shuffle(group)
            whole = len(group) // RAYS_PER_FILE
            for part in group[: whole * RAYS_PER_FILE].reshape(whole, RAYS_PER_FILE, 9):
                files += 1
                with (temporary / f"data_{files}.npy").open("wb") as file:
                    np.save(file, part, allow_pickle=False)
            rest = group[whole * RAYS_PER_FILE :]
        if not files:
            raise LumigraphError(
                f"the views have fewer than {RAYS_PER_FILE} rays, which is one file",
                where=shards.folder,
                todo="Bake more views",
            )
    return files


def check_legacy_folder(folder: Path, overwrite: bool) -> None:
    """Raises `LumigraphError` when ray files may not be put into `folder`: it is not empty and `overwrite` is false,
    or it holds anything but files such as `export_legacy` writes."""
    require_replaceable(folder, overwrite)
    with io_errors(folder):
        foreign = [path.name for path in folder.iterdir() if not _is_ours(path)] if folder.is_dir() else []
    if foreign:
        raise LumigraphError(
            f"there is something here that `bake --legacy` has not written: {min(foreign)}",
            where=folder,
            todo="Choose another folder for --legacy, or remove this one yourself",
        )


def _is_ours(path: Path) -> bool:
    regular = path.is_file() and not path.is_symlink()
    return regular and bool(_WRITTEN.fullmatch(path.name)) and path.stat().st_size == _BYTES


def _rows_of_view(shards: Shards, view: int) -> np.ndarray:
    rays = shards.cameras.view_rays(view).flatten()
    origins, directions = transform_rays(shards.plan.info.to_capture, rays.origins, rays.directions)
    rgb = np.asarray(shards.image(view)).reshape(-1, 3).astype(np.float32) / (2**shards.plan.bits - 1)
    return np.concatenate([origins.numpy(), directions.numpy(), rgb], 1)


def legacy_files(folder: Path) -> list[Path]:
    """The ray files of a folder in the order of their numbers; none if it is not such a folder."""
    if not folder.is_dir():
        return []
    with io_errors(folder):
        found = [path for path in folder.glob("*.npy") if path.stem.rpartition("_")[2].isdecimal()]
    found = [path for path in found if path.stem.rpartition("_")[1]]
    return sorted(found, key=lambda path: (path.stem.rpartition("_")[0], int(path.stem.rpartition("_")[2])))


class LegacySource(RaySource):
    """Rays drawn uniformly from published ray files, mapped into memory.

    Near, far and the pixel radius are those of the scene's first training camera: the files have none.
    """

    def __init__(self, folder: Path, info: SceneInfo, seed: int, layout: Layout | None = None):
        """`layout` may be left out for nine columns. Raises `LumigraphError` for anything else it cannot tell."""
        paths = legacy_files(folder)
        if not paths:
            raise LumigraphError(
                "there are no ray files here", where=folder, todo="They are named data_1.npy, data_2.npy, ..."
            )
        self.info, self.seed = info, seed
        self._files = [_mapped(path) for path in paths]
        self.layout = _layout(self._files[0].shape[1], layout, paths[0])
        for path, rows in zip(paths, self._files, strict=True):
            if rows.shape[1] != COLUMNS[self.layout]:
                raise LumigraphError(
                    f"{rows.shape[1]} columns, and {COLUMNS[self.layout]} in the first file",
                    where=path,
                    todo="Keep files of one kind in a folder",
                )
        self._ends = np.cumsum([len(rows) for rows in self._files])
        self._template = info.cameras["train"][0:1]
        self._device = torch.device("cpu")

    def to(self, device: torch.device) -> "LegacySource":
        self._device = device
        return self

    def rows(self, number: np.ndarray) -> np.ndarray:
        """Rows [B, columns] of rays counted through all files, float32."""
        file = np.searchsorted(self._ends, number, side="right")
        out = np.empty((len(number), COLUMNS[self.layout]), np.float32)
        for one in np.unique(file).tolist():
            chosen = file == one
            start = self._ends[one] - len(self._files[one])
            out[chosen] = self._files[one][number[chosen] - start]
        return out

    def batch(self, step: int, rays: int) -> Batch:
        rows = torch.from_numpy(self.rows(draws(self.seed, step).integers(0, int(self._ends[-1]), size=rays)))
        batch = self.batch_of(rows)
        return replace(batch, rays=batch.rays.to(self._device), rgba=batch.rgba.to(self._device))

    def batch_of(self, rows: Tensor) -> Batch:
        """Rows of the files as rays in scene units with colours."""
        origins, directions = transform_rays(self.info.world_transform, rows[:, :3], rows[:, 3:6])
        count = len(rows)
        centre = self._template.principal.floor().long()
        radius = self._template.rays(torch.zeros(1, dtype=torch.int64), centre[:, 0], centre[:, 1]).radii
        rgb = rows[:, 9:12] if self.layout == "dylin" else rows[:, 6:9]
        return Batch(
            rays=Rays(
                origins=origins,
                directions=directions,
                radii=radius.expand(count),
                near=self._template.near.expand(count),
                far=self._template.far.expand(count),
                times=rows[:, 6] if self.layout == "dylin" else None,
                # No captured image's, as with pseudo views: photos, which have numbers, can be mixed in.
                camera_ids=torch.full((count,), -1),
            ),
            rgba=torch.nn.functional.pad(rgb.clamp(0, 1), (0, 1), value=1.0),
            depth=self._depth(rows),
        )

    def _depth(self, rows: Tensor) -> Tensor | None:
        scale, _, _ = split_similarity(self.info.world_transform)
        if self.layout == "r2l-depth":
            return rows[:, 9] * scale
        if self.layout == "r2l-surface":
            # surface = o + depth d
            along = ((rows[:, 9:12] - rows[:, :3]) * rows[:, 3:6]).sum(1)
            return scale * along / rows[:, 3:6].square().sum(1)
        return None


def _mapped(path: Path) -> np.ndarray:
    with io_errors(path):
        try:
            rows = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise LumigraphError(
                f"the ray file is damaged: {error}", where=path, todo="Remove it, or copy it again"
            ) from error
    if rows.ndim != 2 or rows.dtype not in (np.float32, np.float64) or len(rows) == 0:
        raise LumigraphError(
            f"a ray file is a table of floats, this is {rows.shape} {rows.dtype}",
            where=path,
            todo="Remove it from the folder",
        )
    return rows


def _layout(columns: int, given: Layout | None, where: Path) -> Layout:
    fitting = [name for name in get_args(Layout) if COLUMNS[name] == columns]
    if given is not None and given not in fitting:
        raise LumigraphError(
            f"layout {given} has {COLUMNS[given]} columns, the file has {columns}",
            where=where,
            todo=f"Layouts of {columns} columns: {', '.join(fitting) or 'none'}",
        )
    if given is None and columns != COLUMNS["r2l"]:
        raise LumigraphError(
            f"the rays have {columns} columns, which does not say what they hold",
            where=where,
            todo=f"Name the layout: {' or '.join(fitting)}"
            if fitting
            else "9, 10 and 12 columns can be read",
        )
    return given or "r2l"
