"""Options of the R2L student. Imports no torch."""

from dataclasses import dataclass, replace
from typing import Literal

from lumigraph.configs.checks import check_numbers

Activation = Literal["relu", "leaky_relu", "none"]


@dataclass(frozen=True, kw_only=True)
class R2LConfig:
    """A deep residual MLP that maps the code of a ray to its colour in one evaluation.

    The defaults are sized for minutes on two cores; the published network is the preset "paper".
    """

    training_steps: int = 60_000
    """Steps over which schedules run, and of distillation where neither --max-steps nor --max-minutes is given."""
    width: int = 128
    """Units of every hidden layer."""
    depth: int = 24
    """Linear layers in all: one head, one tail, and the body between them."""
    layers_per_block: int = 2
    """Linear layers of one residual block of the body."""
    residual: bool = True
    """Residual blocks; without them the body is a plain MLP, which the paper shows to learn badly."""
    global_skip: bool = True
    """Add the head's output to the body's output."""
    residual_scale: float = 1.0
    """Factor on the output of a residual block before it is added."""
    activation: Activation = "relu"
    """After the head, and after each layer of a plain body."""
    inner_activation: Activation = "relu"
    """Between the layers of a residual block."""
    outer_activation: Activation = "none"
    """After the addition of a residual block."""

    code: Literal["points", "plucker"] = "points"
    """What describes a ray: points along it, or its Plücker coordinates (direction, moment)."""
    points: int = 24
    """Points on a ray, both ends included."""
    octaves: int = 4
    """Frequencies of the positional encoding, 1 to 2^(octaves - 1). The published 10 need hours before views
    between the pseudo views come out right; few learn smooth pictures in minutes."""
    perturb: bool = False
    """Jitter the points within their bins during training."""
    extent: Literal["ball", "cameras"] = "ball"
    """Where the points lie. ball: between the depths at which the training cameras find the ball within the scene's
    box. cameras: from the smallest near to the largest far of the training cameras, as published."""
    ray_space: Literal["auto", "world", "ndc"] = "auto"
    """Where rays are made into points. ndc: in the normalised device coordinates of a forward-facing scene, from its
    near plane to infinity, as MobileR2L does; world: in the scene, as R2L does everywhere; auto: ndc for scenes that
    have it, else world."""
    near: float | None = None
    """Depth of the first point in scene units, instead of that of `extent`."""
    far: float | None = None
    """Depth of the last point in scene units, instead of that of `extent`."""
    learn_depth: bool = False
    """Predict depth as well, where the labels have it."""
    depth_weight: float = 0.1
    """Weight of the depth loss, on depth scaled from near..far to 0..1."""

    rays: int = 2048
    """New rays per step; rays of the hard pool come on top."""
    hard_ratio: tuple[float, float] = (0.2, 0.2)
    """Hard rays that enter the pool, and that leave it into the batch, as parts of `rays`; 0 0 is no pool."""
    hard_multiple: int = 20
    """Size of the hard-ray pool in multiples of `rays`."""

    lr: float = 4e-3
    """Adam's learning rate."""
    warmup_lr: float = 4e-4
    """Learning rate of step 0, from which it rises linearly to `lr`."""
    warmup_steps: int = 200
    """Steps of that rise; 0 is none."""
    schedule: Literal["steps", "budget", "constant"] = "budget"
    """After the warm-up. steps: times 0.1 every `decay_steps`, as published. budget: a cosine from `lr` to
    `lr * final_lr` over the training budget, whatever its length. constant: `lr`."""
    decay_steps: int = 500_000
    """Steps in which the learning rate falls to a tenth (schedule steps)."""
    final_lr: float = 0.02
    """Part of `lr` that is left at the end (schedule budget)."""

    def __post_init__(self) -> None:
        check_numbers(self, positive=_POSITIVE, not_negative=_NOT_NEGATIVE, shares=("final_lr",))
        if self.depth < 3:
            raise ValueError(f"depth must be at least 3 (head, body, tail), not {self.depth}")
        if self.residual and (self.depth - 2) % self.layers_per_block:
            raise ValueError(
                f"depth - 2 must be a multiple of layers_per_block ({self.layers_per_block}), "
                f"and {self.depth} - 2 is not"
            )
        if self.code == "points" and self.points < 2:
            raise ValueError("points must be at least 2: both ends of the ray")
        if not all(0 <= ratio <= 1 for ratio in self.hard_ratio):
            raise ValueError(f"hard_ratio must lie in 0..1, not {self.hard_ratio}")

    @property
    def blocks(self) -> int:
        """Residual blocks of the body (43 at depth 88)."""
        return (self.depth - 2) // self.layers_per_block


_POSITIVE = (
    "training_steps", "width", "layers_per_block", "points", "rays", "hard_multiple", "lr", "decay_steps",
)  # fmt: skip
_NOT_NEGATIVE = ("octaves", "warmup_steps", "warmup_lr", "depth_weight")

_PAPER = R2LConfig(
    width=256,
    depth=88,
    training_steps=1_200_000,
    points=16,
    octaves=10,
    perturb=True,
    extent="cameras",
    ray_space="world",
    rays=81920,
    lr=5e-4,
    warmup_lr=1e-4,
    schedule="steps",
)

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
