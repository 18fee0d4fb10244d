"""The published ray files: `.npy` arrays of 4096 rays each, one ray per row, shuffled; float32, or float64.

| layout | columns | published for |
|---|---|---|
| r2l | origin 3, direction 3, rgb 3 | R2L |
| r2l-depth | r2l, depth 1 | R2L |
| r2l-surface | r2l, surface point 3 | R2L |
| dylin | origin 3, direction 3, time repeated 3 times, rgb 3 | DyLiN, D-NeRF's scenes |
| dylin-hypernerf | the same, directions of length 1, origins normalised | DyLiN, HyperNeRF's captures |
| codylin | origin 3, direction 3, time 1, attributes, rgb 3, masks of attributes | nothing |

Nine columns are always `r2l`. Ten are `r2l-depth` (DyLiN's ten columns exist in memory only), and twelve are
`r2l-surface` or one of DyLiN's, which nothing in the file tells apart: they have to be named, or a `manifest.json`
beside the files names them, as it does where these are ours. In all but `dylin-hypernerf` directions are not normalised
and origins are in the units of the capture, so both are taken through the scene's world transform; there, origins are
(x - centre) scale with the two numbers of the capture's `scene.json`, which is our scene's frame. A `codylin` file has
the columns that its manifest says, and no time where the scene has none.

The published times of HyperNeRF's captures are not alike: the pseudo rays' reach from 0 to 1, but the photos' end at
about a half where two cameras took turns, because frames are counted through both. In a manifest `times` says which
values mean the first and the last moment, [0, 1] unless given: with [0, 0.5] such files can be used.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lumigraph.distillation.shard_source import draws
from lumigraph.distillation.shards import Shards
from lumigraph.errors import LumigraphError
from lumigraph.files import io_errors, new_folder, read_json, require_replaceable, write_json
from lumigraph.geometry.conventions import split_similarity, transform_rays
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.renderer import Batch
from lumigraph.scenes.scene import SceneInfo
from lumigraph.training.sources import RaySource

Layout = Literal["r2l", "r2l-depth", "r2l-surface", "dylin", "dylin-hypernerf", "codylin"]
_RAY = ("ox", "oy", "oz", "dx", "dy", "dz")
_RGB = ("r", "g", "b")
COLUMNS: dict[str, tuple[str, ...]] = {
    "r2l": (*_RAY, *_RGB),
    "r2l-depth": (*_RAY, *_RGB, "depth"),
    "r2l-surface": (*_RAY, *_RGB, "sx", "sy", "sz"),
    "dylin": (*_RAY, "t", "t", "t", *_RGB),
    "dylin-hypernerf": (*_RAY, "t", "t", "t", *_RGB),
}
"""The columns of the published layouts, in order."""
_ATTRIBUTE, _MASK = "attribute ", "mask "
"""What the columns of an attribute begin with, before its name."""
MANIFEST = "manifest.json"
KIND = "lumigraph ray files"
RAYS_PER_FILE = 4096
_WRITTEN = re.compile(r"data_[1-9]\d*\.npy")
_HEADER, _ROW = 128, RAYS_PER_FILE * 4
"""Bytes of numpy's header, and of one column, of every file that `export_legacy` writes."""
_GROUP = 100
"""Views that are shuffled together, as in the published generator: all of them need not fit into memory."""


@dataclass(frozen=True)
class Table:
    """What the columns of ray files hold. `times`: the values that mean the first and the last moment."""

    layout: str
    columns: tuple[str, ...]
    times: tuple[float, float] = (0.0, 1.0)

    @property
    def unit_directions(self) -> bool:
        """Whether directions have length 1, and origins are in scene units."""
        return self.layout == "dylin-hypernerf"

    @property
    def tells(self) -> tuple[str, ...]:
        """What of times and attributes there is."""
        return ("times",) * ("t" in self.columns) + ("attributes",) * bool(self.places(_ATTRIBUTE))

    def places(self, *names: str) -> list[int]:
        """Where the first columns of these names are; of a name that ends in a space, all that begin with it."""
        found = []
        for name in names:
            fitting = [
                place
                for place, column in enumerate(self.columns)
                if (column.startswith(name) if name.endswith(" ") else column == name)
            ]
            found += fitting if name.endswith(" ") else fitting[:1]
        return found

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": KIND,
            "schema": 1,
            "layout": self.layout,
            "columns": list(self.columns),
            "times": list(self.times),
            "origins": "scene units" if self.unit_directions else "units of the capture",
            "directions": "length 1" if self.unit_directions else "depth 1 along the camera's axis",
        }

    @classmethod
    def from_json(cls, data: Any, where: Path) -> "Table":
        """The inverse of `to_json`; of `times` and of the columns of published layouts nothing need be said."""
        if not isinstance(data, dict) or data.get("layout") not in (*COLUMNS, "codylin"):
            raise _unusable("it names no layout that is known", where)
        layout = data["layout"]
        columns, times = data.get("columns", COLUMNS.get(layout)), data.get("times", [0.0, 1.0])
        if not isinstance(columns, list | tuple) or not all(isinstance(name, str) for name in columns):
            raise _unusable("columns are not a list of names", where)
        numbers = isinstance(times, list) and all(type(value) in (int, float) for value in times)
        if not numbers or len(times) != 2 or not times[0] < times[1]:
            raise _unusable("times are the values of the first and of the last moment, in this order", where)
        table = cls(layout, tuple(columns), (float(times[0]), float(times[1])))
        if len(table.places(*_RAY, *_RGB)) != 9 or (layout in COLUMNS and table.columns != COLUMNS[layout]):
            raise _unusable(f"these are not the columns of layout {layout}", where)
        return table


def _unusable(reason: str, where: Path) -> LumigraphError:
    return LumigraphError(
        f"the manifest of the ray files cannot be used: {reason}",
        where=where,
        todo='Mend it, as in {"layout": "dylin-hypernerf", "times": [0, 1]}',
    )


def table_of(shards: Shards, layout: Layout | None) -> Table:
    """How pseudo views are written: in `layout`, or in that which fits what they have.

    Raises:
        LumigraphError: the views lack what the layout holds, or the layout holds depth, which is not written.
    """
    cameras, info = shards.cameras, shards.plan.info
    if layout is None:
        layout = "codylin" if cameras.attributes is not None else "r2l" if cameras.times is None else "dylin"
    needs = {"dylin": "times", "dylin-hypernerf": "times", "codylin": "attributes"}.get(layout)
    if needs is not None and getattr(cameras, needs) is None:
        raise LumigraphError(f"the views have no {needs}, which layout {layout} holds", where=shards.folder)
    if cameras.attributes is None or layout != "codylin":
        return Table(layout, COLUMNS[layout])
    names = info.attributes or tuple(str(number) for number in range(cameras.attributes.shape[1]))
    attributes, masks = ([start + name for name in names] for start in (_ATTRIBUTE, _MASK))
    time = ["t"] * (cameras.times is not None)
    return Table(layout, (*_RAY, *time, *attributes, *_RGB, *(masks if shards.plan.masks else [])))


def export_legacy(
    shards: Shards, folder: Path, *, seed: int = 0, overwrite: bool = False, layout: Layout | None = None
) -> int:
    """Writes pseudo views as `data_1.npy`, `data_2.npy`, ..., float32, and a manifest; returns the number of files.

    Rays of 100 views at a time are shuffled and cut into files of 4096; what is left over goes on into the next
    group, and what is left at the very end is dropped.

    Raises:
        LumigraphError: see `check_legacy_folder` and `table_of`; or the views have too few rays for one file.
    """
    check_legacy_folder(folder, overwrite)
    table = table_of(shards, layout)
    columns = len(table.columns)
    files, rest = 0, np.empty((0, columns), np.float32)
    with new_folder(folder, overwrite) as temporary:
        write_json(temporary / MANIFEST, table.to_json())
        for first in range(0, len(shards), _GROUP):
            views = range(first, min(first + _GROUP, len(shards)))
            group = np.concatenate([rest, *(_rows_of_view(shards, view, table) for view in views)])
            draws(seed, first).shuffle(group)
            whole = len(group) // RAYS_PER_FILE
            for part in group[: whole * RAYS_PER_FILE].reshape(whole, RAYS_PER_FILE, columns):
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
    if not path.is_file() or path.is_symlink():
        return False
    if path.name == MANIFEST:
        return f'"{KIND}"'.encode() in path.read_bytes()[:4096]
    columns, over = divmod(path.stat().st_size - _HEADER, _ROW)
    return bool(_WRITTEN.fullmatch(path.name)) and over == 0 and columns >= len(COLUMNS["r2l"])


def _rows_of_view(shards: Shards, view: int, table: Table) -> np.ndarray:
    rays = shards.cameras.view_rays(view).flatten()
    origins, directions = rays.origins, rays.view_directions
    if not table.unit_directions:
        origins, directions = transform_rays(shards.plan.info.to_capture, rays.origins, rays.directions)
    rows = np.empty((len(rays), len(table.columns)), np.float32)
    rows[:, table.places(*_RAY)] = np.concatenate([origins.numpy(), directions.numpy()], 1)
    image = np.asarray(shards.image(view)).reshape(-1, 3)
    rows[:, table.places(*_RGB)] = image.astype(np.float32) / (2**shards.plan.bits - 1)
    if "t" in table.columns and rays.times is not None:
        rows[:, [column == "t" for column in table.columns]] = rays.times.numpy()[:, None]
    if table.places(_ATTRIBUTE) and rays.attributes is not None:
        rows[:, table.places(_ATTRIBUTE)] = rays.attributes.numpy()
    masks = shards.mask_image(view)
    if table.places(_MASK) and masks is not None:
        rows[:, table.places(_MASK)] = np.asarray(masks).reshape(len(rays), -1).astype(np.float32) / 255
    return rows


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
        """`layout` may be left out for nine columns, and where there is a manifest. Raises `LumigraphError` for
        anything else it cannot tell."""
        paths = legacy_files(folder)
        if not paths:
            raise LumigraphError(
                "there are no ray files here", where=folder, todo="They are named data_1.npy, data_2.npy, ..."
            )
        self.info, self.seed = info, seed
        self._files = [_mapped(path) for path in paths]
        self.table = _table(folder, self._files[0].shape[1], layout, paths[0])
        _check_attributes(self.table, info, folder)
        for path, rows in zip(paths, self._files, strict=True):
            if rows.shape[1] != len(self.table.columns):
                raise LumigraphError(
                    f"{rows.shape[1]} columns, and {len(self.table.columns)} in the first file",
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
        out = np.empty((len(number), len(self.table.columns)), np.float32)
        for one in np.unique(file).tolist():
            chosen = file == one
            start = self._ends[one] - len(self._files[one])
            out[chosen] = self._files[one][number[chosen] - start]
        return out

    def batch(self, step: int, rays: int) -> Batch:
        rows = torch.from_numpy(self.rows(draws(self.seed, step).integers(0, int(self._ends[-1]), size=rays)))
        return self.batch_of(rows.to(self._device))

    def batch_of(self, rows: Tensor) -> Batch:
        """Rows of the files as rays in scene units with colours."""
        table, info = self.table, self.info
        origins, directions = rows[:, table.places(*_RAY)].split(3, 1)
        if not table.unit_directions:
            origins, directions = transform_rays(info.world_transform, origins, directions)
        count, template = len(rows), self._template.to(rows.device)
        centre = template.principal.floor().long()
        first = torch.zeros(1, dtype=torch.int64, device=rows.device)
        masks = table.places(_MASK)
        return Batch(
            rays=Rays(
                origins=origins,
                directions=directions,
                radii=template.rays(first, centre[:, 0], centre[:, 1]).radii.expand(count),
                near=template.near.expand(count),
                far=template.far.expand(count),
                times=self._times(rows),
                # No captured image's, as with pseudo views: photos, which have numbers, can be mixed in.
                camera_ids=torch.full((count,), -1, device=rows.device),
                attributes=rows[:, table.places(_ATTRIBUTE)] if "attributes" in table.tells else None,
            ),
            rgba=torch.nn.functional.pad(rows[:, table.places(*_RGB)].clamp(0, 1), (0, 1), value=1.0),
            depth=self._depth(rows),
            attribute_masks=rows[:, masks] if masks else None,
        )

    def _times(self, rows: Tensor) -> Tensor | None:
        """Times as shares of the capture, where the files have any."""
        if "times" not in self.table.tells:
            return None
        first, last = self.table.times
        return ((rows[:, self.table.places("t")[0]] - first) / (last - first)).clamp(0, 1)

    def _depth(self, rows: Tensor) -> Tensor | None:
        scale, _, _ = split_similarity(self.info.world_transform)
        table = self.table
        if table.places("depth"):
            return rows[:, table.places("depth")[0]] * scale
        if table.places("sx"):
            # surface = o + depth d
            origins, directions = rows[:, table.places(*_RAY)].split(3, 1)
            along = ((rows[:, table.places("sx", "sy", "sz")] - origins) * directions).sum(1)
            return scale * along / directions.square().sum(1)
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


def _table(folder: Path, columns: int, given: Layout | None, where: Path) -> Table:
    """What the columns of the files of a folder hold, by its manifest or as it is `given`."""
    manifest = folder / MANIFEST
    told = Table.from_json(read_json(manifest), manifest) if manifest.is_file() else None
    if told is not None and given in (None, told.layout):
        return told
    if told is not None:
        raise LumigraphError(
            f"the ray files have layout {told.layout}, not {given}", where=manifest, todo="Leave --layout out"
        )
    fitting = [name for name, names in COLUMNS.items() if len(names) == columns]
    if given is not None and given not in fitting:
        known = len(COLUMNS.get(given, ()))
        raise LumigraphError(
            f"layout {given} has {known} columns, the file has {columns}"
            if known
            else f"layout {given} has the columns that its manifest names, and there is none",
            where=where,
            todo=f"Layouts of {columns} columns: {', '.join(fitting) or 'none'}",
        )
    if given is None and columns != len(COLUMNS["r2l"]):
        raise LumigraphError(
            f"the rays have {columns} columns, which does not say what they hold",
            where=where,
            todo=f"Name the layout: {' or '.join(fitting)}"
            if fitting
            else "9, 10 and 12 columns can be read, others with a manifest",
        )
    layout = given or "r2l"
    return Table(layout, COLUMNS[layout])


def _check_attributes(table: Table, info: SceneInfo, folder: Path) -> None:
    """Attributes are the scene's, in its order."""
    told = tuple(table.columns[place].removeprefix(_ATTRIBUTE) for place in table.places(_ATTRIBUTE))
    cameras = info.cameras["train"]
    there = info.attributes or tuple(
        str(number) for number in range(0 if cameras.attributes is None else cameras.attributes.shape[1])
    )
    if told and told != there:
        raise LumigraphError(
            f"the rays have the attributes {', '.join(told)}, the scene {', '.join(there) or 'none'}",
            where=folder / MANIFEST,
            todo="Give the scene that they were made of with --scene",
        )
