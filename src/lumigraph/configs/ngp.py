"""Options of the Instant-NGP teacher. Imports no torch."""

from dataclasses import dataclass

from lumigraph.configs.marching import MarchingConfig


@dataclass(frozen=True, kw_only=True)
class NGPConfig(MarchingConfig):
    """A multi-resolution hash grid with small MLPs, marched through an occupancy grid (Instant-NGP, 2022).

    The defaults train in minutes on two cores; the preset "paper" has the published sizes.
    """


PRESETS = {
    "cpu": NGPConfig(),
    "paper": NGPConfig(
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
        step_growth=1 / 256,
        coarse_steps=0,
        samples=1 << 18,
        first_rays=8192,
        most_rays=8192,
        lr=0.01,
        network_lr=0.01,
        hold=0.0,
        schedule="cosine",
        opacity_weight=0.001,
        distortion_weight=0.0,
    ),
}
