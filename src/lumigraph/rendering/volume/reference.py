"""Marching and compositing in plain torch: the oracle of every kernel, and what runs where there is none.

Samples are packed: those of a ray lie together, one ray after another.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lumigraph.geometry.bounds import unit_cube
from lumigraph.rendering.volume.histogram import half_way

STEEPEST = 1e12
"""Inverse of a direction along a face: so large that the face is never met, and still finite."""
FARTHEST = 1e30
RESOLUTION = 2.0**-22
"""Distances that differ by a smaller share are the same to float32."""
TOUCHING = 0.05
"""A gap between two samples that is a smaller part of the first is none."""


def padded(
    values: Float[Tensor, "samples *rest"], offsets: Int[Tensor, " bounds"]
) -> Float[Tensor, "rays most *rest"]:
    """Packed samples as one row per ray, filled up with zeros."""
    counts = offsets[1:] - offsets[:-1]
    most = max(int(counts.max()), 1) if len(counts) else 1
    inside = torch.arange(most, device=values.device)[None] < counts[:, None]
    rows = values.new_zeros((len(counts), most, *values.shape[1:]))
    rows[inside] = values
    return rows


def histogram(
    density: Float[Tensor, " samples"],
    t: Float[Tensor, " samples"],
    dt: Float[Tensor, " samples"],
    offsets: Int[Tensor, " bounds"],
    far: Float[Tensor, " rays"],
) -> tuple[Float[Tensor, "rays edges"], Float[Tensor, "rays intervals"]]:
    """Packed samples as dense histograms: edges [rays, 2 K + 1] and weights [rays, 2 K], differentiable by density.

    Each sample is an interval of length dt about its t, and behind it is the gap, without weight, to the next sample,
    behind the last one to `far`. Where samples touch, the gap has no length; a ray with fewer samples than the longest
    is filled up with intervals without length.
    """
    counts = offsets[1:] - offsets[:-1]
    optical, middle, length = padded(density * dt, offsets), padded(t, offsets), padded(dt, offsets)
    inside = torch.arange(optical.shape[1], device=t.device)[None] < counts[:, None]
    end = torch.maximum(far, (middle + 0.5 * length).amax(1))[:, None]
    first = torch.where(inside, middle - 0.5 * length, end)
    last = torch.where(inside, middle + 0.5 * length, end)
    following = torch.cat([first[:, 1:], end], 1)
    # Steps grow with distance and are rounded, so that neighbours overlap or miss each other by a little.
    last = torch.where(following - last < TOUCHING * length, following, last)
    edges = torch.cat([torch.stack([first, last], 2).flatten(1), end], 1)
    weights = torch.exp(optical - torch.cumsum(optical, 1)) * (1 - torch.exp(-optical))
    return edges, torch.stack([weights, torch.zeros_like(weights)], 2).flatten(1)


def composite(
    density: Float[Tensor, " samples"],
    rgb: Float[Tensor, "samples 3"],
    t: Float[Tensor, " samples"],
    dt: Float[Tensor, " samples"],
    offsets: Int[Tensor, " bounds"],
    min_transmittance: float,
) -> tuple[Float[Tensor, "rays 3"], Float[Tensor, " rays"], Float[Tensor, " rays"], Float[Tensor, " rays"]]:
    """Premultiplied rgb, opacity, sum of w t, and distortion of each ray.

    w_i = T_i (1 - exp(-sigma_i dt_i)), T_i = exp(-sum_{j<i} sigma_j dt_j) (Max 1995; NeRF equation 3). A ray ends
    where T falls below `min_transmittance`. Distortion: sum_ij w_i w_j |t_i - t_j| + 1/3 sum_i w_i^2 dt_i (mip-NeRF
    360, equation 15).
    """
    optical = padded(density * dt, offsets)
    before = torch.cumsum(optical, 1) - optical
    transmittance = torch.exp(-before)
    alive = (transmittance.detach() >= min_transmittance).to(density.dtype)
    weights = transmittance * (1 - torch.exp(-optical)) * alive
    t, dt = padded(t, offsets), padded(dt, offsets)
    distortion = _distortion(weights, t, dt)
    colours = (weights[..., None] * padded(rgb, offsets)).sum(1)
    return colours, weights.sum(1), (weights * t).sum(1), distortion


def median(
    density: Float[Tensor, " samples"],
    t: Float[Tensor, " samples"],
    dt: Float[Tensor, " samples"],
    offsets: Int[Tensor, " bounds"],
) -> Float[Tensor, " rays"]:
    """Where half of each ray's own light has arisen (see `histogram.median_depth`), 0 for rays without light. Each
    sample is an interval of length dt about its t."""
    optical = padded(density * dt, offsets)
    weights = torch.exp(optical - torch.cumsum(optical, 1)) * (1 - torch.exp(-optical))
    place, part = half_way(weights)
    middle, length = (padded(values, offsets).gather(1, place) for values in (t, dt))
    return torch.where(weights.sum(1) > 0, (middle + (part - 0.5) * length)[:, 0], 0)


def _distortion(
    weights: Float[Tensor, "rays most"], t: Float[Tensor, "rays most"], dt: Float[Tensor, "rays most"]
) -> Float[Tensor, " rays"]:
    """sum_ij w_i w_j |t_i - t_j| + 1/3 sum_i w_i^2 dt_i, in time and memory proportional to the samples.

    Along a ray t increases, so that the first sum is 2 sum_i w_i (t_i W_i - M_i), where W_i and M_i are the sums of w
    and w t over the samples in front of i.
    """
    t = t - t[:, :1]  # only differences count, and small numbers cancel less
    moments = weights * t
    in_front = torch.cumsum(weights, 1) - weights
    moments_in_front = torch.cumsum(moments, 1) - moments
    return (weights * (2 * (t * in_front - moments_in_front) + weights * dt / 3)).sum(1)


def keep_visible(samples, density, min_transmittance: float, min_alpha: float):
    """The samples with enough light left in front of them and enough alpha of their own, and the ray of each."""
    optical = padded(density * samples.dt, samples.offsets)
    before = torch.exp(optical - torch.cumsum(optical, 1))
    seen = (before >= min_transmittance) & (1 - torch.exp(-optical) >= min_alpha)
    counts = samples.offsets[1:] - samples.offsets[:-1]
    inside = torch.arange(optical.shape[1], device=density.device)[None] < counts[:, None]
    keep = (seen & inside)[inside]
    offsets = torch.cat([counts.new_zeros(1), (seen & inside).sum(1).cumsum(0)])
    kept = type(samples)(samples.points[keep], samples.t[keep], samples.dt[keep], offsets)
    return kept, kept.rays


def march(rays, occupied, rule, unbounded: bool, jitter):
    """Points, t, dt and offsets of the samples in occupied cells: every ray takes one step at a time, all together."""
    cascades, cells = occupied.shape[0], occupied.shape[1]
    steep = torch.copysign(torch.full_like(rays.directions, STEEPEST), rays.directions)
    inverse = torch.where(rays.directions.abs() * STEEPEST > 1, 1 / rays.directions, steep)
    outer = float(1 << (cascades - 1))
    first, second = (-outer - rays.origins) * inverse, (outer - rays.origins) * inverse
    t = torch.maximum(torch.minimum(first, second).amax(1), rays.near)
    end = torch.minimum(torch.maximum(first, second).amin(1), rays.far)

    def step(at: Tensor) -> Tensor:
        return (at * rule.growth).clamp(rule.shortest, rule.longest)

    finite = (rays.origins.abs() + rays.directions.abs()).sum(1) < FARTHEST
    t = torch.where(finite & (end * RESOLUTION < step(end)), t + jitter * step(t), end)
    found_t, found_dt, found_ray = [], [], []
    counts = torch.zeros(len(t), dtype=torch.long, device=t.device)
    alive = torch.nonzero(t < end)[:, 0]
    while len(alive):
        at, dt = t[alive], step(t[alive])
        point = rays.origins[alive] + at[:, None] * rays.directions[alive]
        reach = torch.maximum(point.abs().amax(1), dt * 0.5 * cells).clamp(min=1)
        cascade = torch.ceil(torch.log2(reach)).long().clamp(0, cascades - 1)
        half = torch.pow(2.0, cascade)
        size = half / (0.5 * cells)
        cell = ((point + half[:, None]) / size[:, None]).long().clamp(0, cells - 1)
        hit = occupied[cascade, cell[:, 2], cell[:, 1], cell[:, 0]] != 0
        found_t.append(at[hit])
        found_dt.append(dt[hit])
        found_ray.append(alive[hit])
        counts[alive[hit]] += 1
        face = (cell + (inverse[alive] > 0)) * size[:, None] - half[:, None]
        leave = ((face - rays.origins[alive]) * inverse[alive]).amin(1)
        t[alive] = at + torch.where(hit, dt, dt * torch.ceil((leave - at) / dt).clamp(min=1))
        alive = alive[(t[alive] < end[alive]) & (counts[alive] < rule.most)]
    ray = torch.cat(found_ray) if found_ray else counts.new_zeros(0)
    order = torch.argsort(ray, stable=True)
    packed_t, packed_dt = (
        torch.cat(found)[order] if found else t.new_zeros(0) for found in (found_t, found_dt)
    )
    ray = ray[order]
    points = rays.origins[ray] + packed_t[:, None] * rays.directions[ray]
    return (
        unit_cube(points, unbounded),
        packed_t,
        packed_dt,
        torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
    )
