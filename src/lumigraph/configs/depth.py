"""Options of depth supervision, shared by the methods that know it. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

WEIGHTS = {"none": 0.0, "l2": 0.02, "urf": 0.1, "dsnerf": 0.1, "swb": 1.0}
"""Weight of each loss where none is given."""


@dataclass(frozen=True, kw_only=True)
class DepthLoss:
    """How the known depths of photos enter the loss of a teacher (`rendering/depth_losses.py`).

    A method's config holds it as `depth: DepthLoss = field(default_factory=DepthLoss)`; on the command line its options
    have no prefix, hence their names.
    """

    depth_loss: Literal["none", "l2", "urf", "dsnerf", "swb"] = "none"
    """What is asked of a ray of known depth. l2: its rendered depth; urf: its weights (Urban Radiance Fields); dsnerf:
    the divergence of its weights from a Gaussian (DS-NeRF); swb: bounds on its opacity before and behind the surface
    (statistical weight bounds)."""
    depth_weight: float | None = None
    """Weight of the depth loss (None: 0.02 of l2, 0.1 of urf and dsnerf, 1 of swb)."""
    depth_epsilon: float = 0.03
    """Half width of a surface, units of the capture: at the end of training, and no less than what the depth is unsure
    by."""
    depth_relative: bool = False
    """Take --depth-epsilon, and the error of l2, as parts of the depth."""
    depth_anneal: float | None = None
    """How many times wider surfaces are at the start of training (None: 10 for urf, 1 for the others)."""
    depth_penalty: Literal["squared", "absolute", "huber"] = "squared"
    """How l2 and urf judge the error of the rendered depth; huber is linear beyond --depth-epsilon."""
    depth_statistic: Literal["expected", "median"] = "expected"
    """Which depth of a ray l2 judges; the expected one is the sum of weight times depth."""
    depth_expected_weight: float = 1.0
    """Weight within urf of the error of the rendered depth."""
    depth_empty_weight: float = 1.0
    """Weight within swb and urf of what lies in front of the surface."""
    depth_bound_weight: float = 0.1
    """Weight within swb of the bounds near the surface and behind it."""
    depth_beta: float = 0.0
    """Slack of swb's bounds before and behind the surface, in epsilons: 0 for exact depth, 2 for a sensor's."""
    depth_open_far: bool = True
    """Whether swb's bound holds to the end of the ray; else to three epsilons behind the surface."""
    depth_at_middles: bool = False
    """Compare swb's bounds in the middle of intervals, as published, where even a perfect surface costs something."""
    keep_depth: float = 1.0
    """The part of the pixels of known depth, chosen by the seed, whose depth training is told."""
    depth_sky_weight: float = 0.0
    """Weight of the squared weights of rays at which the photo is transparent: nothing is there."""

    def __post_init__(self) -> None:
        """Raises ValueError for numbers that mean nothing."""
        if not self.depth_epsilon > 0:
            raise ValueError(f"depth_epsilon must be positive, not {self.depth_epsilon}")
        if not 0 < self.keep_depth <= 1:
            raise ValueError(f"keep_depth must lie in 0..1, above 0, and is {self.keep_depth}")
        if self.depth_anneal is not None and not self.depth_anneal >= 1:
            raise ValueError(f"depth_anneal must be at least 1, not {self.depth_anneal}")
        for name in _NOT_NEGATIVE:
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ValueError(f"{name} must not be negative, and is {value}")

    @property
    def weight(self) -> float:
        """Weight of the loss."""
        return WEIGHTS[self.depth_loss] if self.depth_weight is None else self.depth_weight

    @property
    def needs_depth(self) -> bool:
        """Whether batches must carry depth."""
        return self.depth_loss != "none" and self.weight > 0

    @property
    def anneal(self) -> float:
        """How many times wider surfaces are at the start."""
        if self.depth_anneal is None:
            return 10.0 if self.depth_loss == "urf" else 1.0
        return self.depth_anneal


_NOT_NEGATIVE = (
    "depth_weight", "depth_expected_weight", "depth_empty_weight", "depth_bound_weight", "depth_beta",
    "depth_sky_weight",
)  # fmt: skip


def depth_loss_of(config: Any) -> DepthLoss:
    """How a method's config uses depth; of one that does not know depth, the default, which is not at all."""
    depth = getattr(config, "depth", None)
    return depth if isinstance(depth, DepthLoss) else DepthLoss()


@dataclass(frozen=True, kw_only=True)
class DepthSource:
    """Which depth a teacher is trained with, where there is more than the scene's own."""

    depth_source: Literal["sensor", "mono", "composite"] = "sensor"
    """sensor: the scene's depth maps; mono: the maps of --mono-depth; composite: the scene's where they know depth,
    those of --mono-depth elsewhere."""
    mono_depth: Path | None = None
    """Folder with what a network says of each training photo: NAME.npy for NAME.png, in the folders of the scene."""
    mono_inverse: bool = False
    """The maps of --mono-depth hold the inverse of depth."""
    depth_align: Literal["none", "sensor", "colmap"] = "sensor"
    """What the scale and shift of each map of --mono-depth are found from: the scene's depth maps, the key points of
    --colmap, or nothing, for maps in units of the capture."""
    colmap: Path | None = None
    """Folder of the COLMAP model that the poses are from, for --depth-align colmap."""
    depth_sigma: float | None = None
    """Least standard deviation of depth, units of the capture; a sensor's is at least 1 percent of the depth, and that
    of aligned maps at least their spread (None: a sensor's depth counts as exact)."""

    def __post_init__(self) -> None:
        """Raises ValueError for options that do not go together."""
        if self.depth_sigma is not None and not self.depth_sigma >= 0:
            raise ValueError(f"depth_sigma must not be negative, and is {self.depth_sigma}")
        if (self.depth_source == "sensor") != (self.mono_depth is None):
            raise ValueError("--mono-depth belongs to --depth-source mono or composite, which need it")
        if (self.colmap is not None) != (self.depth_align == "colmap"):
            raise ValueError("--colmap belongs to --depth-align colmap, which needs it")
