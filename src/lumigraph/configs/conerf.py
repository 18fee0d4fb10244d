"""Options of CoNeRF. Imports no torch."""

from dataclasses import dataclass

from lumigraph.configs.checks import check_numbers
from lumigraph.configs.warped import PUBLISHED_SIZES, WarpedConfig


@dataclass(frozen=True, kw_only=True)
class CoNeRFConfig(WarpedConfig):
    """HyperNeRF with ambient coordinates that named attributes control, each where its mask says (CoNeRF, 2022).

    Learns from a few frames of which somebody has said the attributes' values, and perhaps what they move. Of a scene
    without times, whose every frame must have them, there are neither codes nor warp. The defaults are small enough for
    a laptop; the preset "paper" has the published sizes.
    """

    attribute_depth: int = 3
    """Hidden layers of the network from the code of a moment to the values of the attributes."""
    attribute_width: int = 32
    """Their width."""
    mask_depth: int = 3
    """Hidden layers of the network that tells what an attribute moves."""
    mask_width: int = 64
    """Their width."""
    mask_branch_width: int = 32
    """Units of the layer after them."""
    mask_noise: float = 0.01
    """Standard deviation of what is added to masks in training, before their sigmoid."""
    attribute_weight: float = 0.1
    """Weight of the squared error of the values, in annotated frames."""
    mask_weight: float = 0.1
    """Weight of the focal cross entropy of the masks, where they are annotated. The published 0.01 had not
    found small ones after some hundred small steps."""
    latent_weight: float = 1e-4
    """Weight of the squared length of the codes."""
    annotated_share: float = 0.1
    """Least share of rays of a step from annotated frames, where there are such."""

    def __post_init__(self) -> None:
        """Raises ValueError for numbers of which no field can be made."""
        super().__post_init__()
        check_numbers(
            self,
            positive=("attribute_depth", "attribute_width", "mask_depth", "mask_width", "mask_branch_width"),
            not_negative=("mask_noise", "attribute_weight", "mask_weight", "latent_weight"),
            shares=("annotated_share",),
        )


PRESETS = {
    "cpu": CoNeRFConfig(),
    "paper": CoNeRFConfig(
        **PUBLISHED_SIZES,  # pyright: ignore[reportArgumentType]
        rays=512,
        ambient_dims=8,
        code_width=128,
        attribute_depth=6,
        mask_depth=8,
        mask_width=256,
        mask_branch_width=128,
        mask_weight=0.01,
    ),
}
