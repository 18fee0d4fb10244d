"""What a known depth says of the weights along a ray: losses of dense histograms.

A ray of B is cut into K intervals by edges t [B, K + 1], with weights w [B, K] that sum to its opacity; m are the
middles of intervals and W_i = sum_{j<=i} w_j, the opacity up to the right edge of interval i. D [B] is the depth of its
surface, all in scene units along the camera's axis; NaN where unknown. A ray of unknown depth contributes nothing, nor
does an interval without length: a ray with fewer intervals is filled up by repeating its last edge, with weight zero.

Losses are means over the rays of known depth, zero where there is none; statistical weight bounds are means over the
intervals of a region.
"""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lumigraph.configs.depth import DepthLoss
from lumigraph.geometry.conventions import split_similarity
from lumigraph.rendering.volume.histogram import median_depth

_LEAST_WEIGHT = 1e-5
"""Added to weights whose logarithm is taken (DS-NeRF)."""
_TAILS = 3.0
"""Standard deviations beyond which a surface has no part."""

Edges = Float[Tensor, "B K1"]
Weights = Float[Tensor, "B K"]
PerRay = Float[Tensor, " B"]
Scalar = Float[Tensor, ""]


def depth_terms(
    config: DepthLoss,
    edges: Edges,
    weights: Weights,
    depth: PerRay,
    *,
    sigma: PerRay | None = None,
    progress: float = 0.0,
    sky: Bool[Tensor, " B"] | None = None,
    bounded: Int[Tensor, "3"] | None = None,
) -> dict[str, Scalar]:
    """The weighted loss terms that `config` asks for, by name: none, "depth", "sky" or both.

    Args:
        depth: of the surface, NaN where unknown.
        sigma: standard deviation of the depth, scene units; it widens the surface where it exceeds epsilon.
        progress: how far training has come, in [0, 1], for the annealing of epsilon.
        sky: the rays at which there is nothing.
        bounded: what `bounded_intervals` counts of all rays, where these are some of them: swb's loss is then their
            part of the mean.
    """
    terms = {}
    if config.needs_depth:
        terms["depth"] = config.weight * _depth_loss(config, edges, weights, depth, sigma, progress, bounded)
    if config.depth_sky_weight and sky is not None:
        terms["sky"] = config.depth_sky_weight * sky_loss(weights, sky)
    return terms


def in_scene_units(config: DepthLoss, world_transform: Float[Tensor, "4 4"]) -> DepthLoss:
    """The options with epsilon in scene units, as the losses take it; users give it in units of the capture."""
    if config.depth_relative:
        return config
    scale, _, _ = split_similarity(world_transform)
    return replace(config, depth_epsilon=scale * config.depth_epsilon)


def bounded_intervals(
    config: DepthLoss, edges: Edges, depth: PerRay, *, sigma: PerRay | None = None, progress: float = 0.0
) -> Int[Tensor, "3"]:
    """How many intervals swb's three means are over: those that lie in empty space, near the surface and behind it.
    The arguments are those of `depth_terms`."""
    known = torch.isfinite(depth)
    edges, depth = edges[known], depth[known]
    epsilon = spread(config, depth, None if sigma is None else sigma[known], progress)
    regions = _swb_regions(edges, depth, epsilon, config.depth_beta, config.depth_open_far)
    return torch.stack([region.sum() for region in regions])


def _depth_loss(
    config: DepthLoss,
    edges: Edges,
    weights: Weights,
    depth: PerRay,
    sigma: PerRay | None,
    progress: float,
    bounded: Int[Tensor, "3"] | None,
) -> Scalar:
    known = torch.isfinite(depth)
    edges, weights, depth = edges[known], weights[known], depth[known]
    epsilon = spread(config, depth, None if sigma is None else sigma[known], progress)
    if config.depth_loss == "dsnerf":
        return dsnerf_loss(edges, weights, depth, epsilon)
    if config.depth_loss == "swb":
        empty, near, far = swb_losses(
            edges,
            weights,
            depth,
            epsilon,
            beta=config.depth_beta,
            open_far=config.depth_open_far,
            at_middles=config.depth_at_middles,
            counts=bounded,
        )
        return config.depth_empty_weight * empty + config.depth_bound_weight * (near + far)
    rendered = rendered_depth(
        edges, weights, config.depth_statistic if config.depth_loss == "l2" else "expected"
    )
    scale = depth if config.depth_relative else torch.ones_like(depth)
    error = penalty(rendered - depth, scale, epsilon, config.depth_penalty)
    if config.depth_loss == "l2":
        return error
    near, empty = urf_losses(edges, weights, depth, epsilon)
    return near + config.depth_empty_weight * empty + config.depth_expected_weight * error


def spread(config: DepthLoss, depth: PerRay, sigma: PerRay | None, progress: float) -> PerRay:
    """Half width of each ray's surface, scene units: epsilon, which falls exponentially from `anneal` times its value
    to its value, and at least the standard deviation of the depth (urf, whose epsilon is three of them: three)."""
    value = config.depth_epsilon * config.anneal ** (1 - min(1.0, max(0.0, progress)))
    epsilon = value * depth if config.depth_relative else torch.full_like(depth, value)
    if sigma is None:
        return epsilon
    return torch.maximum(epsilon, _TAILS * sigma if config.depth_loss == "urf" else sigma)


# ------------------------------------------------------------------ the losses; every depth is known here


def rendered_depth(edges: Edges, weights: Weights, statistic: str = "expected") -> PerRay:
    """The depth that a ray shows: "expected", sum_i w_i m_i, not divided by opacity; or "median"."""
    if statistic == "median":
        return median_depth(edges, weights)
    return (weights * _middles(edges)).sum(1)


def penalty(error: PerRay, scale: PerRay, threshold: PerRay, kind: str) -> Scalar:
    """Mean of the squared or absolute error of depths over `scale`, or of Huber's: the square up to `threshold` (also
    over `scale`), beyond it the square's tangent."""
    error, threshold = error / scale, threshold / scale
    if kind == "absolute":
        return _mean(error.abs())
    if kind == "squared":
        return _mean(error.square())
    size = error.abs()
    return _mean(torch.where(size <= threshold, error.square(), threshold * (2 * size - threshold)))


def urf_losses(edges: Edges, weights: Weights, depth: PerRay, epsilon: PerRay) -> tuple[Scalar, Scalar]:
    """Urban Radiance Fields' losses along the line of sight (Rematas et al. 2022, section 4.3): near the surface, sum
    over |m - D| <= epsilon of (w - p)^2, and in front of it, sum over m < D - epsilon of w^2.

    p is the part of a Gaussian about D of standard deviation epsilon / 3 that an interval holds, a mass as w is.
    """
    away = _middles(edges) - depth[:, None]
    long = _lengths(edges) > 0
    near = long & (away.abs() <= epsilon[:, None])
    empty = long & (away < -epsilon[:, None])
    mass = surface_mass(edges, depth, epsilon / _TAILS)
    zero = torch.zeros_like(weights)
    near_loss = torch.where(near, (weights - mass).square(), zero).sum(1)
    return _mean(near_loss), _mean(torch.where(empty, weights.square(), zero).sum(1))


def dsnerf_loss(edges: Edges, weights: Weights, depth: PerRay, sigma: PerRay) -> Scalar:
    """DS-NeRF's divergence of a ray's weights from a Gaussian about its depth (Deng et al. 2022):
    sum_i p_i (log(p_i + c) - log(w_i + c)) with p_i the part of N(D, sigma^2) that interval i holds.

    The equation's sum is a midpoint rule for these p_i, which depends on how finely a ray is sampled; and it leaves out
    the first logarithm, which no weight changes and which makes the loss of a perfect surface zero.
    """
    mass = surface_mass(edges, depth, sigma)
    divergence = torch.log(mass + _LEAST_WEIGHT) - torch.log(weights + _LEAST_WEIGHT)
    return _mean((mass * divergence).sum(1))


def swb_losses(
    edges: Edges,
    weights: Weights,
    depth: PerRay,
    epsilon: PerRay,
    *,
    beta: float = 0.0,
    open_far: bool = True,
    at_middles: bool = False,
    counts: Int[Tensor, "3"] | None = None,
) -> tuple[Scalar, Scalar, Scalar]:
    """Statistical weight bounds (Sheldrick, "Probabilistically bounded ray densities from depthmaps", equations 4.2 to
    4.4): losses of empty space, of the approach to the surface, and of what lies behind it.

    Were the surface a Gaussian N(D, epsilon^2) of weights, its cumulative distribution would be the opacity W. With
    epsilon larger than the truth it bounds W: from above before the surface, from below behind it.

        empty:  m < D - (3 + beta) epsilon           w^2
        near:   up to m < D - beta epsilon           max(W - Phi((t - D + beta epsilon) / epsilon), 0)^2
        far:    m > D + beta epsilon                 max(Phi((t - D - beta epsilon) / epsilon) - W, 0)^2

    each a mean over all intervals of all rays in its region, of which there are `counts` where these rays are not all
    of them. t is the right edge of an interval, where W holds; `at_middles` puts the middle there, as published. Unless
    `open_far`, far ends at m = D + (3 + beta) epsilon.
    """
    empty, near, far = _swb_regions(edges, depth, epsilon, beta, open_far)
    opacity, t = weights.cumsum(1), _middles(edges) if at_middles else edges[:, 1:]
    place = (t - depth[:, None]) / epsilon[:, None]
    above = (opacity - torch.special.ndtr(place + beta)).clamp(min=0)
    below = (torch.special.ndtr(place - beta) - opacity).clamp(min=0)
    of_all = (None, None, None) if counts is None else counts.unbind()
    return (
        _mean_where(empty, weights.square(), of_all[0]),
        _mean_where(near, above.square(), of_all[1]),
        _mean_where(far, below.square(), of_all[2]),
    )


def _swb_regions(
    edges: Edges, depth: PerRay, epsilon: PerRay, beta: float, open_far: bool
) -> tuple[Bool[Tensor, "B K"], Bool[Tensor, "B K"], Bool[Tensor, "B K"]]:
    """The intervals in empty space, near the surface, and behind it."""
    away, long = (_middles(edges) - depth[:, None]) / epsilon[:, None], _lengths(edges) > 0
    empty = long & (away < -(_TAILS + beta))
    near = long & (away >= -(_TAILS + beta)) & (away < -beta)
    far = long & (away > beta)
    return empty, near, far if open_far else far & (away <= _TAILS + beta)


def sky_loss(weights: Weights, sky: Bool[Tensor, " B"]) -> Scalar:
    """Mean over the rays at which there is nothing of sum_i w_i^2."""
    return _mean(weights[sky].square().sum(1))


def surface_mass(edges: Edges, depth: PerRay, sigma: PerRay) -> Weights:
    """The part of a Gaussian N(depth, sigma^2) that lies in each interval."""
    cumulative = torch.special.ndtr((edges - depth[:, None]) / sigma[:, None])
    return cumulative[:, 1:] - cumulative[:, :-1]


def _middles(edges: Edges) -> Weights:
    return 0.5 * (edges[:, 1:] + edges[:, :-1])


def _lengths(edges: Edges) -> Weights:
    return edges[:, 1:] - edges[:, :-1]


def _mean(values: PerRay) -> Scalar:
    return values.sum() / max(1, len(values))


def _mean_where(chosen: Bool[Tensor, "B K"], values: Weights, count: Int[Tensor, ""] | None) -> Scalar:
    """The sum of the chosen values over their number, or over `count`; zero where there are none."""
    count = chosen.sum() if count is None else count
    return torch.where(chosen, values, torch.zeros_like(values)).sum() / count.clamp(min=1)
