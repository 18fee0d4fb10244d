"""Options of teachers of moving scenes that warp every moment to one template. Imports no torch."""

from dataclasses import dataclass
from typing import Literal

from lumigraph.configs.checks import check_numbers


@dataclass(frozen=True, kw_only=True)
class WarpedConfig:
    """A template radiance field that the points of each moment are warped to, as HyperNeRF and CoNeRF have it.

    The defaults are small enough for a laptop.
    """

    training_steps: int = 4000
    """Steps over which schedules run, and of training where neither --max-steps nor --max-minutes is given."""
    rays: int = 256
    """Rays of a training step."""
    samples: int = 24
    """Samples along a ray that are spread evenly, for the coarse network."""
    importance: int = 24
    """Samples added where the coarse network has found something, for the fine network; 0: the coarse network only."""
    sample_at_infinity: bool | None = None
    """The last sample of a ray stands for all that is behind it; it colours the ray, and does not count as opacity or
    for depth (None: where photos have no alpha)."""

    depth: int = 4
    """Hidden layers of the template's coarse and of its fine network."""
    width: int = 96
    """Units of its hidden layers."""
    skip: int | None = 2
    """Number of the hidden layer, from 0, that sees the position again; a network with fewer has none. This holds for
    warp and slicing surface too."""
    view_width: int = 48
    """Units of the layer that sees the view direction."""
    position_octaves: int = 7
    """Octaves of the encoding of positions in the template."""
    direction_octaves: int = 3
    """Octaves of the encoding of view directions."""

    code_width: int = 8
    """Numbers learnt for each moment of the capture."""
    code_choice: Literal["linear", "nearest"] = "linear"
    """What a time between two moments is drawn with: the blend of their codes, or that of the nearer one."""
    appearance: Literal["none", "photo", "camera", "time"] = "none"
    """Codes that colours depend on besides: none; one for each photo; one for each camera of a rig, which pictures of
    that camera are drawn with (the published key "camera"); or one for each moment (the published "appearance")."""
    appearance_width: int = 8
    """Numbers of each of them."""

    warp: Literal["se3", "translation", "none"] = "se3"
    """How points are moved to the template: each by a rigid motion of its own, by a shift, or not at all."""
    warp_octaves: int = 4
    """Octaves of positions that the warp sees in the end."""
    warp_alpha_steps: int = 1300
    """Steps until it sees all of them; at first it sees none."""
    warp_depth: int = 4
    """Hidden layers of the warp."""
    warp_width: int = 48
    """Their width."""

    ambient_dims: int = 2
    """Ambient coordinates of a slicing surface."""
    ambient_octaves: int = 1
    """Octaves of their encoding."""
    ambient_delay_steps: int = 100
    """Steps at first in which the template sees no ambient coordinates."""
    ambient_rise_steps: int = 600
    """Steps after these until it sees them fully."""
    sheet_octaves: int = 4
    """Octaves of positions that a slicing surface sees."""
    sheet_depth: int = 3
    """Hidden layers of a slicing surface."""
    sheet_width: int = 32
    """Their width."""

    background_weight: float = 0.0
    """Weight of the loss that keeps points of the capture that are known to stand still where they are."""
    background_points: int = 1024
    """Points of a step that are asked for it."""
    background_noise: float = 0.001
    """Standard deviation of what they are moved by at random before, in scene units."""
    elastic_weight: float = 0.0
    """Weight of the loss that keeps the warp close to a rigid motion (published: 0.001, and 0 in all recipes)."""
    elastic: Literal["log_svals", "svals", "jtj", "div", "det", "log_det", "nearest_rotation"] = "log_svals"
    """How far from one: by the logarithms of the singular values of the warp's Jacobian J, or these themselves, by J
    J^T, divergence, volume or its logarithm, or the distance to the nearest rotation."""
    elastic_reduce: Literal["weight", "median"] = "weight"
    """Where along a ray. weight: everywhere, as much as the sample is seen, which triples the cost of a step; median:
    where half of the ray's light is reached."""
    warp_weight: float = 0.0
    """Weight of what the warp moves what rays see."""
    ambient_weight: float = 0.0
    """Weight of how far what rays see lies from 0 in the ambient coordinates."""

    lr: float = 0.002
    """Learning rate at first; it falls exponentially."""
    final_lr: float = 0.0002
    """Learning rate at the end."""
    clip_norm: float | None = None
    """Norm that gradients are scaled down to (None: any)."""

    dust_threshold: float = 0.0
    """Pictures show nothing of lower density than this, per scene unit."""
    inside_bounds: bool = False
    """Pictures show nothing outside the scene's box."""

    def __post_init__(self) -> None:
        """Raises ValueError for numbers of which no field can be made."""
        check_numbers(self, positive=_POSITIVE, not_negative=_NOT_NEGATIVE)
        octaves = (self.position_octaves, self.direction_octaves, self.warp_octaves, self.sheet_octaves)
        if max(octaves) > 24:
            raise ValueError("more than 24 octaves are beyond what float32 resolves")
        if self.samples < (3 if self.importance else 2):
            raise ValueError(f"samples is {self.samples}: 2 are needed, 3 with importance samples")
        if self.warp == "none" and (self.elastic_weight or self.warp_weight or self.background_weight):
            raise ValueError(
                "there is no warp that elastic_weight, warp_weight or background_weight could act on"
            )


_POSITIVE = (
    "training_steps", "rays", "depth", "width", "view_width", "code_width", "appearance_width", "warp_alpha_steps",
    "warp_depth", "warp_width", "ambient_dims", "ambient_octaves", "ambient_rise_steps", "sheet_octaves", "sheet_depth",
    "sheet_width", "background_points", "lr", "final_lr", "clip_norm",
)  # fmt: skip
_NOT_NEGATIVE = (
    "importance", "skip", "position_octaves", "direction_octaves", "warp_octaves", "ambient_delay_steps",
    "background_weight", "background_noise", "elastic_weight", "warp_weight", "ambient_weight", "dust_threshold",
)  # fmt: skip

PUBLISHED_SIZES = {
    "training_steps": 250_000,
    "samples": 128,
    "importance": 128,
    "depth": 8,
    "width": 256,
    "skip": 4,
    "view_width": 128,
    "position_octaves": 8,
    "direction_octaves": 4,
    "warp_octaves": 6,
    "warp_alpha_steps": 80_000,
    "warp_depth": 6,
    "warp_width": 128,
    "ambient_delay_steps": 1000,
    "ambient_rise_steps": 10_000,
    "sheet_octaves": 6,
    "sheet_depth": 6,
    "sheet_width": 64,
    "lr": 1e-3,
    "final_lr": 1e-4,
}
"""What the published recipes of HyperNeRF and CoNeRF share."""
