"""Options of D-NeRF, of T-NeRF, and of the still baseline of both. Imports no torch."""

from dataclasses import dataclass, replace
from typing import Literal

from lumigraph.configs.checks import check_numbers


@dataclass(frozen=True, kw_only=True)
class DNeRFConfig:
    """NeRF of a scene that moves (D-NeRF, 2021).

    The defaults are small enough for a laptop; the presets "paper" and "paper-short" have the published sizes and
    schedules, and differ in how slowly photos of later times join in.
    """

    training_steps: int = 20_000
    """Steps over which schedules run, and of training where neither --max-steps nor --max-minutes is given."""
    rays: int = 512
    """Rays of a training step."""
    motion: Literal["deform", "direct", "none"] = "deform"
    """What time does. deform: moves points to where they were at time 0, where a still field is asked (D-NeRF); direct:
    is an input of the field (T-NeRF); none: nothing, the still baseline."""
    samples: int = 32
    """Samples along a ray that are spread evenly."""
    importance: int = 32
    """Samples added where the first ones have found something; 0: none."""
    two_networks: bool = False
    """A network of its own for the evenly spread samples, which learns colours too; else one does for both, and they
    tell it without gradients where to look closer."""
    perturb: float = 1.0
    """How far training moves samples within their bins at random, 0..1."""
    density_noise: float = 0.0
    """Standard deviation of noise added to the density before its activation, in training."""
    depth: int = 4
    """Hidden layers of the field."""
    width: int = 128
    """Units of its hidden layers."""
    skip: int | None = 2
    """Number of the hidden layer, from 0, that sees the encoded position again, of both networks; one with fewer layers
    has none."""
    view_width: int | None = None
    """Units of the layer that sees the view direction (None: half the width; 0: colours do not depend on it)."""
    deformation_depth: int = 4
    """Hidden layers of the deformation network."""
    deformation_width: int = 128
    """Units of its hidden layers."""
    zero_canonical: bool = True
    """At time 0 nothing is displaced."""
    first_weights: Literal["glorot", "torch"] = "glorot"
    """Where the field begins: with the weights of Glorot and Bengio, of which colours are learnt sooner, or with
    torch's, as published and as the deformation network does."""
    position_octaves: int = 8
    """Octaves of the encoding of positions."""
    direction_octaves: int = 3
    """Octaves of the encoding of view directions."""
    time_octaves: int = 6
    """Octaves of the encoding of times."""
    density: Literal["relu", "softplus"] = "softplus"
    """Activation of density. relu is the published one, and can die where most of a batch is background; softplus, of
    the output - 1, cannot."""
    motion_tv_weight: float = 0.0
    """Weight of the mean squared difference between displacements at a photo's time and at one on the way to the photo
    before or after it; with two networks of those of both, a sample counting alike in each. D-NeRF's own option is
    0.0001 of a sum, 28.8 of this mean at 500 rays of 192 samples."""
    pixel_corner: bool = False
    """Render pictures with rays through the corners of pixels: what published weights have learnt. Set by import; such
    a network is not trained on."""
    lr: float = 0.002
    """Learning rate."""
    decay_steps: int | None = None
    """Steps over which the rate falls to a tenth (None: all of training)."""
    crop_steps: int = 0
    """Steps (of --training-steps) that learn from the middle of the photos only, against collapse to the background."""
    crop_share: float = 0.5
    """Share of both sides of a photo that counts as its middle."""
    time_steps: int = 0
    """Steps (of --training-steps) over which photos join in the order of their times, the first three of them at once;
    0: all from the start."""
    foreground_share: float = 0.5
    """Least share of rays of a step that meet something, where the photos have alpha; as published 0, with which a
    small object is taken for background at first, and for long."""
    same_image: bool = False
    """Take all rays of a step from one photo, and so of one time."""

    def __post_init__(self) -> None:
        """Raises ValueError for numbers of which no field can be made."""
        shares = ("perturb", "foreground_share", "crop_share")
        check_numbers(self, positive=_POSITIVE, not_negative=_NOT_NEGATIVE, shares=shares, ranges=_RANGES)
        if self.samples < (3 if self.importance else 2):
            raise ValueError(f"samples is {self.samples}: 2 are needed, 3 with importance samples")
        if self.crop_share == 0:
            raise ValueError("crop_share is 0: the middle of the photos would have no pixel")
        if self.motion_tv_weight and self.motion != "deform":
            raise ValueError(f"motion_tv_weight has no effect where motion is {self.motion}")
        if self.two_networks and not self.importance:
            raise ValueError("two_networks needs importance samples, which the second of them sees")


_POSITIVE = (
    "training_steps", "rays", "depth", "width", "deformation_depth", "deformation_width", "lr", "decay_steps",
)  # fmt: skip
_NOT_NEGATIVE = (
    "importance", "density_noise", "skip", "view_width", "motion_tv_weight", "crop_steps", "time_steps",
)  # fmt: skip
# Beyond 24 octaves float32 resolves nothing.
_RANGES = {"position_octaves": (0, 24), "direction_octaves": (0, 24), "time_octaves": (0, 24)}

_PAPER = DNeRFConfig(
    training_steps=800_000,
    rays=500,
    samples=64,
    importance=128,
    depth=8,
    width=256,
    skip=5,
    deformation_depth=8,
    deformation_width=256,
    position_octaves=10,
    direction_octaves=4,
    time_octaves=10,
    density="relu",
    lr=5e-4,
    foreground_share=0.0,
    first_weights="torch",
    decay_steps=500_000,
    crop_steps=500,
    time_steps=100_000,
    same_image=True,
)
"""Pumarola et al. 2021, section 4, in the numbers of the published configurations: of the paper's own, the batch is
4096 rays of 64 samples, times have 4 octaves, and the rate ends at 5e-5."""


PRESETS = {
    "cpu": DNeRFConfig(),
    # hellwarrior, hook, jumpingjacks, mutant, standup.
    "paper": _PAPER,
    # bouncingballs, lego, trex.
    "paper-short": replace(_PAPER, time_steps=10_000),
}
