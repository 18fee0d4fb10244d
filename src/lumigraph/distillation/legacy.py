"""Published ray files, read: rays to learn from, and whole frames to judge by. What they hold: `ray_table.py`.

Near, far and the pixel radius are those of the scene's first training camera: the files have none.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lumigraph.distillation.ray_table import (
    ATTRIBUTE,
    MASK,
    RAY,
    RGB,
    Layout,
    Table,
    check_attributes,
    fault,
    table_in,
    wrong_row,
)
from lumigraph.distillation.shard_source import draws
from lumigraph.errors import LumigraphError
from lumigraph.evaluation.evaluate import RayFrame
from lumigraph.files import io_errors
from lumigraph.geometry.conventions import split_similarity, transform_rays
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.renderer import Batch
from lumigraph.scenes.formats.frames import natural_order
from lumigraph.scenes.scene import SceneInfo
from lumigraph.training.sources import RaySource

_SAMPLED_FILES, _SAMPLED_ROWS = 8, 4096
"""Of so many files, evenly spread, so many rows are looked at before training starts; the others when drawn."""


def legacy_files(folder: Path) -> list[Path]:
    """The ray files of a folder in the order of their numbers; none if it is not such a folder."""
    if not folder.is_dir():
        return []
    with io_errors(folder):
        found = [path for path in folder.glob("*.npy") if path.stem.rpartition("_")[2].isdecimal()]
    found = [path for path in found if path.stem.rpartition("_")[1]]
    return sorted(found, key=lambda path: (path.stem.rpartition("_")[0], int(path.stem.rpartition("_")[2])))


class LegacySource(RaySource):
    """Rays drawn uniformly from published ray files, mapped into memory."""

    def __init__(self, folder: Path, info: SceneInfo, seed: int, layout: Layout | None = None):
        """`layout` may be left out for nine columns, and where there is a manifest. Raises `LumigraphError` for
        anything else it cannot tell, and for values that the columns cannot hold."""
        paths = legacy_files(folder)
        if not paths:
            raise LumigraphError(
                "there are no ray files here", where=folder, todo="They are named data_1.npy, data_2.npy, ..."
            )
        self.seed, self._paths = seed, paths
        self._files = [_mapped(path, 2) for path in paths]
        self.reader = _reader(folder, paths, self._files, info, layout)
        step = -(-len(paths) // _SAMPLED_FILES)
        for path, rows in list(zip(paths, self._files, strict=True))[::step]:
            self.reader.check(np.asarray(rows[:_SAMPLED_ROWS]), path)
        self._ends = np.cumsum([len(rows) for rows in self._files])
        self._device = torch.device("cpu")

    @property
    def table(self) -> Table:
        return self.reader.table

    def to(self, device: torch.device) -> "LegacySource":
        self._device = device
        return self

    def rows(self, number: np.ndarray) -> np.ndarray:
        """Rows [B, columns] of rays counted through all files, float32.

        Raises:
            LumigraphError: one holds what its columns cannot hold.
        """
        file = np.searchsorted(self._ends, number, side="right")
        out = np.empty((len(number), len(self.table.columns)), np.float32)
        for one in np.unique(file).tolist():
            chosen = file == one
            start = self._ends[one] - len(self._files[one])
            out[chosen] = self._files[one][number[chosen] - start]
        if (problem := fault(self.table, out)) is not None:
            place = int(file[problem[0]])
            start = self._ends[place] - len(self._files[place])
            row = int(number[problem[0]] - start)
            raise wrong_row((row, problem[1]), self.table, self._paths[place])
        return out

    def batch(self, step: int, rays: int) -> Batch:
        rows = torch.from_numpy(self.rows(draws(self.seed, step).integers(0, int(self._ends[-1]), size=rays)))
        return self.batch_of(rows.to(self._device))

    def batch_of(self, rows: Tensor) -> Batch:
        """Rows of the files as rays in scene units with colours."""
        return self.reader.batch(rows)


class RayFrames:
    """Whole frames [H, W, columns] of rays with colours, a file each: the published test files, in the order of their
    names. Each is read when it is asked for."""

    def __init__(self, folder: Path, info: SceneInfo, layout: Layout | None = None):
        """`info`: the scene that they show. Raises `LumigraphError` as `LegacySource` does."""
        with io_errors(folder):
            found = [path for path in folder.iterdir() if path.suffix == ".npy"] if folder.is_dir() else []
        self._paths = sorted(found, key=lambda path: natural_order(path.name))
        if not self._paths:
            raise LumigraphError(
                "there are no frames of rays here",
                where=folder,
                todo="Give a folder of .npy files, each of a whole frame [height, width, columns]",
            )
        self._files = [_mapped(path, 3) for path in self._paths]
        self.reader = _reader(folder, self._paths, self._files, info, layout)

    @property
    def names(self) -> list[str]:
        return [path.name for path in self._paths]

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[RayFrame]:
        for path, values in zip(self._paths, self._files, strict=True):
            height, width, columns = values.shape
            rows = np.array(values, np.float32).reshape(-1, columns)
            self.reader.check(rows, path)
            batch = self.reader.batch(torch.from_numpy(rows))
            yield RayFrame(
                path.name, batch.rays.reshape(height, width), batch.rgba[:, :3].reshape(height, width, 3)
            )


class _Reader:
    """What rows of a table mean in a scene."""

    def __init__(self, table: Table, info: SceneInfo):
        self.table, self._info = table, info
        self._template = info.cameras["train"][0:1]

    def check(self, rows: np.ndarray, where: Path) -> None:
        """Raises LumigraphError where a row holds what its columns cannot hold."""
        if (problem := fault(self.table, rows)) is not None:
            raise wrong_row(problem, self.table, where)

    def batch(self, rows: Tensor) -> Batch:
        """Rows [N, columns] as rays in scene units with colours."""
        table, info = self.table, self._info
        origins, directions = rows[:, table.places(*RAY)].split(3, 1)
        if not table.unit_directions:
            origins, directions = transform_rays(info.world_transform, origins, directions)
        count, template = len(rows), self._template.to(rows.device)
        centre = template.principal.floor().long()
        first = torch.zeros(1, dtype=torch.int64, device=rows.device)
        masks = table.places(MASK)
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
                attributes=rows[:, table.places(ATTRIBUTE)] if "attributes" in table.tells else None,
            ),
            rgba=torch.nn.functional.pad(rows[:, table.places(*RGB)].clamp(0, 1), (0, 1), value=1.0),
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
        scale, _, _ = split_similarity(self._info.world_transform)
        table = self.table
        if table.places("depth"):
            return rows[:, table.places("depth")[0]] * scale
        if table.places("sx"):
            # surface = o + depth d
            origins, directions = rows[:, table.places(*RAY)].split(3, 1)
            along = ((rows[:, table.places("sx", "sy", "sz")] - origins) * directions).sum(1)
            return scale * along / directions.square().sum(1)
        return None


def _reader(
    folder: Path, paths: list[Path], files: list[np.ndarray], info: SceneInfo, layout: Layout | None
) -> _Reader:
    """What the rows of files mean, which must all have the same columns."""
    table = table_in(folder, files[0].shape[-1], layout, paths[0])
    check_attributes(table, info, folder)
    for path, values in zip(paths, files, strict=True):
        if values.shape[-1] != len(table.columns):
            told = "in the first file" if values is not files[0] else "in the manifest"
            raise LumigraphError(
                f"{values.shape[-1]} columns, and {len(table.columns)} {told}",
                where=path,
                todo="Keep files of one kind in a folder",
            )
    return _Reader(table, info)


_SHAPES: dict[int, Any] = {
    2: ("a ray file is a table of floats", "Measure with whole frames: lumigraph eval RUN --rays FOLDER"),
    3: (
        "a frame of rays is floats [height, width, columns]",
        "Learn from tables: lumigraph distill METHOD FOLDER",
    ),
}
"""Of files with so many dimensions: what they are, and what to do with those that have the other number."""


def _mapped(path: Path, dimensions: int) -> np.ndarray:
    """The array of a file with 2 (rows) or 3 (a frame) dimensions, mapped into memory."""
    with io_errors(path):
        try:
            values = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise LumigraphError(
                f"the ray file is damaged: {error}", where=path, todo="Remove it, or copy it again"
            ) from error
    rule, advice = _SHAPES[dimensions]
    floats = values.dtype in (np.float32, np.float64) and values.size > 0
    if values.ndim != dimensions or not floats:
        raise LumigraphError(
            f"{rule}, this is {values.shape} {values.dtype}",
            where=path,
            todo=advice if floats and values.ndim in _SHAPES else "Remove it from the folder",
        )
    return values
