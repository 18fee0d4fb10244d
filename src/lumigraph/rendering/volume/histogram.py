"""Dense histograms along rays: where to sample, what a ray sees, and what two histograms say of each other.

A ray of B is cut into K intervals by K + 1 edges t (depth along the camera's axis), or sampled at K depths. Weights w
are the part of the light that each interval sends: w_i = T_i (1 - exp(-sigma_i delta_i)) with
T_i = exp(-sum_{j<i} sigma_j delta_j) (Max 1995; NeRF equation 3). Lengths delta are those of space: a step in t times
the length of the direction.

The packed samples of a marched ray are elsewhere (`reference`, `composite`); here every ray has the same number.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

EMPTY = 1e-3
"""Rays of less opacity show nothing that could have a depth."""
_NARROW = 1e-5
"""Steps of a cumulative distribution below this are flat (nerf-pytorch): nothing is drawn from them."""


# ------------------------------------------------------------------ where to sample


def spaced(
    near: Float[Tensor, " B"], far: Float[Tensor, " B"], count: int, disparity: bool = False
) -> Float[Tensor, "B count"]:
    """`count` depths from near to far, both included, evenly in depth or in its inverse."""
    s = torch.linspace(0, 1, count, device=near.device)
    near, far = near[:, None], far[:, None]
    if disparity:
        return 1 / ((1 - s) / near + s / far)
    return near * (1 - s) + far * s


def jittered(t: Float[Tensor, "B K"], uniform: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """Each depth moved evenly within the bin around it; `uniform` in [0, 1). Bins meet in the middle between depths,
    the outer ones end at the first and the last (NeRF, equation 2)."""
    middles = 0.5 * (t[:, 1:] + t[:, :-1])
    lower, upper = torch.cat([t[:, :1], middles], 1), torch.cat([middles, t[:, -1:]], 1)
    return lower + (upper - lower) * uniform


def drawn_from(
    edges: Float[Tensor, "B K1"],
    weights: Float[Tensor, "B K"],
    uniform: Float[Tensor, "B n"],
    padding: float = 0.0,
) -> Float[Tensor, "B n"]:
    """Depths drawn from the piecewise constant density of `weights` between `edges`: the inverse of its cumulative
    distribution at `uniform`, which is in [0, 1] (NeRF section 5.2; Mip-NeRF equation 18).

    `padding` is added to every weight before they are normalised; a ray without weight is drawn from evenly. No
    gradient reaches the weights.
    """
    weights = weights.detach() + padding
    total = weights.sum(1, keepdim=True)
    share = torch.where(
        total > 0, weights / total.clamp(min=torch.finfo(weights.dtype).tiny), 1 / weights.shape[1]
    )
    ends = share.cumsum(1).clamp(max=1)
    cumulative = torch.cat([torch.zeros_like(ends[:, :1]), ends[:, :-1], torch.ones_like(ends[:, :1])], 1)
    above = torch.searchsorted(cumulative, uniform.contiguous(), right=True).clamp(1, weights.shape[1])
    low, high = cumulative.gather(1, above - 1), cumulative.gather(1, above)
    first, last = edges.gather(1, above - 1), edges.gather(1, above)
    step = high - low
    part = ((uniform - low) / torch.where(step < _NARROW, 1, step)).clamp(0, 1)
    return first + part * (last - first)


def stratified(
    rays: int, count: int, generator: torch.Generator | None, device: torch.device | str = "cpu"
) -> Float[Tensor, "rays count"]:
    """Numbers in [0, 1) for `drawn_from`, one in each of `count` equal parts: at random with a generator, else evenly
    spread from 0 to just below 1 (Mip-NeRF's sampler, in its two modes)."""
    if generator is None:
        return torch.linspace(0, 1 - torch.finfo(torch.float32).eps, count, device=device).expand(rays, count)
    start = torch.arange(count, device=device) / count
    width = 1 / count - torch.finfo(torch.float32).eps
    return start + torch.rand(rays, count, generator=generator, device=device) * width


def blurred(weights: Float[Tensor, "B K"], padding: float = 0.01) -> Float[Tensor, "B K"]:
    """Weights spread to their neighbours, so that the next level samples around what this one has seen (Mip-NeRF,
    section 3.1): the mean of the two maxima with either neighbour, plus `padding`."""
    wide = torch.cat([weights[:, :1], weights, weights[:, -1:]], 1)
    largest = torch.maximum(wide[:, 1:], wide[:, :-1])
    return 0.5 * (largest[:, 1:] + largest[:, :-1]) + padding


# ------------------------------------------------------------------ what a ray sees


def visible_weights(density: Float[Tensor, "B K"], lengths: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """Weights of samples of a density over lengths of space, both not negative; they sum to the ray's opacity."""
    optical = density * lengths
    before = torch.cat([torch.zeros_like(optical[:, :1]), optical[:, :-1].cumsum(1)], 1)
    return torch.exp(-before) * -torch.expm1(-optical)


def median_depth(edges: Float[Tensor, "B K1"], weights: Float[Tensor, "B K"]) -> Float[Tensor, " B"]:
    """The depth in front of which half of the light of the ray arises; that of the last edge where there is none.

    Half of the ray's own light, whatever its opacity: where something shines through a veil, the median is in the veil
    or behind it, but never undefined, and of a ray of opacity 1 it is where half of all light is blocked.
    """
    place, part = half_way(weights)
    first, last = edges.gather(1, place), edges.gather(1, place + 1)
    seen = weights.sum(1, keepdim=True) > 0
    return torch.where(seen, first + part * (last - first), edges[:, -1:])[:, 0]


def half_way(weights: Float[Tensor, "B K"]) -> tuple[Int[Tensor, "B 1"], Float[Tensor, "B 1"]]:
    """The interval in which half of a ray's light is reached, and which part of its length is in front of that."""
    cumulative = weights.cumsum(1)
    half = 0.5 * cumulative[:, -1:]
    place = torch.searchsorted(cumulative, half).clamp(max=weights.shape[1] - 1)
    inside = weights.gather(1, place)
    before = cumulative.gather(1, place) - inside
    return place, ((half - before) / inside.clamp(min=torch.finfo(weights.dtype).tiny)).clamp(0, 1)


def ray_depths(
    raw: Float[Tensor, " B"],
    median: Float[Tensor, " B"],
    opacity: Float[Tensor, " B"],
    far: Float[Tensor, " B"],
    in_scene: Callable[[Tensor], Tensor] = lambda t: t,
) -> tuple[Float[Tensor, " B"], dict[str, Float[Tensor, " B"]]]:
    """`Rendering.depth` and its extras, the same of every method that integrates along rays.

    The depth is the expected one, the mean of t by the weights: `raw` over `opacity`. Extras: `depth_median`, see
    `median_depth`; `depth_raw`, the sum of w t as published code stores it, which falls to 0 with the opacity and is in
    the coordinates that were sampled in. `in_scene` takes the other two from these to depths along the camera's axis in
    scene units. Where a ray has less opacity than `EMPTY`, both are `far`.
    """
    empty = opacity < EMPTY

    def shown(t: Tensor) -> Tensor:
        return torch.where(empty, far, in_scene(t))

    expected = raw / opacity.clamp(min=EMPTY)
    return shown(expected), {"depth_median": shown(median), "depth_raw": raw}


# ------------------------------------------------------------------ losses of histograms


def distortion(weights: Float[Tensor, "B K"], s: Float[Tensor, "B K1"]) -> Float[Tensor, " B"]:
    """How far the weights of a ray are spread (mip-NeRF 360, equation 15), in time proportional to K:
    sum_ij w_i w_j |m_i - m_j| + 1/3 sum_i w_i^2 (s_{i+1} - s_i), with m the middles of the edges s, which are depths
    normalised to [0, 1]."""
    middles = 0.5 * (s[:, 1:] + s[:, :-1])
    moments = weights * middles
    in_front = weights.cumsum(1) - weights
    moments_in_front = moments.cumsum(1) - moments
    between = 2 * (weights * (middles * in_front - moments_in_front)).sum(1)
    return between + (weights.square() * (s[:, 1:] - s[:, :-1])).sum(1) / 3


def outer_measure(
    edges: Float[Tensor, "B K1"], outer_edges: Float[Tensor, "B M1"], outer: Float[Tensor, "B M"]
) -> Float[Tensor, "B K"]:
    """For each interval, the sum of the weights `outer` of those intervals of another histogram that it meets (mip-NeRF
    360, equation 12). An interval that ends where another begins does not meet it, nor does one without length."""
    sums = torch.cat([torch.zeros_like(outer[:, :1]), outer.cumsum(1)], 1)
    most = outer.shape[1]
    first = torch.searchsorted(outer_edges.contiguous(), edges[:, :-1].contiguous(), right=True) - 1
    last = torch.searchsorted(outer_edges.contiguous(), edges[:, 1:].contiguous(), right=False)
    first, last = first.clamp(0, most), last.clamp(0, most)
    return (sums.gather(1, last) - sums.gather(1, first)).clamp(min=0)


def interlevel_loss(
    edges: Float[Tensor, "B K1"],
    weights: Float[Tensor, "B K"],
    proposal_edges: Float[Tensor, "B M1"],
    proposal: Float[Tensor, "B M"],
) -> Float[Tensor, " B"]:
    """What a proposal histogram fails to cover of the final one (mip-NeRF 360, equation 13):
    sum_i max(0, w_i - bound_i)^2 / w_i. Only the proposal learns from it."""
    weights = weights.detach()
    bound = outer_measure(edges.detach(), proposal_edges.detach(), proposal)
    excess = (weights - bound).clamp(min=0)
    return (excess.square() / (weights + torch.finfo(weights.dtype).eps)).sum(1)
