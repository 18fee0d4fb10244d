"""Options that students share: points on rays, the schedule, one residual MLP per ray. Imports no torch."""

from dataclasses import dataclass
from typing import Any, Literal

from lumigraph.configs.checks import check_numbers

Activation = Literal["relu", "leaky_relu", "none"]


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """What every student is told: where it sees rays, how long it learns, and how the learning rate goes."""

    training_steps: int = 60_000
    """Steps over which schedules run, and of distillation where neither --max-steps nor --max-minutes is given."""
    ray_space: Literal["auto", "world", "ndc"] = "auto"
    """Where rays are seen. ndc: in the normalised device coordinates of a forward-facing scene, from its near plane to
    infinity, as MobileR2L does; world: in the scene, as R2L does everywhere; auto: ndc for scenes that have it, else
    world."""

    lr: float = 4e-3
    """Adam's learning rate."""
    warmup_lr: float = 4e-4
    """Learning rate of step 0, from which it rises linearly to `lr`."""
    warmup_steps: int = 200
    """Steps of that rise; 0 is none. With schedule budget it ends after a tenth of the budget at the latest."""
    schedule: Literal["steps", "budget", "constant"] = "budget"
    """After the warm-up. steps: times 0.1 every --decay-steps, as published. budget: a cosine from `lr` to
    `lr * final_lr` over the training budget, whatever its length. constant: `lr`."""
    decay_steps: int = 500_000
    """Steps in which the learning rate falls to a tenth (schedule steps)."""
    final_lr: float = 0.02
    """Part of `lr` that is left at the end (schedule budget)."""

    def __post_init__(self) -> None:
        check_numbers(
            self,
            positive=("training_steps", "lr", "decay_steps"),
            not_negative=("warmup_steps", "warmup_lr"),
            shares=("final_lr",),
        )


@dataclass(frozen=True, kw_only=True)
class StudentConfig(ScheduleConfig):
    """What every student that sees points on rays is told: where these lie, and how they are encoded."""

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
    near: float | None = None
    """Depth of the first point in scene units, instead of that of `extent`."""
    far: float | None = None
    """Depth of the last point in scene units, instead of that of `extent`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, positive=("points",), not_negative=("octaves",))
        if self.points < 2:
            raise ValueError("points must be at least 2: both ends of the ray")


@dataclass(frozen=True, kw_only=True)
class LightFieldConfig(StudentConfig):
    """A deep residual MLP from the code of a ray to its colour. The defaults are sized for minutes on two cores."""

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

    unit_directions: bool = False
    """Make the direction of every ray as long as 1 first, as HyperNeRF's rays are; near and far are then distances."""
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

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, positive=_POSITIVE, not_negative=("depth_weight",))
        if self.depth < 3:
            raise ValueError(f"depth must be at least 3 (head, body, tail), not {self.depth}")
        if self.residual and (self.depth - 2) % self.layers_per_block:
            raise ValueError(
                f"depth - 2 must be a multiple of layers_per_block ({self.layers_per_block}), "
                f"and {self.depth} - 2 is not"
            )
        if not all(0 <= ratio <= 1 for ratio in self.hard_ratio):
            raise ValueError(f"hard_ratio must lie in 0..1, not {self.hard_ratio}")

    @property
    def blocks(self) -> int:
        """Residual blocks of the body (43 at depth 88)."""
        return (self.depth - 2) // self.layers_per_block


_POSITIVE = ("width", "layers_per_block", "rays", "hard_multiple")

PUBLISHED: dict[str, Any] = {
    "width": 256,
    "depth": 88,
    "points": 16,
    "octaves": 10,
    "perturb": True,
    "extent": "cameras",
    "ray_space": "world",
    "rays": 81920,
    "lr": 5e-4,
    "warmup_lr": 1e-4,
    "schedule": "steps",
}
"""The published network and schedule, the same for R2L and DyLiN."""


@dataclass(frozen=True, kw_only=True)
class MotionConfig(StudentConfig):
    """Small networks that move rays and make a hyper code, as DyLiN has them."""

    motion_octaves: int = 6
    """Frequencies with which the small networks see the ray and its time (published: those of `octaves`)."""
    motion_window: float = 0.0
    """Part of the training budget in which these frequencies come in one after the other; 0: all from the start."""
    zero_heads: bool = True
    """Begin with the rays where they are and a hyper code of zeros; published: as any other layer."""
    offset_width: int = 64
    """Units of the network that moves rays."""
    offset_layers: int = 5
    """Hidden layers of it."""
    offset_skip: int = 3
    """Number of its hidden layer, counted from 0, that sees the input again."""
    hyper_dims: int = 8
    """Numbers of the hyper code, which tells the light field what moving rays cannot; 0 is none (mobile-dylin: then
    its large network is not told time and attributes either)."""
    hyper_width: int = 48
    """Units of the network that makes it."""
    hyper_layers: int = 4
    """Hidden layers of it."""
    hyper_skip: int = 3
    """Number of its hidden layer, counted from 0, that sees the input again."""
    hyper_per_point: bool = False
    """Give the hyper code to the light field once for each point of a ray, as the paper says, not once for the ray, as
    its code does: the same numbers in more inputs."""
    motion_lr: float = 1.0
    """Learning rate of the small networks, as a factor on `lr`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(
            self, positive=_SMALL_POSITIVE, not_negative=_SMALL_NOT_NEGATIVE, shares=("motion_window",)
        )


@dataclass(frozen=True, kw_only=True)
class MovingLightFieldConfig(LightFieldConfig, MotionConfig):
    """A light field whose rays are moved and whose colours are changed by small networks, as DyLiN has it."""


_SMALL_POSITIVE = ("offset_width", "offset_layers", "hyper_width", "hyper_layers", "motion_lr")
_SMALL_NOT_NEGATIVE = ("motion_octaves", "offset_skip", "hyper_dims", "hyper_skip")

PUBLISHED_MOTION: dict[str, Any] = {
    "training_steps": 800_000,
    "motion_octaves": 10,
    "offset_width": 128,
    "offset_layers": 7,
    "offset_skip": 5,
    "hyper_width": 64,
    "hyper_layers": 6,
    "hyper_skip": 5,
}
"""The small networks of DyLiN as published, and its steps."""
