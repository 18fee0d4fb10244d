"""Which samples rays can see, in numba: marching, hash grid and density network in one loop.

A sample is asked for its density where the ray stands, so that a ray stops at the first surface and nothing is stored
but what it sees. The network is one hidden layer, small enough to stay in registers and first-level cache.
"""

import inspect
import math
import zlib
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import numba as nb
import numpy as np

from lumigraph.fields.hashgrid import cpu as hashgrid_cpu
from lumigraph.fields.hashgrid.cpu import encode_point, fade_point
from lumigraph.rendering.volume import cpu as volume_cpu
from lumigraph.rendering.volume import reference
from lumigraph.rendering.volume.cpu import ONE, enter, next_occupied, unit_scale

RAYS_PER_TASK = 16


@nb.njit(inline="always")
def _raw_density(encoded, first, second, width, hidden, units):
    """What density is made of at a point's features: linear, ReLU, linear, without biases."""
    for unit in range(hidden):
        units[unit] = np.float32(0)
    for column in range(width):
        value = encoded[column]
        for unit in range(hidden):
            units[unit] += value * first[column, unit]
    total = np.float32(0)
    for unit in range(hidden):
        total += max(units[unit], np.float32(0)) * second[unit]
    return total


def _sources(*modules: ModuleType) -> int:
    """A number of what the files of modules hold."""
    return zlib.crc32("".join(inspect.getsource(module) for module in modules).encode())


@cache
def trace_kernel(features: int, width: int, hidden: int, cones: bool) -> Callable[..., Any]:
    """The kernel for `width` numbers a point, `features` a level, `hidden` units, for cones or for lines: constants, so
    that loops unroll.

    It captures nothing but numbers, or numba could not keep it from one process to the next: these, and one of the
    files whose functions it calls, for numba itself would only look at this one for changes.
    """
    called = _sources(hashgrid_cpu, volume_cpu, reference)

    @nb.njit(parallel=True, fastmath=True, nogil=True, cache=True)
    def trace(
        origins, directions, near, far, spread, jitter, occupied, step_growth, step_min, step_max, unbounded,
        table, scales, vertices, hashed, sizes, offsets, first, second,
        largest, per_length, min_transmittance, min_alpha, t, dt, counts,
    ):  # fmt: skip
        """Fills t, dt [rays, capacity] with the visible samples of each ray and counts [rays] with their number."""
        _ = called
        rays = origins.shape[0]
        for task in nb.prange((rays + RAYS_PER_TASK - 1) // RAYS_PER_TASK):
            encoded, units = np.empty(width, np.float32), np.empty(hidden, np.float32)
            inverse = np.empty(3, np.float32)
            for ray in range(task * RAYS_PER_TASK, min(rays, (task + 1) * RAYS_PER_TASK)):
                origin, direction = origins[ray], directions[ray]
                at, end = enter(
                    origin, direction, near[ray], far[ray], jitter[ray], occupied.shape[0],
                    step_growth, step_min, step_max, inverse,
                )  # fmt: skip
                transmittance, kept = ONE, 0
                while kept < t.shape[1] and transmittance >= min_transmittance:
                    at, step = next_occupied(
                        origin, direction, inverse, at, end, occupied, step_growth, step_min, step_max
                    )
                    if step == 0:
                        break
                    x = origin[0] + at * direction[0]
                    y = origin[1] + at * direction[1]
                    z = origin[2] + at * direction[2]
                    scale, half = unit_scale(x, y, z, unbounded), np.float32(0.5)
                    encode_point(
                        x * scale + half, y * scale + half, z * scale + half,
                        table, scales, vertices, hashed, sizes, offsets, features, encoded,
                    )  # fmt: skip
                    if cones:
                        fade_point(spread[ray] * at * scale, scales, features, encoded)
                    raw = _raw_density(encoded, first, second, width, hidden, units)
                    density = per_length * math.exp(min(raw, largest))
                    alpha = ONE - math.exp(-density * step)
                    if alpha >= min_alpha:
                        t[ray, kept], dt[ray, kept] = at, step
                        kept += 1
                    transmittance *= ONE - alpha
                    at += step
                counts[ray] = kept

    return trace
