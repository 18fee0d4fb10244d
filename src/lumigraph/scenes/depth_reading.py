"""What the numbers in depth maps mean where their files do not say it. Imports nothing heavy: the command line shows
these options."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lumigraph.errors import LumigraphError

DepthKind = Literal["z", "euclidean"]


@dataclass(frozen=True, kw_only=True)
class DepthReading:
    """How the depth maps of a scene are read."""

    depth_unit: float | None = None
    """What 1 in a depth map is, in the unit of the camera positions: 0.001 for millimetres beside positions in metres
    (None: as the files say, else 0.001, or 1 for NAME_depth.npy in Blender's format)."""
    depth_kind: DepthKind | None = None
    """What depth maps hold: z, along the camera's axis, or euclidean, the distance along the ray (None: as the files
    say, else z)."""
    depth_range: tuple[float, float] | None = None
    """Nearest and farthest depth that counts, in the unit of the camera positions; beyond, depth is unknown (None:
    all)."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "DepthReading":
        """The inverse of `dataclasses.asdict`.

        Raises:
            TypeError: `data` has another form.
        """
        limits = data.get("depth_range")
        return cls(**{**data, "depth_range": None if limits is None else tuple(limits)})

    def check(self) -> None:
        """Raises LumigraphError when a value is out of its range."""
        if self.depth_unit is not None and not 0.0 < self.depth_unit < math.inf:
            raise LumigraphError(
                f"--depth-unit {self.depth_unit:g} is no unit",
                todo="Choose for example 0.001 for millimetres",
            )
        if self.depth_range is not None and not 0.0 <= self.depth_range[0] < self.depth_range[1]:
            raise LumigraphError(
                f"--depth-range {self.depth_range[0]:g} {self.depth_range[1]:g} leaves no depth",
                todo="Give the nearest depth, then the farthest, as in --depth-range 0.1 10",
            )

    def refuse(self, where: str) -> None:
        """Raises LumigraphError when something was chosen for a scene that has no files of depth."""
        if self != DepthReading():
            raise LumigraphError(
                "--depth-unit, --depth-kind and --depth-range are for depth maps, and this scene has no files of them",
                where=where,
                todo="Leave them out",
            )
