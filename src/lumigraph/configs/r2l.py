"""Options of the R2L student. Imports no torch."""

from dataclasses import dataclass, replace
from typing import Literal

from lumigraph.configs.light_field import PUBLISHED, LightFieldConfig


@dataclass(frozen=True, kw_only=True)
class R2LConfig(LightFieldConfig):
    """A deep residual MLP that maps the code of a ray to its colour in one evaluation.

    The defaults are sized for minutes on two cores; the published network is the preset "paper".
    """

    code: Literal["points", "plucker"] = "points"
    """What describes a ray: points along it, or its Plücker coordinates (direction, moment)."""


_PAPER = R2LConfig(training_steps=1_200_000, **PUBLISHED)

PRESETS: dict[str, R2LConfig] = {
    "cpu": R2LConfig(),
    "cpu-large": R2LConfig(width=256, lr=2e-3),
    "cpu-small": R2LConfig(training_steps=20_000, width=64, depth=14),
    "paper": _PAPER,
    "paper-llff": replace(_PAPER, near=0.0, far=1.0, decay_steps=250_000),
    "donerf": replace(_PAPER, width=181),
}
"""`paper*` and `donerf` are the published networks and schedules; `cpu*` are sized for minutes on two cores. The
published code for LLFF puts the points at depths 0 to 1 of rays in the scene, before all there is to see."""
