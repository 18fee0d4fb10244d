"""Options of the dynamic hash-grid teacher. Imports no torch."""

from dataclasses import dataclass
from typing import Literal

from lumigraph.configs.checks import GRID_RANGES, check_numbers
from lumigraph.configs.marching import MarchingConfig


@dataclass(frozen=True, kw_only=True)
class DynamicNGPConfig(MarchingConfig):
    """Instant-NGP for a scene that moves: hash grids of space and time before, or beside, the hash grid of space.

    The defaults train in minutes on two cores; the preset "factors" has grids for that other design, "gpu" larger ones.
    """

    samples: int = 8192
    """Visible samples wanted per training step; the number of rays adapts."""
    motion: Literal["warp", "factors"] = "warp"
    """warp: grids of space and time, and a small network, say from where a point has moved, and the grid of space what
    is there; factors: the product of the grids of space and time stands beside what the grid of space says."""
    time_levels: int = 3
    """Levels of the grids of space and time."""
    time_features: int = 2
    """Numbers per entry of them."""
    time_log2_entries: int = 15
    """Largest number of entries of a level of them, as a power of two."""
    time_base_resolution: int = 8
    """Vertices of their coarsest level along the scene's box."""
    time_finest_resolution: int = 32
    """Vertices of their finest level along the scene's box."""
    time_share: float = 0.5
    """Cells along time, as a share of those along the scene's box."""
    time_lr: float = 0.005
    """Learning rate of the grids of space and time, and of the network that makes motion of them."""
    motion_hidden: int = 32
    """Width of that network's hidden layer."""
    ambient: int = 4
    """Numbers of that network that stand beside what the grid of space says, for what no motion explains."""
    occupancy_times: int = 2
    """Times at which an update of the occupancy grid asks about a cell where there is something, or next to one: what
    is there at one moment in twenty is found so much more often before it has faded. On a CPU each further one makes a
    step about 6 % dearer."""
    mask_weight: float = 0.05
    """Weight of the cross entropy of attributes' masks with what photos say that each attribute moves; with 0 there are
    none."""
    random_backdrop: bool = True
    """Lay photos with alpha on another colour for every ray in training, whatever background they are shown on: what
    looks like the background is told from nothing."""

    def __post_init__(self) -> None:
        """Raises ValueError for numbers of which no field can be made."""
        super().__post_init__()
        ranges = {f"time_{name}": limits for name, limits in GRID_RANGES.items()}
        positive = ("time_share", "time_lr", "motion_hidden", "occupancy_times")
        check_numbers(
            self,
            positive=positive,
            not_negative=("ambient", "mask_weight"),
            shares=("time_share",),
            ranges=ranges,
        )
        if self.time_finest_resolution < self.time_base_resolution:
            raise ValueError(
                f"time_finest_resolution {self.time_finest_resolution} is below "
                f"time_base_resolution {self.time_base_resolution}"
            )


PRESETS = {
    "cpu": DynamicNGPConfig(),
    "factors": DynamicNGPConfig(
        motion="factors",
        time_levels=8,
        time_features=4,
        time_base_resolution=16,
        time_finest_resolution=256,
        time_share=0.125,
        time_lr=0.003,
    ),
    "gpu": DynamicNGPConfig(
        training_steps=30_000,
        levels=16,
        features=2,
        log2_entries=19,
        finest_resolution=1024,
        cells=128,
        occupancy_warmup=256,
        occupancy_share=0.25,
        occupancy_decay=0.95,
        steps=1024,
        samples=1 << 18,
        first_rays=4096,
        lr=0.01,
        network_lr=0.01,
        time_levels=4,
        time_log2_entries=17,
        time_finest_resolution=64,
        motion_hidden=64,
    ),
}
