"""Options of NeRF. Imports no torch."""

from dataclasses import dataclass
from typing import Literal

from lumigraph.configs.checks import check_numbers


@dataclass(frozen=True, kw_only=True)
class NeRFConfig:
    """A coarse and a fine MLP from points and view directions to density and colour (NeRF, 2020).

    The defaults are small enough for a laptop; the preset "paper" has the published sizes, "nerf_pl-blender" and
    "nerf_pl-llff" the recipes of nerf_pl.
    """

    training_steps: int = 20_000
    """Steps over which schedules run, and of training where neither --max-steps nor --max-minutes is given."""
    rays: int = 512
    """Rays of a training step."""
    samples: int = 32
    """Samples along a ray that are spread evenly, for the coarse network."""
    importance: int = 32
    """Samples added where the coarse network has found something, for the fine network; 0: the coarse network only."""
    disparity: bool | None = None
    """Spread the even samples evenly in inverse depth (None: where the scene is unbounded, its near plane not at 0,
    and samples not in normalised device coordinates)."""
    perturb: float = 1.0
    """How far training moves samples within their bins at random, 0..1."""
    density_noise: float = 0.0
    """Standard deviation of noise added to the density before its activation, in training."""
    ndc: Literal["auto", "on", "off"] = "auto"
    """Sample in normalised device coordinates; auto: where the scene is a forward-facing one."""
    depth: int = 4
    """Hidden layers of the fine network (of the only one, without importance samples)."""
    width: int = 128
    """Units of its hidden layers."""
    coarse_depth: int | None = 3
    """Hidden layers of the coarse network beside a fine one (None: as the fine one)."""
    coarse_width: int | None = 64
    """Units of its hidden layers (None: as the fine one)."""
    skip: int | None = 2
    """Number of the hidden layer, from 0, that sees the encoded position again; a network with fewer has none."""
    view_width: int | None = None
    """Units of the layer that sees the view direction (None: half the width; 0: colours do not depend on it)."""
    first_weights: Literal["glorot", "torch"] = "glorot"
    """Where networks begin: with the weights of Glorot and Bengio, of which colours are learnt sooner, as in the first
    NeRF, or with torch's, as in nerf_pl."""
    position_octaves: int = 8
    """Octaves of the encoding of positions."""
    direction_octaves: int = 3
    """Octaves of the encoding of view directions."""
    linear_octaves: bool = False
    """Frequencies of both encodings evenly spaced, not doubling."""
    density: Literal["relu", "softplus"] = "softplus"
    """Activation of density. relu is the published one, and can die where most of a batch is background; softplus, of
    the output - 1, cannot."""
    view_frame: Literal["world", "ndc"] = "world"
    """Frame of the encoded view directions where samples are in normalised device coordinates."""
    ray_length: Literal["depth", "distance"] = "depth"
    """What near and far bound: depth along the camera's axis, or distance along the ray."""
    pixel_corner: bool = False
    """Render pictures with rays through the corners of pixels: what nerf_pl and nerf-pytorch have trained with. Set by
    import; such a network is not trained on."""
    loss: Literal["mse", "huber"] = "mse"
    """Squared error of coarse and fine colours, or Huber's, linear beyond 0.1."""
    optimiser: Literal["adam", "sgd", "radam", "ranger"] = "adam"
    """Who turns gradients into steps."""
    lr: float = 0.002
    """Learning rate."""
    momentum: float = 0.9
    """Momentum of sgd."""
    weight_decay: float = 0.0
    """Weight decay."""
    schedule: Literal["steplr", "cosine", "poly", "exponential", "constant"] = "exponential"
    """How the learning rate falls."""
    schedule_unit: Literal["step", "epoch"] = "step"
    """Unit of decay_steps and warmup, and whether the rate changes after each step or each pass over all pixels."""
    decay_steps: tuple[int, ...] = ()
    """steplr: when the rate is multiplied by decay_gamma. exponential: its first is how long that takes (none: all of
    training)."""
    decay_gamma: float = 0.1
    """Factor of steplr and exponential."""
    poly_exponent: float = 0.9
    """Exponent of poly, (1 - share of training)^exponent."""
    warmup: int = 0
    """Length of the linear rise of the rate at the start; the schedule begins after it."""
    warmup_multiplier: float = 1.0
    """Factor on the learning rate at the end of the rise and from then on."""
    crop_steps: int = 0
    """Steps (of --training-steps) that learn from the middle of the photos only, against collapse to the background."""
    crop_share: float = 0.5
    """Share of both sides of a photo that counts as its middle."""
    foreground_share: float = 0.5
    """Least share of rays of a step that meet something, where the photos have alpha; as published 0, with which a
    small object is taken for background at first, and for long."""
    same_image: bool = False
    """Take all rays of a step from one photo."""

    def __post_init__(self) -> None:
        """Raises ValueError for numbers of which no field can be made."""
        shares = ("perturb", "momentum", "foreground_share", "crop_share")
        check_numbers(self, positive=_POSITIVE, not_negative=_NOT_NEGATIVE, shares=shares)
        self._check_combinations()

    def _check_combinations(self) -> None:
        if max(self.position_octaves, self.direction_octaves) > 24:
            raise ValueError("more than 24 octaves are beyond what float32 resolves")
        if self.samples < (3 if self.importance else 2):
            raise ValueError(f"samples is {self.samples}: 2 are needed, 3 with importance samples")
        if self.crop_share == 0:
            raise ValueError("crop_share is 0: the middle of the photos would have no pixel")
        if any(step < 1 for step in self.decay_steps) or list(self.decay_steps) != sorted(self.decay_steps):
            raise ValueError(f"decay_steps must be positive and rise, and are {self.decay_steps}")
        if self.schedule == "steplr" and not self.decay_steps:
            raise ValueError("steplr needs decay_steps: when the learning rate falls")
        if (self.warmup > 0) != (self.warmup_multiplier != 1.0):
            raise ValueError(
                f"warmup {self.warmup} and warmup_multiplier {self.warmup_multiplier:g} need each other: one says how "
                "long the rate rises, the other by which factor"
            )


_POSITIVE = (
    "training_steps", "rays", "depth", "width", "coarse_depth", "coarse_width", "lr", "decay_gamma",
    "poly_exponent", "warmup_multiplier",
)  # fmt: skip
_NOT_NEGATIVE = (
    "importance", "density_noise", "skip", "view_width", "position_octaves", "direction_octaves", "weight_decay",
    "warmup", "crop_steps",
)  # fmt: skip

_PAPER = NeRFConfig(
    training_steps=300_000,
    rays=4096,
    samples=64,
    importance=128,
    disparity=False,
    depth=8,
    width=256,
    coarse_depth=None,
    coarse_width=None,
    skip=5,
    position_octaves=10,
    direction_octaves=4,
    density="relu",
    lr=5e-4,
    foreground_share=0.0,
)
"""Mildenhall et al. 2020, section 5.3: the rate falls from 5e-4 to 5e-5."""


def _nerf_pl(**changes: object) -> NeRFConfig:
    """nerf_pl's recipes: batches of 1024, 64 + 64 samples, the position again one layer earlier than in the paper, the
    rate halved after some epochs, and torch's first weights."""
    shared = {
        "rays": 1024,
        "importance": 64,
        "skip": 4,
        "first_weights": "torch",
        "schedule": "steplr",
        "schedule_unit": "epoch",
        "decay_gamma": 0.5,
    }
    return NeRFConfig(**{**vars(_PAPER), **shared, **changes})  # type: ignore[arg-type]


PRESETS = {
    "cpu": NeRFConfig(),
    "paper": _PAPER,
    # 16 epochs of 100 photos of 400 x 400 pixels.
    "nerf_pl-blender": _nerf_pl(training_steps=250_000, decay_steps=(2, 4, 8)),
    # 30 epochs of 19 photos of 504 x 378 pixels (fern, without the one held out), and the default noise.
    "nerf_pl-llff": _nerf_pl(training_steps=106_050, decay_steps=(10, 20), density_noise=1.0),
}
