"""Options of Mip-NeRF. Imports no torch."""

from dataclasses import dataclass
from typing import Literal

from lumigraph.configs.checks import GRID_RANGES, check_numbers


@dataclass(frozen=True, kw_only=True)
class MipNeRFConfig:
    """Cones instead of rays: one field, asked for the average over the piece of a pixel's cone between two depths
    (Mip-NeRF, 2021), so that pictures of any smaller size come out without aliasing.

    The defaults put a hash grid in the place of the published network and train in minutes on two cores; the preset
    "paper" is the published method.
    """

    training_steps: int = 10_000
    """Steps over which schedules run, and of training where neither --max-steps nor --max-minutes is given."""
    rays: int = 1024
    """Rays of a training step."""
    backbone: Literal["grid", "mlp"] = "grid"
    """grid: a hash grid whose levels fade where their cells are smaller than what is looked at, and small networks;
    mlp: the published network on the integrated positional encoding."""
    integrate: bool = True
    """Look at pieces of cones; without it at points, which see any pixel alike (the published ablation)."""
    coarse_samples: int = 64
    """Intervals along a ray that are spread evenly."""
    fine_samples: int = 32
    """Intervals drawn where the first ones have found something."""
    coarse_weight: float = 0.0
    """Weight of the coarse colours' error. With 0 the coarse intervals only say where to look: the field that they ask
    learns from the fine ones."""
    resample_padding: float = 0.01
    """Added to every blurred weight before the fine intervals are drawn."""
    disparity: bool | None = None
    """Spread the even intervals evenly in inverse depth (None: where the scene is unbounded)."""
    ndc: Literal["auto", "on", "off"] = "auto"
    """Sample in normalised device coordinates, where cones are cylinders; auto: where the scene is a forward-facing
    one."""
    area_power: float = 0.5
    """Where a scene has pictures of several scales, a pixel counts by its area in the finest picture to this power: by
    its area (1) as published, by its side (0.5), or all alike (0). The higher, the better small pictures come out and
    the worse large ones."""
    distortion_weight: float = 0.0
    """Weight of the distortion loss of mip-NeRF 360, against floating matter."""
    density_noise: float = 0.0
    """Standard deviation of noise added to the density before its activation, in training."""
    density_bias: float = -1.0
    """Added to the density before its activation (mlp)."""
    rgb_padding: float = 0.001
    """By how much colours may leave [0, 1], so that black and white are reached."""
    lr: float = 0.01
    """Learning rate of the networks."""
    final_lr: float = 0.0003
    """The same at the end; in between its logarithm falls evenly, and other rates fall alike."""
    lr_delay_steps: int = 0
    """Steps at the start during which the rate is held down."""
    lr_delay_factor: float = 0.01
    """By this factor at the first of them."""

    octaves: int = 16
    """Octaves of the encoding of positions (mlp)."""
    view_octaves: int = 4
    """Octaves of the encoding of view directions (mlp)."""
    depth: int = 8
    """Hidden layers (mlp)."""
    width: int = 256
    """Units of a hidden layer (mlp)."""
    skip: int | None = 5
    """Number of the hidden layer, from 0, that sees the encoded position again (mlp)."""
    view_width: int = 128
    """Units of the layer that sees the view direction (mlp)."""

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
    """Width of the hidden layers (grid)."""
    geometry_features: int = 16
    """Numbers that the density network hands to the colour network, what density is the exponential of among
    them (grid)."""
    colour_layers: int = 2
    """Hidden layers of the colour network (grid)."""
    grid_lr: float = 0.02
    """Learning rate of the hash grid."""
    cells: int = 64
    """Cells along an axis of the grid of what may hold something; the rest of a bounded scene is passed by. 0: none
    is (grid)."""

    def __post_init__(self) -> None:
        """Raises ValueError for numbers of which no field can be made."""
        check_numbers(
            self, positive=_POSITIVE, not_negative=_NOT_NEGATIVE, shares=("area_power",), ranges=_RANGES
        )
        if self.finest_resolution < self.base_resolution:
            raise ValueError(
                f"finest_resolution {self.finest_resolution} is below base_resolution {self.base_resolution}"
            )


_POSITIVE = (
    "training_steps", "rays", "coarse_samples", "fine_samples", "resample_padding", "lr", "final_lr",
    "lr_delay_factor", "depth", "width", "view_width", "hidden", "geometry_features", "colour_layers", "grid_lr",
)  # fmt: skip
_NOT_NEGATIVE = (
    "cells", "coarse_weight", "distortion_weight", "density_noise", "rgb_padding", "lr_delay_steps",
    "skip",
)  # fmt: skip
_RANGES = {"octaves": (1, 24), "view_octaves": (1, 24), **GRID_RANGES}


def _paper(rays: int = 4096, density_noise: float = 0.0) -> MipNeRFConfig:
    """Barron et al. 2021, section 4 and the published code."""
    return MipNeRFConfig(
        training_steps=1_000_000,
        rays=rays,
        backbone="mlp",
        coarse_samples=128,
        fine_samples=128,
        coarse_weight=0.1,
        disparity=False,
        area_power=1.0,
        density_noise=density_noise,
        lr=5e-4,
        final_lr=5e-6,
        lr_delay_steps=2500,
    )


PRESETS = {
    "cpu": MipNeRFConfig(),
    # The published method with a small network and few samples.
    "cpu-mlp": MipNeRFConfig(
        training_steps=20_000,
        rays=512,
        backbone="mlp",
        coarse_samples=32,
        fine_samples=32,
        coarse_weight=0.1,
        area_power=1.0,
        lr=2e-3,
        final_lr=2e-5,
        lr_delay_steps=100,
        octaves=12,
        depth=4,
        width=128,
        skip=None,
        view_width=64,
    ),
    "paper": _paper(),
    # Forward-facing captures: noise on the density.
    "paper-llff": _paper(density_noise=1.0),
    # The batch of mipnerf_pl.
    "mipnerf_pl": _paper(rays=3072),
}
