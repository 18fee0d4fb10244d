"""Options of the DyLiN student. Imports no torch."""

from dataclasses import dataclass, replace

from lumigraph.configs.light_field import PUBLISHED, PUBLISHED_MOTION, MovingLightFieldConfig


@dataclass(frozen=True, kw_only=True)
class DyLiNConfig(MovingLightFieldConfig):
    """A light field of a moving scene: time moves the ray and makes a hyper code, then one evaluation as R2L's.

    The defaults are sized for minutes on two cores; the published network is the preset "paper".
    """


_PAPER = DyLiNConfig(**PUBLISHED, **PUBLISHED_MOTION)

PRESETS: dict[str, DyLiNConfig] = {
    "cpu": DyLiNConfig(),
    "cpu-small": DyLiNConfig(
        training_steps=20_000, width=64, depth=14, offset_width=32, offset_layers=4, hyper_width=32
    ),
    "paper": _PAPER,
    "paper-hypernerf": replace(_PAPER, unit_directions=True),
}
"""`paper` is the published network and schedule for D-NeRF's scenes, with heads that begin at zero. `paper-hypernerf`
is for HyperNeRF's captures, whose rays have directions of length 1: near and far are those of the capture, where the
published command left the 2 and 6 of the synthetic scenes. `cpu*` are sized for minutes on two cores."""
