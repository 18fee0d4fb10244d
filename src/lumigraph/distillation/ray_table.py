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

Test files hold a whole frame each, [H, W, columns], in the order of its pixels.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lumigraph.errors import LumigraphError
from lumigraph.files import read_json
from lumigraph.scenes.scene import SceneInfo

Layout = Literal["r2l", "r2l-depth", "r2l-surface", "dylin", "dylin-hypernerf", "codylin"]
RAY = ("ox", "oy", "oz", "dx", "dy", "dz")
RGB = ("r", "g", "b")
COLUMNS: dict[str, tuple[str, ...]] = {
    "r2l": (*RAY, *RGB),
    "r2l-depth": (*RAY, *RGB, "depth"),
    "r2l-surface": (*RAY, *RGB, "sx", "sy", "sz"),
    "dylin": (*RAY, "t", "t", "t", *RGB),
    "dylin-hypernerf": (*RAY, "t", "t", "t", *RGB),
}
"""The columns of the published layouts, in order."""
ATTRIBUTE, MASK = "attribute ", "mask "
"""What the columns of an attribute begin with, before its name."""
MANIFEST = "manifest.json"
KIND = "lumigraph ray files"
_LOOSE = 0.01
"""How far colours and shares may lie outside 0..1, and times and attributes outside their range, as a part of it: what
rounding and compositing leave."""
_SAME_TIME = 1e-5
"""How far the three columns of a time may differ."""


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
        return ("times",) * ("t" in self.columns) + ("attributes",) * bool(self.places(ATTRIBUTE))

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
        if len(table.places(*RAY, *RGB)) != 9 or (layout in COLUMNS and table.columns != COLUMNS[layout]):
            raise _unusable(f"these are not the columns of layout {layout}", where)
        table._check_names(where)
        return table

    def names(self, kind: str) -> tuple[str, ...]:
        """The names behind the columns of a kind, `ATTRIBUTE` or `MASK`."""
        return tuple(self.columns[place].removeprefix(kind) for place in self.places(kind))

    def _check_names(self, where: Path) -> None:
        """Of columns that only a manifest names."""
        known = {*RAY, *RGB, "t", "depth", "sx", "sy", "sz"}
        for name in self.columns:
            if name not in known and not name.startswith((ATTRIBUTE, MASK)):
                raise _unusable(f"there is no column {name!r}", where)
            if name != "t" and self.columns.count(name) > 1:
                raise _unusable(f"the column {name!r} is named twice", where)
        attributes, masks = self.names(ATTRIBUTE), self.names(MASK)
        if self.layout == "codylin" and not attributes:
            raise _unusable("layout codylin has columns of attributes, as in 'attribute head'", where)
        if masks and masks != attributes:
            raise _unusable(
                f"there are masks of {', '.join(masks)}, and attributes {', '.join(attributes) or '(none)'}: where "
                "there are masks, each attribute has one, in the same order",
                where,
            )


def _unusable(reason: str, where: Path) -> LumigraphError:
    return LumigraphError(
        f"the manifest of the ray files cannot be used: {reason}",
        where=where,
        todo='Mend it, as in {"layout": "dylin-hypernerf", "times": [0, 1]}',
    )


def table_in(folder: Path, columns: int, given: Layout | None, where: Path) -> Table:
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


def check_attributes(table: Table, info: SceneInfo, folder: Path) -> None:
    """Attributes are the scene's, in its order."""
    told, there = table.names(ATTRIBUTE), attribute_names(info)
    if told and told != there:
        raise LumigraphError(
            f"the rays have the attributes {', '.join(told)}, the scene {', '.join(there) or 'none'}",
            where=folder / MANIFEST,
            todo="Give the scene that they were made of with --scene",
        )


def attribute_names(info: SceneInfo) -> tuple[str, ...]:
    """What the attributes of a scene are called, their numbers where they have no names."""
    cameras = info.cameras["train"]
    count = 0 if cameras.attributes is None else cameras.attributes.shape[1]
    return info.attributes or tuple(str(number) for number in range(count))


def fault(table: Table, rows: np.ndarray) -> tuple[int, str] | None:
    """The first row of `rows` [N, columns] that holds what its columns cannot hold, and what is wrong with it; None
    where all can be used."""
    first, last = table.times
    ranges = [
        (table.places(*RGB), 0.0, 1.0, False, "colours are numbers from 0 to 1"),
        (table.places("t"), first, last, False, f"times are numbers from {first:g} to {last:g}"),
        (
            table.places(ATTRIBUTE),
            -1.0,
            1.0,
            True,
            "attributes are numbers from -1 to 1, or NaN where unknown",
        ),
        (table.places(MASK), 0.0, 1.0, True, "masks are shares from 0 to 1, or NaN where unknown"),
    ]
    ray = rows[:, table.places(*RAY)]
    found = _first(~np.isfinite(ray).all(1), "origin and direction are finite numbers", ray)
    faults = [found, _first(~ray[:, 3:].any(1), "a direction has a length", ray[:, 3:])]
    for places, low, high, unknown, rule in ranges:
        values, loose = rows[:, places], _LOOSE * (high - low)
        good = (values >= low - loose) & (values <= high + loose)
        faults.append(_first(~(good | (np.isnan(values) & unknown)).all(1), rule, values))
    times = rows[:, [place for place, name in enumerate(table.columns) if name == "t"]]
    if times.shape[1] > 1:
        with np.errstate(invalid="ignore"):  # of what is infinite, the range complains
            apart = np.ptp(times, axis=1) > _SAME_TIME * (last - first)
        faults.append(
            _first(apart, "the columns of the time are the same (layout r2l-surface has none)", times)
        )
    return min((found for found in faults if found is not None), default=None)


def _first(wrong: Any, rule: str, values: np.ndarray) -> tuple[int, str] | None:
    """The first row of `values` [N, C] that is `wrong` [N], and the rule that it breaks."""
    if not wrong.any():
        return None
    row = int(wrong.argmax())
    return row, f"{rule}, and these are {' '.join(f'{value:.4g}' for value in values[row])}"


def wrong_row(problem: tuple[int, str], table: Table, where: Path) -> LumigraphError:
    """The error for a row that `fault` has found."""
    return LumigraphError(
        f"row {problem[0]} of the rays is not of layout {table.layout}: {problem[1]}",
        where=where,
        todo="Name the layout that the files have with --layout, or mend them",
    )
