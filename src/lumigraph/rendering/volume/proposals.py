"""Sampling with proposals, as in mip-NeRF 360 (Barron et al., CVPR 2022): where along a ray the next level looks, after
what the level before has seen, or as Mip-NeRF draws it, or around a depth that is known.

Levels live in s, a depth normalised to [0, 1] between near and far, evenly in depth or in its inverse (section 2,
equation 11). A histogram of s is K + 1 edges with K weights; the edges of the next one are drawn from it.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lumigraph.configs.mipnerf360 import MipNeRF360Config
from lumigraph.rendering.volume.histogram import blurred, drawn_from, jittered, stratified

_EPS = torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class Histogram:
    """What one level sees of B rays: `edges` t (depth along the camera's axis), the same edges as `s` in [0, 1], and
    the weight of each interval."""

    edges: Float[Tensor, "B K1"]
    s: Float[Tensor, "B K1"]
    weights: Float[Tensor, "B K"]


@dataclass(frozen=True)
class LevelDraws:
    """The random numbers of a training step, those of all its rays, so that it does not matter how many of these are
    looked at together: the edges s [B, K + 1] of the first level; numbers in [0, 1) [B, n] for those of each later one;
    normal ones for the edges [B, g] around a known depth, if any; what is added to the densities [B, K] of each level,
    if anything."""

    first: Tensor
    later: list[Tensor]
    guided: Tensor | None
    noise: list[Tensor] | None

    def part(self, rays: slice) -> "LevelDraws":
        return LevelDraws(
            self.first[rays],
            [numbers[rays] for numbers in self.later],
            None if self.guided is None else self.guided[rays],
            None if self.noise is None else [numbers[rays] for numbers in self.noise],
        )


def level_draws(
    config: MipNeRF360Config, rays: int, generator: torch.Generator | None, device: torch.device
) -> LevelDraws:
    """What decides where the levels look, evenly spread; with a generator, as in training, random, and the noise of
    densities with it."""
    counts = (*config.proposal_samples, config.samples)
    if config.resampler == "dilate":
        uniform, *later = (jitters(rays, count, generator, device) for count in counts)
        whole = torch.tensor([0.0, 1.0], device=device).expand(rays, 2)
        first = intervals(whole, torch.ones_like(whole[:, :1]), uniform)
    else:
        first = torch.linspace(0, 1, counts[0] + 1, device=device).expand(rays, counts[0] + 1)
        if generator is not None:
            first = jittered(first, torch.rand(first.shape, generator=generator, device=device))
        later = [stratified(rays, count + 1, generator, device) for count in counts[1:]]
    if generator is None:
        return LevelDraws(first, later, None, None)
    guided, noise = round(config.depth_guided * counts[0]), None
    if config.density_noise:
        noise = [config.density_noise * _normal(rays, count, generator) for count in counts]
    return LevelDraws(first, later, _normal(rays, guided, generator) if guided else None, noise)


def _normal(rays: int, count: int, generator: torch.Generator) -> Float[Tensor, "rays count"]:
    return torch.randn(rays, count, generator=generator, device=generator.device)


def next_edges(
    config: MipNeRF360Config,
    s: Float[Tensor, "B K1"],
    weights: Float[Tensor, "B K"],
    uniform: Float[Tensor, "B n"],
    drawn: int,
    exponent: float,
) -> Float[Tensor, "B _"]:
    """The edges of the next level, drawn from what this one sees, whose weights are taken to the power `exponent`: one
    at each of `uniform` (blur), or those around them, one more (dilate). `drawn` is the product of the numbers of
    intervals of all levels so far."""
    if config.resampler == "dilate":
        s, weights = dilated(s, weights, config.dilation + config.dilation_share / drawn)
        s, weights = s[:, 1:-1].contiguous(), weights[:, 1:-1]
        return intervals(s, weights**exponent, uniform)
    softened = blurred(weights.detach() ** exponent, config.blur_padding)
    return drawn_from(s, softened, uniform).sort(1).values


def with_some_at(
    s: Float[Tensor, "B K1"],
    t: Float[Tensor, "B g"],
    near: Float[Tensor, " B"],
    far: Float[Tensor, " B"],
    disparity: bool,
) -> Float[Tensor, "B K1"]:
    """Replaces g of the edges, evenly chosen between the ends, by those at depths t; see `normalised`. Where t is
    learnt, it learns from what is seen between edges that lie there."""
    kept = torch.linspace(0, s.shape[1] - 1, s.shape[1] - t.shape[1], device=s.device).round().long()
    return torch.cat([s[:, kept], normalised(t, near, far, disparity)], 1).sort(1).values


def normalised(
    t: Float[Tensor, "B K"], near: Float[Tensor, " B"], far: Float[Tensor, " B"], disparity: bool
) -> Float[Tensor, "B K"]:
    """The inverse of `depth_of`, and like it of near depths above 0 where `disparity`. Depths beyond near and far are
    taken for these; all are 0 of a ray without length."""
    near, far = near[:, None], far[:, None]
    t = torch.maximum(near, torch.minimum(t, far))
    s = (t - near) / torch.where(far > near, far - near, 1)
    if disparity:
        s = s * far / torch.where(far > near, t, 1)
    return s.clamp(0, 1)


def depth_of(
    s: Float[Tensor, "B K"], near: Float[Tensor, " B"], far: Float[Tensor, " B"], disparity: bool
) -> Float[Tensor, "B K"]:
    """Depths t of normalised depths s: near at 0, far at 1, and between them even in t or in 1/t (equation 11)."""
    near, far = near[:, None], far[:, None]
    if disparity:
        return 1 / ((1 - s) / near + s / far)
    return near * (1 - s) + far * s


def schlick(progress: float, slope: float) -> float:
    """Schlick's bias b x / ((b - 1) x + 1), from 0 at 0 to 1 at 1: the exponent by which proposals are trusted, which
    rises quickly at first (mip-NeRF 360, supplement: annealing, with b = 10)."""
    return slope * progress / ((slope - 1) * progress + 1)


def dilated(
    s: Float[Tensor, "B K1"], weights: Float[Tensor, "B K"], reach: float
) -> tuple[Float[Tensor, "B M1"], Float[Tensor, "B M"]]:
    """A histogram widened by `reach` to either side: edges [B, 3 K + 1] and weights [B, 3 K] that sum to one (or zero).

    At each place its density is the largest of those intervals that reach there, once each has grown by `reach`; what
    leaves [0, 1] is cut off (mip-NeRF 360, supplement: dilation). No gradient reaches the weights.
    """
    weights = weights.detach()
    density = weights / (s[:, 1:] - s[:, :-1]).clamp(min=_EPS)
    lower, upper = s[:, :-1] - reach, s[:, 1:] + reach
    edges = torch.cat([s, lower, upper], 1).sort(1).values.clamp(0, 1)
    # Intervals are in order, so those that hold a place are neighbours: from the first that ends behind it to the last
    # that begins before it.
    first = torch.searchsorted(upper.contiguous(), edges, right=True)
    last = torch.searchsorted(lower.contiguous(), edges, right=True)
    largest = _largest_between(density, first[:, :-1], last[:, :-1])
    spread = largest * (edges[:, 1:] - edges[:, :-1])
    return edges, spread / spread.sum(1, keepdim=True).clamp(min=_EPS**2)


def _largest_between(values: Float[Tensor, "B K"], first: Tensor, last: Tensor) -> Float[Tensor, "B M"]:
    """The largest of values[first : last] for every pair, 0 for none: a table of the largest of 2^k neighbours, of
    which two cover any range."""
    tables = [values]
    while 2 ** len(tables) <= values.shape[1]:
        step = 2 ** (len(tables) - 1)
        shorter = tables[-1]
        shifted = torch.cat([shorter[:, step:], shorter.new_zeros(len(values), step)], 1)
        tables.append(torch.maximum(shorter, shifted))
    stacked = torch.cat(tables, 1)
    length = (last - first).clamp(min=0)
    level = torch.log2(length.clamp(min=1).float()).floor().long()
    row = level * values.shape[1]
    left = first.clamp(max=values.shape[1] - 1)
    right = (last - 2**level).clamp(min=0)
    both = torch.maximum(stacked.gather(1, row + left), stacked.gather(1, row + right))
    return torch.where(length > 0, both, 0)


def jitters(
    rays: int, count: int, generator: torch.Generator | None, device: torch.device | str = "cpu"
) -> Float[Tensor, "rays count"]:
    """Numbers in [0, 1), evenly spread, for `intervals`: those of a ray shifted together by one random number, or in
    the middles of `count` equal parts without a generator."""
    if generator is None:
        half = 1 / (2 * count)
        return torch.linspace(half, 1 - half - _EPS, count, device=device).expand(rays, count)
    largest = _EPS + (1 - _EPS) / count
    room = (1 - largest) / (count - 1) - _EPS
    shift = torch.rand(rays, 1, generator=generator, device=device)
    return torch.linspace(0, 1 - largest, count, device=device) + shift * room


def intervals(
    s: Float[Tensor, "B K1"], weights: Float[Tensor, "B K"], uniform: Float[Tensor, "B n"]
) -> Float[Tensor, "B n1"]:
    """n intervals whose middles are drawn from a histogram: edges [B, n + 1] half way between neighbours, the outer
    ones as far beyond the first and last draw as their neighbours are before, within [0, 1] (mip-NeRF 360, supplement:
    sampling)."""
    centres = drawn_from(s, weights, uniform)
    middles = 0.5 * (centres[:, 1:] + centres[:, :-1])
    lowest = (2 * centres[:, :1] - middles[:, :1]).clamp(min=0)
    highest = (2 * centres[:, -1:] - middles[:, -1:]).clamp(max=1)
    return torch.cat([lowest, middles, highest], 1)
