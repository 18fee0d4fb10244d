"""Where each level of a multi-resolution hash grid lies in its one flat table.

Letters (Instant-NGP, Mueller et al. 2022, section 3): L levels, F features per entry, T the largest number of entries
of a level, N the number of grid vertices along an axis, b the growth of the resolution from level to level.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

PRIMES = (1, 2654435761, 805459861)
"""Hash multipliers of equation 4; the first is 1 so that neighbours along x stay neighbours in memory."""


@dataclass(frozen=True)
class GridLayout:
    """Sizes and offsets of the levels; every array has one entry per level.

    A level with scale s places a point x in [0, 1] at x * s + 0.5, so that vertices of different levels do not
    coincide. Levels whose N^3 vertices fit into T are stored densely.
    """

    levels: int
    features: int
    log2_entries: int
    base_resolution: int
    finest_resolution: int

    def __post_init__(self) -> None:
        if not (1 <= self.levels <= 64 and 1 <= self.features <= 16 and 4 <= self.log2_entries <= 28):
            raise ValueError(f"no such hash grid: {self}")
        if not 2 <= self.base_resolution <= self.finest_resolution:
            raise ValueError(f"resolutions must satisfy 2 <= base <= finest: {self}")

    @property
    def growth(self) -> float:
        """b = exp((ln finest - ln base) / (L - 1)), equation 3."""
        if self.levels == 1:
            return 1.0
        return math.exp(math.log(self.finest_resolution / self.base_resolution) / (self.levels - 1))

    @cached_property
    def scales(self) -> np.ndarray:
        return np.array(
            [self.base_resolution * self.growth**level - 1.0 for level in range(self.levels)], np.float32
        )

    @cached_property
    def vertices(self) -> np.ndarray:
        """N of each level, plus the one more that the half-cell offset can reach."""
        return (np.ceil(self.scales) + 2).astype(np.int64)

    @cached_property
    def sizes(self) -> np.ndarray:
        return np.minimum(self.vertices**3, 1 << self.log2_entries).astype(np.int64)

    @cached_property
    def offsets(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self.sizes)[:-1]]).astype(np.int64)

    @cached_property
    def hashed(self) -> np.ndarray:
        return self.vertices**3 > (1 << self.log2_entries)

    @property
    def entries(self) -> int:
        return int(self.sizes.sum())

    @property
    def width(self) -> int:
        """Numbers per encoded point, L * F."""
        return self.levels * self.features

    @property
    def faded_width(self) -> int:
        """Numbers per encoded Gaussian: features, and what is gone of each level."""
        return self.width + self.levels

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """What kernels need to know of the levels, in the order they take it."""
        return self.scales, self.vertices, self.hashed, self.sizes, self.offsets
