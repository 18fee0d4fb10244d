"""Stepping along rays and compositing in numba, one ray after the other, rays in parallel.

Coordinates are those of the occupancy grid: the core box of the scene is [-1, 1]^3, cascade c covers [-2^c, 2^c]^3
with the same number of cells. Ray directions are unit vectors here, so `t` and `dt` are lengths in units of the core's
half side.
"""

import math

import numba as nb
import numpy as np

from lumigraph.rendering.volume import reference

ONE = np.float32(1)
STEEPEST, FARTHEST = np.float32(reference.STEEPEST), np.float32(reference.FARTHEST)
RESOLUTION = np.float32(reference.RESOLUTION)
ORDERED = {"contract", "reassoc", "arcp", "afn", "nsz"}
"""Fast mathematics that still knows what is not a number: a ray of such must end, not march for ever."""


@nb.njit(fastmath=ORDERED, cache=True)
def _box_interval(origin, inverse, half, near, far):
    """The part of [near, far] in which a ray is inside [-half, half]^3, by slabs."""
    t0, t1 = near, far
    for axis in range(3):
        a = (-half - origin[axis]) * inverse[axis]
        b = (half - origin[axis]) * inverse[axis]
        t0 = max(t0, min(a, b))
        t1 = min(t1, max(a, b))
    return t0, t1


@nb.njit(fastmath=ORDERED, cache=True)
def enter(origin, direction, near, far, jitter, cascades, step_growth, step_min, step_max, inverse):
    """Where the first step of a ray begins and where the last one ends; fills the inverse of the direction.

    Nothing lies on a ray that is not finite, or so far away that a step would not move it.
    """
    extent = np.float32(0)
    for axis in range(3):
        slope = direction[axis]
        inverse[axis] = ONE / slope if abs(slope) * STEEPEST > ONE else math.copysign(STEEPEST, slope)
        extent += abs(origin[axis]) + abs(slope)
    t, end = _box_interval(origin, inverse, np.float32(1 << (cascades - 1)), near, far)
    if not (extent < FARTHEST and end * RESOLUTION < min(max(end * step_growth, step_min), step_max)):
        return end, end
    return t + jitter * min(max(t * step_growth, step_min), step_max), end


@nb.njit(fastmath=ORDERED, cache=True)
def next_occupied(origin, direction, inverse, t, end, occupied, step_growth, step_min, step_max):
    """The first step from t on that begins in an occupied cell: its place and length, or a length of 0 past the end."""
    cascades, cells = occupied.shape[0], occupied.shape[1]
    half_cells = np.float32(0.5 * cells)
    while t < end:
        dt = min(max(t * step_growth, step_min), step_max)
        x = origin[0] + t * direction[0]
        y = origin[1] + t * direction[1]
        z = origin[2] + t * direction[2]
        reach = max(max(abs(x), abs(y)), abs(z))
        cascade, half = 0, ONE
        while cascade < cascades - 1 and (reach > half or dt * half_cells > half):
            cascade += 1
            half *= np.float32(2)
        to_cell = half_cells / half
        cx = min(max(int((x + half) * to_cell), 0), cells - 1)
        cy = min(max(int((y + half) * to_cell), 0), cells - 1)
        cz = min(max(int((z + half) * to_cell), 0), cells - 1)
        if occupied[cascade, cz, cy, cx]:
            return t, dt
        size = half / half_cells
        tx = ((cx + (ONE if inverse[0] > 0 else np.float32(0))) * size - half - origin[0]) * inverse[0]
        ty = ((cy + (ONE if inverse[1] > 0 else np.float32(0))) * size - half - origin[1]) * inverse[1]
        tz = ((cz + (ONE if inverse[2] > 0 else np.float32(0))) * size - half - origin[2]) * inverse[2]
        # Whole steps, so that a ray's samples stay where they are when cells elsewhere empty. At least one, or a ray
        # that grazes a face would never move on.
        t += dt * max(np.float32(math.ceil((min(min(tx, ty), tz) - t) / dt)), ONE)
    return end, np.float32(0)


@nb.njit(parallel=True, nogil=True, cache=True, fastmath=ORDERED)
def march(
    origins, directions, near, far, jitter, occupied, step_growth, step_min, step_max, t, dt, counts
):  # fmt: skip
    """Fills t, dt [rays, capacity] with the steps of each ray that begin in occupied cells, counts [rays] with their
    number."""
    for ray in nb.prange(origins.shape[0]):
        inverse = np.empty(3, np.float32)
        at, end = enter(
            origins[ray], directions[ray], near[ray], far[ray], jitter[ray], occupied.shape[0],
            step_growth, step_min, step_max, inverse,
        )  # fmt: skip
        found = 0
        while found < t.shape[1]:
            at, step = next_occupied(
                origins[ray], directions[ray], inverse, at, end, occupied, step_growth, step_min, step_max
            )
            if step == 0:
                break
            t[ray, found], dt[ray, found] = at, step
            found += 1
            at += step
        counts[ray] = found


@nb.njit(parallel=True, nogil=True, cache=True, fastmath=True)
def see(density, dt, offsets, min_transmittance, min_alpha, seen, counts):
    """Marks in seen [samples] those with enough light left in front of them and enough alpha of their own, and counts
    them for each ray."""
    for ray in nb.prange(offsets.shape[0] - 1):
        transmittance, kept = ONE, 0
        for sample in range(offsets[ray], offsets[ray + 1]):
            alpha = ONE - math.exp(-density[sample] * dt[sample])
            seen[sample] = transmittance >= min_transmittance and alpha >= min_alpha
            kept += seen[sample]
            transmittance *= ONE - alpha
        counts[ray] = kept


@nb.njit(fastmath=True, cache=True)
def unit_scale(x, y, z, unbounded):
    """Factor that takes core coordinates to [-0.5, 0.5]^3, by contraction with the maximum norm where unbounded."""
    if not unbounded:
        return np.float32(0.5)
    reach = max(max(abs(x), abs(y)), abs(z))
    return np.float32(0.25) if reach <= ONE else np.float32(0.25) * (np.float32(2) - ONE / reach) / reach


@nb.njit(parallel=True, nogil=True, cache=True, fastmath=True)
def gather(origins, directions, t, dt, offsets, unbounded, points, packed_t, packed_dt, rays):
    """Packs the samples of all rays, and places them in [0, 1]^3 (contracted by the max norm when unbounded)."""
    for ray in nb.prange(origins.shape[0]):
        start = offsets[ray]
        for sample in range(offsets[ray + 1] - start):
            at = t[ray, sample]
            x = origins[ray, 0] + at * directions[ray, 0]
            y = origins[ray, 1] + at * directions[ray, 1]
            z = origins[ray, 2] + at * directions[ray, 2]
            scale = unit_scale(x, y, z, unbounded)
            points[start + sample, 0] = x * scale + np.float32(0.5)
            points[start + sample, 1] = y * scale + np.float32(0.5)
            points[start + sample, 2] = z * scale + np.float32(0.5)
            packed_t[start + sample] = at
            packed_dt[start + sample] = dt[ray, sample]
            rays[start + sample] = ray


@nb.njit(parallel=True, nogil=True, cache=True, fastmath=True)
def composite(density, rgb, t, dt, offsets, min_transmittance, out_rgb, opacity, depth, distortion):
    """Quadrature of the volume rendering integral with early termination, and the distortion loss of mip-NeRF 360."""
    for ray in nb.prange(offsets.shape[0] - 1):
        transmittance = ONE
        red = green = blue = mass = reach = np.float32(0)
        spread = np.float32(0)
        for sample in range(offsets[ray], offsets[ray + 1]):
            if transmittance < min_transmittance:
                break
            alpha = ONE - math.exp(-density[sample] * dt[sample])
            weight = transmittance * alpha
            spread += np.float32(2) * weight * (t[sample] * mass - reach)
            spread += weight * weight * dt[sample] / np.float32(3)
            red += weight * rgb[sample, 0]
            green += weight * rgb[sample, 1]
            blue += weight * rgb[sample, 2]
            mass += weight
            reach += weight * t[sample]
            transmittance *= ONE - alpha
        out_rgb[ray, 0], out_rgb[ray, 1], out_rgb[ray, 2] = red, green, blue
        opacity[ray], depth[ray], distortion[ray] = mass, reach, spread


@nb.njit(parallel=True, nogil=True, cache=True, fastmath=True)
def median(density, t, dt, offsets, out):
    """Where half of each ray's own light has arisen; 0 for rays without light."""
    for ray in nb.prange(offsets.shape[0] - 1):
        start, stop = offsets[ray], offsets[ray + 1]
        optical = np.float32(0)
        for sample in range(start, stop):
            optical += density[sample] * dt[sample]
        half = np.float32(0.5) * (ONE - math.exp(-optical))
        mass, transmittance, found = np.float32(0), ONE, np.float32(0)
        for sample in range(start, stop):
            weight = transmittance * (ONE - math.exp(-density[sample] * dt[sample]))
            if weight > 0:
                # Rounded, the sum may stay just below the half: then it is reached at the end of the last sample.
                part = min((half - mass) / weight, ONE)
                found = t[sample] + (part - np.float32(0.5)) * dt[sample]
            mass += weight
            if mass >= half:
                break
            transmittance -= weight
        out[ray] = found


@nb.njit(parallel=True, nogil=True, cache=True, fastmath=True)
def composite_backward(
    density, rgb, t, dt, offsets, min_transmittance, out_rgb, opacity, depth,
    grad_rgb, grad_opacity, grad_depth, grad_distortion, density_gradient, rgb_gradient,
):  # fmt: skip
    """Gradients of `composite`.

    With g_i the derivative by the weight w_i, dL/dsigma_i = dt_i (T_{i+1} g_i - sum_{j>i} w_j g_j). The sum is taken
    from the front: suffix = total - prefix, where totals come from the forward pass wherever they are linear in w.
    """
    for ray in nb.prange(offsets.shape[0] - 1):
        start, stop = offsets[ray], offsets[ray + 1]
        gr, gg, gb = grad_rgb[ray, 0], grad_rgb[ray, 1], grad_rgb[ray, 2]
        go, gd, gs = grad_opacity[ray], grad_depth[ray], grad_distortion[ray]
        two = np.float32(2)
        total = gr * out_rgb[ray, 0] + gg * out_rgb[ray, 1] + gb * out_rgb[ray, 2]
        total += go * opacity[ray] + gd * depth[ray]
        if gs != 0:
            # sum_j w_j dD/dw_j = 2 D, since the distortion is quadratic in the weights.
            transmittance, mass, reach, spread = ONE, np.float32(0), np.float32(0), np.float32(0)
            for sample in range(start, stop):
                if transmittance < min_transmittance:
                    break
                alpha = ONE - math.exp(-density[sample] * dt[sample])
                weight = transmittance * alpha
                spread += two * weight * (t[sample] * mass - reach) + weight * weight * dt[
                    sample
                ] / np.float32(3)
                mass += weight
                reach += weight * t[sample]
                transmittance *= ONE - alpha
            total += gs * two * spread
        transmittance = ONE
        mass = reach = prefix = np.float32(0)
        for sample in range(start, stop):
            if transmittance < min_transmittance:
                for rest in range(sample, stop):
                    density_gradient[rest] = 0
                    rgb_gradient[rest, 0] = rgb_gradient[rest, 1] = rgb_gradient[rest, 2] = 0
                break
            alpha = ONE - math.exp(-density[sample] * dt[sample])
            weight = transmittance * alpha
            rgb_gradient[sample, 0] = weight * gr
            rgb_gradient[sample, 1] = weight * gg
            rgb_gradient[sample, 2] = weight * gb
            by_weight = gr * rgb[sample, 0] + gg * rgb[sample, 1] + gb * rgb[sample, 2] + go + gd * t[sample]
            if gs != 0:
                before = t[sample] * mass - reach
                behind = (depth[ray] - reach - weight * t[sample]) - t[sample] * (
                    opacity[ray] - mass - weight
                )
                by_weight += gs * two * (before + behind + weight * dt[sample] / np.float32(3))
            prefix += weight * by_weight
            transmittance *= ONE - alpha
            density_gradient[sample] = dt[sample] * (transmittance * by_weight - (total - prefix))
            mass += weight
            reach += weight * t[sample]
