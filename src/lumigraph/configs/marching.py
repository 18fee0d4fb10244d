"""Options that methods share which march rays through an occupancy grid. Imports no torch."""

from dataclasses import dataclass, field
from typing import Literal

from lumigraph.configs.checks import GRID_RANGES, check_numbers
from lumigraph.configs.depth import DepthLoss


@dataclass(frozen=True, kw_only=True)
class MarchingConfig:
    """A hash grid, small networks behind it, and how rays are marched and learnt from."""

    training_steps: int = 20_000
    """Steps over which schedules run, and of training where neither --max-steps nor --max-minutes is given."""
    levels: int = 8
    """Levels of the hash grid."""
    features: int = 4
    """Numbers per entry of the hash grid."""
    log2_entries: int = 17
    """Largest number of entries of a level, as a power of two."""
    base_resolution: int = 16
    """Vertices of the coarsest level along the scene's box."""
    finest_resolution: int = 512
    """Vertices of the finest level along the scene's box (along all of space where the scene is unbounded)."""
    hidden: int = 64
    """Width of the hidden layers."""
    geometry_features: int = 16
    """Numbers that the density network hands to the colour network, what density is the exponential of among them."""
    colour_layers: int = 2
    """Hidden layers of the colour network."""
    first_weights: Literal["he", "glorot"] = "he"
    """Where these networks begin: with the weights of He et al., of which colours are learnt sooner, or with those of
    Glorot and Bengio, as published."""
    cells: int = 96
    """Cells of the occupancy grid along an axis."""
    cascades: int = 5
    """Occupancy grids of doubling size, where the scene is unbounded."""
    occupancy_interval: int = 16
    """Steps between updates of the occupancy grid."""
    occupancy_warmup: int = 16
    """Up to this step an update looks at every cell."""
    occupancy_share: float = 0.0625
    """Later, at this share of all cells and as many occupied ones."""
    occupancy_decay: float = 0.8
    """Factor by which what was found in a cell fades at each update."""
    steps: int = 320
    """Steps of a ray along the diagonal of the scene's box."""
    coarse_steps: int = 128
    """Training steps during which the steps of a ray shrink from four times their length to their own."""
    step_growth: float = 0.015625
    """Growth of the step with distance where the scene is unbounded."""
    samples: int = 16384
    """Visible samples wanted per training step; the number of rays adapts."""
    first_rays: int = 256
    """Rays of the first step, when nothing is known to be empty."""
    most_rays: int = 65536
    """Rays of a step at the most."""
    lr: float = 0.02
    """Learning rate of the hash grid."""
    network_lr: float = 0.02
    """Learning rate of the networks."""
    warmup_steps: int | None = None
    """Steps in which learning rates rise to these; 0 is none, as published. Without, the depth loss urf often learns
    what few photos show as a wall before each camera, from which nothing leads away (None: 100 with that loss and
    fewer than 20 photos, else 0)."""
    hold: float = 0.5
    """Part of the budget before the learning rate begins to fall."""
    final_lr: float = 0.03
    """Learning rate at the end, as a share of the first."""
    schedule: Literal["exponential", "cosine"] = "exponential"
    """How it falls."""
    opacity_weight: float = 0.0
    """Weight of the entropy -o log o of a ray's opacity, against half-transparent surfaces."""
    distortion_weight: float | None = None
    """Weight of the distortion loss of mip-NeRF 360, against floating matter (None: 0.01 where the scene is unbounded,
    0.001 elsewhere)."""
    same_image: bool = False
    """Take all rays of a step from one photo."""
    refine_cameras: bool = False
    """Learn a small correction to each camera's pose."""
    camera_lr: float = 0.0001
    """Learning rate of the corrections (radians, and units of the scene's half box)."""
    depth: DepthLoss = field(default_factory=DepthLoss)
    """Depth supervision."""

    def __post_init__(self) -> None:
        """Raises ValueError for numbers of which no field can be made."""
        shares = ("hold", "final_lr", "occupancy_share", "occupancy_decay")
        check_numbers(self, positive=_POSITIVE, not_negative=_NOT_NEGATIVE, shares=shares, ranges=_RANGES)
        if self.finest_resolution < self.base_resolution:
            raise ValueError(
                f"finest_resolution {self.finest_resolution} is below base_resolution {self.base_resolution}"
            )


_POSITIVE = (
    "training_steps", "hidden", "geometry_features", "colour_layers", "occupancy_interval", "steps",
    "samples", "first_rays", "most_rays", "lr", "network_lr", "final_lr",
)  # fmt: skip
_NOT_NEGATIVE = (
    "occupancy_warmup", "coarse_steps", "warmup_steps", "step_growth", "opacity_weight", "distortion_weight",
    "camera_lr",
)  # fmt: skip
_RANGES = {**GRID_RANGES, "cells": (2, 512), "cascades": (1, 16)}
