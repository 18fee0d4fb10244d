"""Values out of a JSON object, each checked, each complaint naming file, frame and field."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from lumigraph.errors import LumigraphError

_LARGEST = 1e9


@dataclass(frozen=True)
class Fields:
    """The members of one JSON object. `where` names it in messages: the file, and the frame if it is one."""

    members: Mapping[str, Any]
    where: str

    @classmethod
    def of(cls, value: Any, where: str) -> "Fields":
        """Raises LumigraphError when `value` is not a JSON object."""
        if not isinstance(value, dict):
            raise LumigraphError(
                f"expected an object {{...}}, found {shown(value)}", where=where, todo="Write the file again"
            )
        return cls(value, where)

    def __contains__(self, key: str) -> bool:
        return self.members.get(key) is not None

    def wrong(self, key: str, must: str, todo: str | None = None) -> LumigraphError:
        """The error for a value that is not what it must be."""
        if key not in self:
            return LumigraphError(
                f"'{key}' is missing: it must be {must}", where=self.where, todo=f"Add '{key}'"
            )
        what = f"'{key}' must be {must}, found {shown(self.members[key])}"
        return LumigraphError(what, where=self.where, todo=todo or f"Correct '{key}'")

    def number(self, key: str, *, positive: bool = False, below: float = _LARGEST) -> float:
        """A finite number, smaller than `below` in magnitude."""
        value = self.members.get(key)
        must = "a positive number" if positive else "a finite number"
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(key, must)
        # Python integers may be too large for a float: compared before they are converted.
        if not -below < value < below:  # NaN fails this too
            raise self.wrong(key, f"{must} smaller than {below:g}")
        if positive and not value > 0:
            raise self.wrong(key, must)
        return float(value)

    def optional(self, key: str, default: float | None = None, *, positive: bool = False) -> Any:
        """`number`, or the default where the key is absent or null."""
        return self.number(key, positive=positive) if key in self else default

    def text(self, key: str) -> str:
        """A string."""
        value = self.members.get(key)
        if not isinstance(value, str):
            raise self.wrong(key, "a text")
        return value

    def items(self, key: str, limit: int) -> Sequence[Any]:
        """A list of at most `limit` values."""
        value = self.members.get(key)
        if not isinstance(value, list):
            raise self.wrong(key, "a list [...]")
        if len(value) > limit:
            raise LumigraphError(
                f"'{key}' has {len(value):,} entries, at most {limit:,} are read",
                where=self.where,
                todo="Use fewer",
            )
        return value

    def texts(self, key: str, limit: int) -> list[str]:
        """A list of strings."""
        values = self.items(key, limit)
        if not all(isinstance(value, str) for value in values):
            raise self.wrong(key, "a list of texts")
        return list(values)

    def numbers(self, key: str, limit: int) -> list[float]:
        """A list of finite numbers."""
        return self._cells(key, self.items(key, limit))

    def _cells(self, key: str, values: Iterable[Any]) -> list[float]:
        """The numbers of a list or matrix; a wrong one is shown instead of the whole."""
        cells = list(values)
        for cell in cells:
            if isinstance(cell, bool) or not isinstance(cell, int | float) or not -_LARGEST < cell < _LARGEST:
                raise LumigraphError(
                    f"'{key}' holds {shown(cell)}, not a finite number smaller than {_LARGEST:g}",
                    where=self.where,
                    todo=f"Correct '{key}'",
                )
        return [float(cell) for cell in cells]

    def matrix(self, key: str, rows: int, columns: int) -> Float[np.ndarray, "rows columns"]:
        """A matrix of finite numbers, as a list of rows."""
        value = self.members.get(key)
        shape = f"a {rows}x{columns} matrix"
        if not isinstance(value, list) or len(value) != rows:
            raise self.wrong(key, shape)
        if not all(isinstance(row, list) and len(row) == columns for row in value):
            raise self.wrong(key, shape)
        cells = self._cells(key, (cell for row in value for cell in row))
        return np.array(cells, dtype=np.float64).reshape(rows, columns)

    def pose(self, key: str) -> Float[np.ndarray, "3 4"]:
        """A camera-to-world matrix [3, 4] with a rotation free of rounding; a uniform scale in it is removed.

        The file may give three or four rows.
        """
        value = self.members.get(key)
        tall = not isinstance(value, list) or len(value) != 3
        matrix = self.matrix(key, 4 if tall else 3, 4)
        if tall and not np.allclose(matrix[3], (0.0, 0.0, 0.0, 1.0), atol=1e-3):
            row = " ".join(f"{cell:g}" for cell in matrix[3])
            raise self._bad_pose(key, f"not a camera pose: its last row is {row} instead of 0 0 0 1")
        linear = matrix[:3, :3]
        u, scales, v = np.linalg.svd(linear)
        if scales[2] <= 1e-6 * max(scales[0], 1e-6):
            raise self._bad_pose(key, "singular")
        if scales[0] - scales[2] > 0.01 * scales[1]:
            raise self._bad_pose(key, "not a rotation: its columns are not orthogonal or differ in length")
        if np.linalg.det(u @ v) < 0:
            raise self._bad_pose(key, "a reflection, not a rotation")
        return np.concatenate([u @ v, matrix[:3, 3:]], axis=1)

    def _bad_pose(self, key: str, what: str) -> LumigraphError:
        return LumigraphError(
            f"the matrix '{key}' is {what}", where=self.where, todo="Correct the pose or remove the frame"
        )


def shown(value: Any) -> str:
    """A short form of a value from a file, fit for a message."""
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**40 else "a huge number"
    return text if len(text) <= 60 else text[:57] + "…"
