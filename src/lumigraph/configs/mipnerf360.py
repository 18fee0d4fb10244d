"""Options of the mip-NeRF 360 teacher. Imports no torch."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from lumigraph.configs.checks import GRID_RANGES, check_numbers
from lumigraph.configs.depth import DepthLoss

NormalLoss = Literal["none", "cosine", "chord", "l1"]


@dataclass(frozen=True, kw_only=True)
class MipNeRF360Config:
    """A radiance field that proposal networks tell where to look, with contraction of unbounded space and codes of
    cameras (mip-NeRF 360, 2022, and Mip-NeRF with proposals).

    The defaults, a hash grid with small networks, train in minutes on two cores; the presets "paper", "paper-360" and
    "paper-llff" have the published sizes, "swb-lego" and "swb-room" those of depth-supervised Mip-NeRF; "cpu-room" is
    the latter on a hash grid.
    """

    training_steps: int = 10_000
    """Steps over which schedules run, and of training where neither --max-steps nor --max-minutes is given."""
    rays: int = 1024
    """Rays of a training step."""
    field: Literal["grid", "mlp"] = "grid"
    """What encodes space: a hash grid at points, or integrated encodings of Gaussians with large networks."""

    proposal_samples: tuple[int, ...] = (48,)
    """Intervals of each proposal level."""
    samples: int = 24
    """Intervals of the final level, those that are coloured."""
    resampler: Literal["blur", "dilate"] = "blur"
    """How a level is drawn from the one before: Mip-NeRF's (blurred weights) or mip-NeRF 360's (dilated intervals)."""
    blur_padding: float = 0.01
    """Weight that "blur" gives to every interval, so that none is forgotten."""
    dilation: float = 0.0025
    """By how much "dilate" widens each interval, in normalised depth."""
    dilation_share: float = 0.5
    """And by this share of the mean interval that all levels before would have together."""
    anneal_slope: float = 10.0
    """How quickly proposals are trusted, the b of Schlick's bias, from not at all to fully (0: fully at once)."""
    proposal_interval: int = 4
    """Every so many steps proposals learn, once the first --proposal-warmup steps are over."""
    proposal_warmup: int = 500
    """Steps at first in which proposals always learn."""
    spacing: Literal["linear", "disparity"] | None = None
    """Normalised depth is even in depth or in its inverse (None: disparity where the scene is unbounded)."""
    near_plane: float | None = None
    """Depth at which rays begin (None: the scene's); impossible in normalised device coordinates, as the next."""
    far_plane: float | None = None
    """Depth at which rays end (None: the scene's)."""
    opaque_background: bool | None = None
    """The last interval of a ray hides all behind it (None: where the scene is unbounded and photos have no alpha)."""
    ndc: Literal["auto", "on", "off"] = "off"
    """Sample in normalised device coordinates, where cones are cylinders; auto: where the scene is a forward-facing
    one. Off, such a scene is contracted, as other unbounded ones are."""
    depth_guided: float = 0.0
    """Share of the first level's intervals that are drawn around the depth of the photo, where it is known."""
    depth_guided_spread: float = 0.0498
    """Standard deviation of these draws, units of the capture."""
    depth_guided_learnt: bool = False
    """Learn that spread; --depth-guided-spread is then what it is at first."""

    layers: int = 1
    """Hidden layers of the network that gives density."""
    width: int = 64
    """Their width."""
    proposal_layers: int = 1
    """Hidden layers of the proposal network, which all proposal levels share."""
    proposal_width: int = 16
    """Their width."""
    bottleneck: int = 16
    """Numbers that are handed on to the layers that colour."""
    view_layers: int = 2
    """Layers that colour, from these numbers, the view direction and the camera's code."""
    view_width: int = 64
    """Their width."""
    view_octaves: int = 4
    """Octaves of the encoding of view directions (0: colours look the same from everywhere)."""

    octaves: int = 16
    """Octaves of the integrated encoding ("mlp")."""
    solid: Literal["octahedron", "icosahedron"] = "octahedron"
    """Solid whose corners are the directions along which Gaussians are encoded ("mlp")."""
    subdivisions: int = 1
    """Into how many parts its edges are cut; the octahedron in 1 has the three axes ("mlp")."""

    levels: int = 8
    """Levels of the hash grid ("grid", as all that follows)."""
    features: int = 4
    """Numbers per entry of the hash grid."""
    log2_entries: int = 17
    """Largest number of entries of a level, as a power of two."""
    base_resolution: int = 16
    """Vertices of the coarsest level along the scene's box."""
    finest_resolution: int = 512
    """Vertices of the finest level."""
    proposal_levels: int = 5
    """Levels of the hash grid of the proposals."""
    proposal_features: int = 2
    """Numbers per entry of it."""
    proposal_log2_entries: int = 16
    """Largest number of entries of a level of it."""
    proposal_resolution: int = 128
    """Vertices of its finest level."""
    cells: int = 64
    """Cells along an axis of the grid of what may hold something; the rest of a bounded scene is passed by. 0: none
    is."""
    least_weight: float = 1e-4
    """Final samples that send less light than this are not coloured."""

    charbonnier: float = 1.0
    """The eps of the colour loss sqrt(error^2 + eps^2): 0.001 as published. Errors far below eps count by their square,
    far above by their size, which at first favours what most pixels show, an empty background."""
    area_power: float = 1.0
    """Where a scene has pictures of several scales, a pixel counts by its area in the finest picture to this power: 1
    as published, with 0 all pixels count alike."""
    charbonnier_squared: bool = True
    """Whether eps is squared; the published code of depth-supervised Mip-NeRF leaves the square out."""
    proposal_weight: float = 1.0
    """Weight of the loss that makes proposals cover what the final level sees, summed over the proposal levels."""
    distortion_weight: float = 0.001
    """Weight of the distortion loss, in normalised depth."""
    density_noise: float = 0.0
    """Standard deviation of noise on densities before their activation, in training."""
    normals: bool = False
    """Also give normals where the renderer is asked: those of the density, or what the field predicts."""
    predicted_normals_weight: float = 0.0
    """Weight of the loss between the normals of the density and those that the field then predicts, which are smoother
    (Ref-NeRF: 0.0003)."""
    orientation_weight: float = 0.0
    """Weight of the loss on visible normals that look away from the camera (Ref-NeRF: 0.1), predicted ones where there
    are such."""
    normal_loss: NormalLoss = "none"
    """What is asked of the normals of the density where photos come with normal maps, for each sample by its weight.
    cosine: 1 - the cosine of the angle between the two; chord: the distance of the two; l1: the sum of the absolute
    differences of their coordinates."""
    normal_weight: float = 0.001
    """Weight of that loss."""

    depth: DepthLoss = dataclasses.field(default_factory=DepthLoss)
    """Depth supervision."""
    proposal_depth_weight: float = 0.1
    """Share of the depth loss that each proposal level gets as well, so that samples soon reach the surface."""

    codes: int = 0
    """Numbers of the code that is learnt for each camera (0: none)."""
    code_choice: Literal["zero", "mean", "nearest"] = "mean"
    """What is drawn with: no code, the mean of all, or that of the nearest training camera."""
    code_weight: float = 1e-4
    """Weight of the mean square of the codes."""

    lr: float = 0.01
    """Learning rate at first."""
    final_lr: float = 0.0005
    """Learning rate at the end; it falls evenly in its logarithm."""
    lr_delay_steps: int = 0
    """Steps over which the learning rate rises to what it should be."""
    lr_delay_factor: float = 0.01
    """With what share of it it begins."""
    beta2: float = 0.99
    """How slowly Adam's second moment changes."""
    adam_eps: float = 1e-15
    """Adam's eps."""
    clip_norm: float | None = None
    """Largest norm of a step's gradient, of each network by itself (None: any)."""

    def __post_init__(self) -> None:
        """Raises ValueError for numbers of which no field can be made."""
        check_numbers(self, positive=_POSITIVE, not_negative=_NOT_NEGATIVE, shares=_SHARES, ranges=_RANGES)
        if not self.proposal_samples or min(*self.proposal_samples, self.samples) < 2:
            raise ValueError(
                f"there must be a proposal level, and every level needs two intervals: {self.proposal_samples} "
                f"and {self.samples}"
            )
        if min(self.finest_resolution, self.proposal_resolution) < self.base_resolution:
            raise ValueError(f"a finest resolution is below base_resolution {self.base_resolution}")
        near, far = self.near_plane, self.far_plane
        if near is not None and far is not None and near >= far:
            raise ValueError(f"near_plane {near} is not in front of far_plane {far}")
        if self.depth_guided and not self.depth.needs_depth:
            raise ValueError("depth_guided needs photos with depth, which depth_loss asks for")
        first = self.proposal_samples[0]
        guided = round(self.depth_guided * first)
        if self.depth_guided and not 1 <= guided <= first - 1:
            raise ValueError(
                f"depth_guided {self.depth_guided} guides {guided} of the {first} intervals of the first level: it "
                "must guide one, and leave one"
            )
        if self.depth_guided_learnt and not self.depth_guided:
            raise ValueError(
                "depth_guided_learnt needs depth_guided, the share of samples whose spread is learnt"
            )

    @property
    def wants_normals(self) -> bool:
        """Whether photos are to come with maps of normals."""
        return self.normal_loss != "none" and self.normal_weight > 0

    @property
    def idle(self) -> dict[str, str]:
        """The options that mean nothing beside the others, and what gives them a meaning."""
        found = {}
        if not self.depth_guided:
            found["depth_guided_spread"] = "--depth-guided"
        if self.normal_loss == "none":
            found["normal_weight"] = "--normal-loss"
        elif not self.normal_weight:
            found["normal_loss"] = "--normal-weight above 0"
        return found


_POSITIVE = (
    "training_steps", "rays", "width", "proposal_width", "bottleneck", "view_layers", "view_width", "subdivisions",
    "proposal_interval", "charbonnier", "lr", "final_lr", "adam_eps", "clip_norm", "near_plane", "far_plane",
    "depth_guided_spread", "layers", "proposal_layers",
)  # fmt: skip
_NOT_NEGATIVE = (
    "blur_padding", "dilation", "anneal_slope", "proposal_warmup", "proposal_weight", "distortion_weight",
    "density_noise", "orientation_weight", "predicted_normals_weight", "normal_weight", "codes", "code_weight", "cells",
    "proposal_depth_weight", "lr_delay_steps", "view_octaves",
)  # fmt: skip
_SHARES = ("area_power", "depth_guided", "lr_delay_factor", "dilation_share", "least_weight", "beta2")
_RANGES = {
    "octaves": (1, 30),
    **GRID_RANGES,
    "proposal_levels": GRID_RANGES["levels"],
    "proposal_features": GRID_RANGES["features"],
    "proposal_log2_entries": GRID_RANGES["log2_entries"],
    "proposal_resolution": GRID_RANGES["finest_resolution"],
}

_PAPER = MipNeRF360Config(
    training_steps=250_000,
    rays=16384,
    field="mlp",
    proposal_samples=(64, 64),
    samples=32,
    resampler="dilate",
    area_power=1.0,
    proposal_interval=1,
    proposal_warmup=0,
    layers=8,
    width=256,
    proposal_layers=4,
    proposal_width=256,
    bottleneck=256,
    view_layers=1,
    view_width=128,
    least_weight=0.0,
    charbonnier=0.001,
    distortion_weight=0.01,
    lr=2e-3,
    final_lr=2e-5,
    lr_delay_steps=512,
    beta2=0.999,
    adam_eps=1e-6,
    clip_norm=1e-3,
)


def _changed(config: MipNeRF360Config, **options: object) -> MipNeRF360Config:
    return MipNeRF360Config(**{**vars(config), **options})


# The published depth loss stands beside a Charbonnier loss.
_SWB_DEPTH = DepthLoss(depth_loss="swb", depth_weight=1.0)
_SWB = _changed(
    _PAPER,
    rays=8192,
    resampler="blur",
    anneal_slope=0.0,
    spacing="linear",
    opaque_background=False,
    adam_eps=1e-8,
)

PRESETS = {
    "cpu": MipNeRF360Config(),
    "cpu-room": MipNeRF360Config(codes=4, depth=DepthLoss(depth_loss="swb", depth_beta=2.0)),
    "paper": _PAPER,
    "paper-360": _changed(
        _PAPER,
        width=1024,
        octaves=12,
        solid="icosahedron",
        subdivisions=2,
        spacing="disparity",
        near_plane=0.2,
        far_plane=1e6,
        opaque_background=True,
    ),
    # The published code's setting of forward-facing captures.
    "paper-llff": _changed(
        _PAPER,
        proposal_samples=(128,),
        opaque_background=True,
        ndc="auto",
        adam_eps=1e-8,
    ),
    "swb-lego": _changed(
        _SWB,
        training_steps=50_000,
        lr=3e-3,
        distortion_weight=0.0,
        depth=_SWB_DEPTH,
    ),
    # Published with samples even in depth between the planes of each room's file; phone captures and RGB-D folders have
    # no far plane that would leave any for the room.
    "swb-room": _changed(
        _SWB,
        training_steps=150_000,
        spacing=None,
        distortion_weight=1e-4,
        codes=4,
        view_octaves=0,
        depth=dataclasses.replace(_SWB_DEPTH, depth_beta=2.0),
    ),
}
