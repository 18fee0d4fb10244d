"""Options of depth supervision, shared by the methods that know it. Imports no torch."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from lumigraph.configs.checks import as_option, check_numbers, chosen

WEIGHTS = {"none": 0.0, "l2": 0.002, "urf": 0.01, "dsnerf": 0.01, "swb": 0.1}
"""Weight of each loss where none is given: a tenth of the published ones, which stand beside a colour loss of ten and
more times the gradient (Charbonnier's with a small eps; ours is a mean square)."""


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
    """Weight of the depth loss (None: 0.002 of l2, 0.01 of urf and dsnerf, 0.1 of swb)."""
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
    depth_share: float | None = None
    """Least part of the rays that are drawn from pixels of known depth (None: half where fewer than 5 percent are, as
    with key points; else as they come)."""
    keep_depth: float = 1.0
    """The part of the pixels of known depth, chosen by the seed, whose depth training is told."""
    depth_sky_weight: float = 0.0
    """Weight of the squared weights of rays at which the photo is transparent: nothing is there."""

    def __post_init__(self) -> None:
        """Raises ValueError for numbers that mean nothing."""
        if not self.depth_epsilon > 0:
            raise ValueError(f"depth_epsilon must be positive, not {self.depth_epsilon}")
        if self.depth_share is not None and not 0 <= self.depth_share <= 1:
            raise ValueError(f"depth_share must lie in 0..1, and is {self.depth_share}")
        if not 0 < self.keep_depth <= 1:
            raise ValueError(f"keep_depth must lie in 0..1, above 0, and is {self.keep_depth}")
        if self.depth_anneal is not None and not self.depth_anneal >= 1:
            raise ValueError(f"depth_anneal must be at least 1, not {self.depth_anneal}")
        check_numbers(self, not_negative=_NOT_NEGATIVE)

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


_LOSSES_WITH = {
    "depth_penalty": ("l2", "urf"),
    "depth_statistic": ("l2",),
    "depth_expected_weight": ("urf",),
    "depth_empty_weight": ("urf", "swb"),
    "depth_bound_weight": ("swb",),
    "depth_beta": ("swb",),
    "depth_open_far": ("swb",),
    "depth_at_middles": ("swb",),
    "depth_sky_weight": tuple(WEIGHTS),
}
"""The losses that an option means something to; those not named here belong to all but "none"."""


def options_without_effect(config: Any, presets: Iterable[Any]) -> list[str]:
    """Options of a method's config that were chosen and mean nothing to its depth loss, as on the command line. What a
    preset of the method sets was not chosen."""
    depth = depth_loss_of(config)
    expected = [DepthLoss(), *map(depth_loss_of, presets)]
    idle = []
    for option in fields(DepthLoss):
        used = _LOSSES_WITH.get(option.name, tuple(WEIGHTS)[1:])
        if option.name == "depth_loss" or depth.depth_loss in used:
            continue
        if chosen(depth, expected, option.name):
            idle.append(as_option(option.name))
    return idle


def depth_loss_of(config: Any) -> DepthLoss:
    """How a method's config uses depth; of one that does not know depth, the default, which is not at all."""
    depth = getattr(config, "depth", None)
    return depth if isinstance(depth, DepthLoss) else DepthLoss()


@dataclass(frozen=True, kw_only=True)
class DepthSource:
    """Which depth a teacher is trained with, where there is more than the scene's own."""

    depth_source: Literal["sensor", "mono", "composite", "colmap"] = "sensor"
    """sensor: the scene's depth maps; mono: the maps of --mono-depth; composite: the scene's where they know depth,
    those of --mono-depth elsewhere; colmap: the key points of --colmap, which are few."""
    mono_depth: Path | None = None
    """Folder with what a network says of each training photo: NAME.npy for NAME.png, in the folders of the scene, or
    omni/NAME_depth.npy for rgb/NAME.png."""
    mono_inverse: bool = False
    """The maps of --mono-depth hold the inverse of depth."""
    mono_kind: Literal["z", "euclidean"] = "z"
    """What the maps of --mono-depth tell of: z, depth along the camera's axis, or euclidean, distance along the ray."""
    depth_align: Literal["none", "sensor", "colmap"] = "sensor"
    """What the scale and shift of each map of --mono-depth are found from: the scene's depth maps, the key points of
    --colmap, or nothing, for maps in units of the capture."""
    colmap: Path | None = None
    """Folder of the COLMAP model that the poses are from, for --depth-source colmap or --depth-align colmap."""
    depth_sigma: float | None = None
    """Least standard deviation of depth, units of the capture; a sensor's is at least 1 percent of the depth, that of
    aligned maps at least their spread, and that of key points 1 percent at their mean reprojection error and more in
    proportion (None: a sensor's depth counts as exact)."""

    def to_json(self) -> dict[str, Any]:
        """What a run remembers of it; of folders, which may move, what is in them."""
        return {
            key: _contents(value) if isinstance(value, Path) else value for key, value in vars(self).items()
        }

    def __post_init__(self) -> None:
        """Raises ValueError for options that do not go together."""
        if self.depth_sigma is not None and not self.depth_sigma >= 0:
            raise ValueError(f"depth_sigma must not be negative, and is {self.depth_sigma}")
        if (self.depth_source in ("mono", "composite")) != (self.mono_depth is not None):
            raise ValueError(_needs("--mono-depth", "--depth-source mono or composite", self.mono_depth))
        if (self.colmap is not None) != ("colmap" in (self.depth_source, self.depth_align)):
            raise ValueError(_needs("--colmap", "--depth-source colmap or --depth-align colmap", self.colmap))


def _contents(folder: Path) -> str:
    """Tells folders apart by the names and sizes of their files."""
    files = sorted((path.relative_to(folder).as_posix(), path.stat().st_size) for path in folder.rglob("*.*"))
    return hashlib.sha256(repr(files).encode()).hexdigest()


def _needs(option: str, choice: str, folder: Path | None) -> str:
    """What is wrong where one of two is there without the other."""
    return f"{choice} needs {option} FOLDER" if folder is None else f"{option} has no effect without {choice}"
