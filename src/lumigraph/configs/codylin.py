"""Options of the CoDyLiN student. Imports no torch."""

from dataclasses import dataclass, replace

from lumigraph.configs.checks import check_numbers
from lumigraph.configs.light_field import PUBLISHED, PUBLISHED_MOTION, MovingLightFieldConfig


@dataclass(frozen=True, kw_only=True)
class CoDyLiNConfig(MovingLightFieldConfig):
    """A light field that is controlled: DyLiN with a hyper code for each attribute, and masks that say where it counts.

    No code of it was published: this is a reconstruction. The defaults are sized for minutes on two cores.
    """

    mask_width: int = 48
    """Units of the network that makes the masks."""
    mask_layers: int = 4
    """Hidden layers of it."""
    mask_skip: int = 3
    """Number of its hidden layer, counted from 0, that sees the input again."""
    mask_sees_attributes: bool = True
    """Whether masks may depend on the attributes, so that they can follow what these move."""
    mask_weight: float = 0.05
    """Weight of the masks' cross entropy with those of the teacher, where it tells any."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # Without a code, attributes would have no way to the colours.
        check_numbers(
            self,
            positive=("hyper_dims", "mask_width", "mask_layers"),
            not_negative=("mask_skip", "mask_weight"),
        )


_PAPER = CoDyLiNConfig(
    **PUBLISHED, **PUBLISHED_MOTION, mask_width=64, mask_layers=6, mask_skip=5, mask_sees_attributes=False
)

PRESETS: dict[str, CoDyLiNConfig] = {
    "cpu": CoDyLiNConfig(),
    "cpu-small": CoDyLiNConfig(
        training_steps=20_000,
        width=64,
        depth=14,
        offset_width=32,
        offset_layers=4,
        hyper_width=32,
        mask_width=32,
    ),
    "paper": _PAPER,
    "paper-hypernerf": replace(_PAPER, unit_directions=True),
}
"""`paper*` have the sizes and the schedule that are published of DyLiN, and masks that go by the moved ray alone;
`paper-hypernerf` is for captures in HyperNeRF's format, whose rays have directions of length 1. `cpu*` are sized for
minutes on two cores."""
