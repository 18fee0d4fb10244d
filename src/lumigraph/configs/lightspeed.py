"""Options of the LightSpeed student. Imports no torch."""

from dataclasses import dataclass
from typing import Any

from lumigraph.configs.checks import check_numbers
from lumigraph.configs.picture_light_field import LADDER, PictureNetworkConfig

INWARD_PLANES, SLAB_PLANES = 15, 6
"""Pairs of the six coordinates of a ray around an object, and of the four of a light slab."""


@dataclass(frozen=True, kw_only=True)
class LightSpeedConfig(PictureNetworkConfig):
    """A light field that answers with a whole picture, of which most is looked up: features of each patch's ray from
    small grids, then a short network of convolutions. It learns fast and needs many pseudo views, or a live teacher.

    The defaults are sized for minutes on two cores, at 100 to 200 pixels. Sizes are those of captures around an object;
    forward-facing scenes have fewer grids.
    """

    blocks: int = 3
    resolutions: tuple[int, ...] = (8, 16, 32)
    """Points on each side of the grids; there is one of each size for every pair of coordinates."""
    features: int = 4
    """Numbers at each point of a grid."""
    grid_lr: float = 0.02
    """Learning rate of the grids, which goes with that of the network."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, positive=("features", "grid_lr"))
        if not self.resolutions or min(self.resolutions) < 2:
            raise ValueError(f"resolutions must be some numbers of at least 2, not {self.resolutions}")

    def inputs_of(self, planes: int) -> int:
        """Channels of the code of a ray, where there are so many planes."""
        return planes * self.features * len(self.resolutions)

    @property
    def inputs(self) -> int:
        return self.inputs_of(INWARD_PLANES)

    @property
    def parameters(self) -> int:
        """Those of the network, batch norm folded, and of the grids."""
        points = sum(side**2 for side in self.resolutions)
        return super().parameters + INWARD_PLANES * self.features * points

    def multiplications(self, width: int, height: int) -> int:
        """Multiply-adds of a picture of so many pixels, four of them for each number that is looked up."""
        patches = -(-width // self.patch) * -(-height // self.patch)
        return super().multiplications(width, height) + 4 * self.inputs * patches


_OF_POINTS = {"points", "octaves", "perturb", "extent"}

_GRIDS: dict[str, dict[str, Any]] = {
    "cpu": {},
    "phone": {"blocks": 10, "resolutions": (8, 16, 32, 64)},
    "tiny": {"blocks": 4, "features": 2},
}

PRESETS: dict[str, LightSpeedConfig] = {
    name: LightSpeedConfig(
        **{key: value for key, value in LADDER[name].items() if key not in _OF_POINTS} | grids
    )
    for name, grids in _GRIDS.items()
}
"""The network of MobileR2L's preset of the same name with fewer blocks, for the grids do a part of their work."""
