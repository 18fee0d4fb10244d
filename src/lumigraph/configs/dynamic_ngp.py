"""Options of the dynamic hash-grid teacher. Imports no torch."""

from dataclasses import dataclass

from lumigraph.configs.checks import GRID_RANGES, check_numbers
from lumigraph.configs.marching import MarchingConfig


@dataclass(frozen=True, kw_only=True)
class DynamicNGPConfig(MarchingConfig):
    """A scene that moves, on hash grids of space and of space and time, marched through an occupancy grid.

    The defaults train in minutes on two cores; the preset "gpu" has larger grids.
    """

    time_levels: int = 8
    """Levels of the grids of space and time."""
    time_features: int = 4
    """Numbers per entry of them."""
    time_log2_entries: int = 15
    """Largest number of entries of a level of them, as a power of two."""
    time_base_resolution: int = 16
    """Vertices of their coarsest level along the scene's box."""
    time_finest_resolution: int = 256
    """Vertices of their finest level along the scene's box."""
    time_share: float = 0.125
    """Cells along time, as a share of those along the scene's box."""

    def __post_init__(self) -> None:
        """Raises ValueError for numbers of which no field can be made."""
        super().__post_init__()
        ranges = {f"time_{name}": limits for name, limits in GRID_RANGES.items()}
        check_numbers(self, positive=("time_share",), shares=("time_share",), ranges=ranges)
        if self.time_finest_resolution < self.time_base_resolution:
            raise ValueError(
                f"time_finest_resolution {self.time_finest_resolution} is below "
                f"time_base_resolution {self.time_base_resolution}"
            )


PRESETS = {"cpu": DynamicNGPConfig()}
