"""Options of the Instant-NGP teacher. Imports no torch."""

from dataclasses import dataclass, replace

from lumigraph.configs.marching import MarchingConfig


@dataclass(frozen=True, kw_only=True)
class NGPConfig(MarchingConfig):
    """A multi-resolution hash grid with small MLPs, marched through an occupancy grid (Instant-NGP, 2022).

    The defaults train in minutes on two cores; the preset "paper" has the published sizes, "mobile-r2l" and
    "mobile-r2l-llff" the recipes by which MobileR2L trained its teachers.
    """

    cones: bool = False
    """See what a whole pixel sees, as Mip-NeRF does: levels of the grid fade whose cells are finer than it. For photos
    or pictures of several sizes (train --scales): of other sizes than those it was trained on it knows little."""


PRESETS = {
    "cpu": NGPConfig(),
    "paper": NGPConfig(
        training_steps=30_000,
        levels=16,
        features=2,
        log2_entries=19,
        finest_resolution=1024,
        first_weights="glorot",
        cells=128,
        occupancy_warmup=256,
        occupancy_share=0.25,
        occupancy_decay=0.95,
        steps=1024,
        step_growth=1 / 256,
        coarse_steps=0,
        samples=1 << 18,
        first_rays=8192,
        most_rays=8192,
        lr=0.01,
        network_lr=0.01,
        warmup_steps=0,
        hold=0.0,
        final_lr=1 / 30,
        schedule="cosine",
        opacity_weight=0.001,
        distortion_weight=0.0,
    ),
}
"""`paper` is Instant-NGP as MobileR2L's teacher has it by default (ngp_pl)."""
PRESETS["mobile-r2l"] = replace(
    PRESETS["paper"], lr=0.02, network_lr=0.02, samples=1 << 19, first_rays=16_384, most_rays=16_384
)
"""Of scenes around an object: 30 epochs of 1000 steps of 16,384 rays."""
PRESETS["mobile-r2l-llff"] = replace(
    PRESETS["paper"], lr=0.02, network_lr=0.02, training_steps=20_000, cascades=4, finest_resolution=8192
)
"""Of forward-facing scenes: 20 epochs, in a box of half side 4 (`--scale 4`), whose cascades and finest grid cell these
are; what lies beyond, left out there, is contracted here. Photos are a quarter of their size: `--downscale 4`."""
