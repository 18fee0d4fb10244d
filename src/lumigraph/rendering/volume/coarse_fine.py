"""Rays looked along twice: at evenly spread samples, then also where the first look has found something (NeRF, section
5.2), the samples drawn from the density's own weights.

A method brings its fields, functions of some of the rays at hand and of depths along them; which networks they ask, and
in what frame, is theirs. Letters: B rays, b of a part of them, K samples along each.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from lumigraph.geometry.ndc import ForwardFrame
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.background import Background, background_rgb, over
from lumigraph.rendering.renderer import Rendering
from lumigraph.rendering.volume.histogram import (
    drawn_from,
    jittered,
    median_depth,
    ray_depths,
    spaced,
    visible_weights,
)

BEYOND = 1e10
"""Length of the interval behind the last sample of a ray: what is dense there is opaque."""
_PADDING = 1e-5
"""Added to the weights of the first look before samples are drawn from them (nerf_pl, nerf-pytorch)."""
_KEPT_SAMPLES = {"cpu": 1 << 13, "accelerator": 1 << 18}
"""Samples whose activations training keeps at a time: few enough for the caches of a CPU, many for a GPU."""
FIELD_CHUNK = 1 << 13
"""Samples that go through a network together in rendering: large enough for the products, small for the caches."""
_PICTURE_SAMPLES = 1 << 21
"""Samples of the rays that a picture is rendered with at a time."""


@dataclass
class FieldSamples:
    """What a field says of samples: density before its activation [b, K], rgb [b, K, 3], and by name whatever else a
    method wants of each sample [b, K, C]."""

    density: Tensor
    rgb: Tensor
    extras: dict[str, Tensor] = field(default_factory=dict)


Field = Callable[[slice, Tensor], FieldSamples]
"""(which of the rays, depths [b, K] along them) -> what is there."""
RawDensity = Callable[[slice, Tensor], Tensor]
"""The same of the density before its activation [b, K] alone."""


@dataclass
class Seen:
    """What was seen along rays: depths and weights of the samples [B, K]; rgb [B, 3], premultiplied; opacity [B];
    extras of the field at the samples [B, K, C]."""

    t: Tensor
    weights: Tensor
    rgb: Tensor
    opacity: Tensor
    extras: dict[str, Tensor] = field(default_factory=dict)

    def mean_along(self, name: str, *, shaping: bool = True) -> Float[Tensor, "B C"]:
        """An extra summed along each ray by the weights, as colours are. `shaping`: what is learnt from it has a say in
        the density as well."""
        weights = self.weights if shaping else self.weights.detach()
        return (weights[..., None] * self.extras[name]).sum(1)


@dataclass
class Draws:
    """Where the randomness of a training step comes from; rendering has none. `perturb`, 0..1: how far samples move
    within their bins. `noise`: standard deviation of what is added to the density before its activation."""

    generator: torch.Generator
    perturb: float = 1.0
    noise: float = 0.0

    def uniform(self, like: Tensor, count: int) -> Tensor:
        return torch.rand(len(like), count, generator=self.generator, device=like.device)

    def density(self, raw: Tensor) -> Tensor:
        if self.noise == 0:
            return raw
        return raw + self.noise * torch.randn(raw.shape, generator=self.generator, device=raw.device)


@dataclass(frozen=True)
class CoarseFine:
    """How rays are looked along.

    `samples`: evenly spread ones, in depth or (`disparity`) in its inverse; `importance`: those added for the second
    look, 0 for a single one. `activation`: from raw density to density per unit of length. `beyond`: length of the last
    interval in depths; None for one as long as the interval before, as densities that are nowhere zero need.
    """

    samples: int
    importance: int
    activation: Callable[[Tensor], Tensor]
    disparity: bool = False
    beyond: float | None = BEYOND

    # ------------------------------------------------------------------ where to look

    def even(self, rays: Rays, draws: Draws | None) -> Float[Tensor, "B samples"]:
        """Depths from near to far; with draws each moved within its bin."""
        t = spaced(rays.near, rays.far, self.samples, self.disparity)
        if draws is not None and draws.perturb:
            t = jittered(t, draws.perturb * draws.uniform(t, self.samples))
        return t

    def finer(
        self, t: Float[Tensor, "B samples"], weights: Float[Tensor, "B samples"], draws: Draws | None
    ) -> Float[Tensor, "B K"]:
        """The depths of the first look and those drawn from its weights, in order. No gradient reaches the weights."""
        if draws is None or draws.perturb == 0:
            even = torch.linspace(0, 1, self.importance, device=t.device, dtype=t.dtype)
            uniform = even.expand(len(t), -1)
        else:
            uniform = draws.uniform(t, self.importance)
        # Bins between the middles of the coarse samples: the first and the last sample have none (nerf_pl).
        middles = 0.5 * (t[:, 1:] + t[:, :-1])
        drawn = drawn_from(middles, weights[:, 1:-1], uniform, padding=_PADDING)
        return torch.cat([t, drawn], 1).sort(1).values

    # ------------------------------------------------------------------ what is seen

    def weights(self, raw: Float[Tensor, "B K"], rays: Rays, t: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
        """Weights of samples of raw density; each stands for the interval to the next one."""
        steps = t[:, 1:] - t[:, :-1]
        last = steps[:, -1:] if self.beyond is None else torch.full_like(t[:, :1], self.beyond)
        lengths = torch.cat([steps, last], 1) * rays.directions.norm(dim=-1, keepdim=True)
        return visible_weights(self.activation(raw), lengths)

    def look(self, field: Field, rays: Rays, t: Float[Tensor, "B K"], draws: Draws | None) -> Seen:
        """What a field shows at depths t along rays; without gradients some rays at a time, so that activations stay
        in the caches."""
        if torch.is_grad_enabled():
            found = field(slice(0, len(t)), t)
        else:
            found = _joined([field(part, t[part]) for part in _parts(t)])
        raw = found.density if draws is None else draws.density(found.density)
        weights = self.weights(raw, rays, t)
        return Seen(t, weights, (weights[..., None] * found.rgb).sum(1), weights.sum(1), found.extras)

    @torch.no_grad()
    def guided(
        self, guide: RawDensity, rays: Rays, t: Float[Tensor, "B K"], draws: Draws | None
    ) -> Float[Tensor, "B K"]:
        """Weights of a first look that only densities matter of."""
        raw = torch.cat([guide(part, t[part]) for part in _parts(t)])
        return self.weights(raw if draws is None else draws.density(raw), rays, t)

    def trace(
        self, rays: Rays, fine: Field, guide: RawDensity, coarse: Field | None, draws: Draws | None
    ) -> tuple[Seen | None, Seen]:
        """Looks along rays [B], which are those that samples are taken on.

        Args:
            fine: what the samples of the second look, or of a single one, are asked of.
            guide: tells, without gradients, where the second look is to go.
            coarse: where the first look is itself to learn colours, the field that it asks instead of `guide`.
            draws: None for rendering, which draws nothing.

        Returns:
            What the first look saw where it had colours, and what the last one saw.
        """
        t = self.even(rays, draws)
        if not self.importance:
            return None, self.look(fine, rays, t, draws)
        if coarse is None:
            first, weights = None, self.guided(guide, rays, t, draws)
        else:
            first = self.look(coarse, rays, t, draws)
            weights = first.weights
        return first, self.look(fine, rays, self.finer(t, weights, draws), draws)

    # ------------------------------------------------------------------ how much at a time

    @property
    def picture_rays(self) -> int:
        """Rays that a picture is to be rendered with at a time."""
        return max(256, _PICTURE_SAMPLES // (self.samples + self.importance))

    def kept_rays(self, device: torch.device) -> int:
        """Rays whose activations training is to keep at a time."""
        samples = _KEPT_SAMPLES["cpu" if device.type == "cpu" else "accelerator"]
        return max(16, samples // (self.samples + self.importance))

    def memory(self, units: int, rays: int, device: torch.device) -> int:
        """Bytes of the activations of a step with `rays` rays, `units` numbers to a sample, or of a part of a picture,
        whichever takes more."""
        samples = 2 * self.samples + self.importance
        kept = 4 * units * samples * min(rays, self.kept_rays(device))
        # Per sample: depth, weight, point, density, colour, and what sorting needs.
        return max(kept, 4 * 24 * samples * self.picture_rays)


def rendered(
    seen: Seen, rays: Rays, sampled: Rays, background: Background, frame: ForwardFrame | None = None
) -> Rendering:
    """The picture of rays [B], which samples were taken along as `sampled` (in the normalised device coordinates of
    `frame`, or the same rays in the scene).

    Depths are those of `ray_depths`; each sample stands for a single t, in the sums, and for the interval to the next
    one, in the median.
    """
    rgb = over(seen.rgb, seen.opacity, background_rgb(background, rays.device)).clamp(0, 1)
    raw = (seen.weights * seen.t).sum(1)
    edges = torch.cat([seen.t, torch.maximum(sampled.far, seen.t[:, -1])[:, None]], 1)

    def in_scene(t: Tensor) -> Tensor:
        return t if frame is None else frame.depth(t, rays)

    median = median_depth(edges, seen.weights)
    depth, extras = ray_depths(raw, median, seen.opacity, rays.far, in_scene)
    return Rendering(rgb, depth, seen.opacity, extras)


def _parts(t: Tensor) -> list[slice]:
    """Parts of the rays of t [B, K] of at most `FIELD_CHUNK` samples, one ray at least."""
    rays = max(1, FIELD_CHUNK // t.shape[1])
    return [slice(first, min(first + rays, len(t))) for first in range(0, len(t), rays)]


def _joined(parts: list[FieldSamples]) -> FieldSamples:
    return FieldSamples(
        torch.cat([part.density for part in parts]),
        torch.cat([part.rgb for part in parts]),
        {name: torch.cat([part.extras[name] for part in parts]) for name in parts[0].extras},
    )
