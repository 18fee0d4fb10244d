"""Samples along rays: where a field is asked. Marched through occupied cells, then thinned to what can be seen.

Everything here is in core coordinates: the core box of the scene is [-1, 1]^3 and directions are unit vectors, so `t`
and `dt` are lengths in units of the box's half side.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from lumigraph.rendering.volume import cpu, reference

MIN_ALPHA = 1e-3
"""A sample that hides less than this is not worth its colour."""
MIN_TRANSMITTANCE = 1e-4
"""Light below this is not worth another sample."""


@dataclass(frozen=True)
class StepRule:
    """Length of a step at distance t: clamp(t * growth, shortest, longest) (Instant-NGP, appendix E.1)."""

    growth: float
    shortest: float
    longest: float
    most: int
    """Samples that a ray can have."""


@dataclass(frozen=True)
class CoreRays:
    """Rays in core coordinates: origins [R, 3], unit directions [R, 3], near and far [R] as lengths; speed [R] is the
    length travelled per unit of the ray parameter that the rest of the project uses."""

    origins: Float[Tensor, "R 3"]
    directions: Float[Tensor, "R 3"]
    near: Float[Tensor, " R"]
    far: Float[Tensor, " R"]
    speed: Float[Tensor, " R"]


@dataclass(frozen=True)
class Samples:
    """Samples of R rays packed one ray after another: `offsets` [R + 1] says where each ray's samples begin.

    points [S, 3] in [0, 1]^3, distances t [S], lengths dt [S].
    """

    points: Float[Tensor, "S 3"]
    t: Float[Tensor, " S"]
    dt: Float[Tensor, " S"]
    offsets: Int[Tensor, " bounds"]

    @property
    def rays(self) -> Int[Tensor, " S"]:
        """The ray of each sample."""
        return torch.repeat_interleave(self.offsets[1:] - self.offsets[:-1])


def march(
    rays: CoreRays,
    occupied: UInt8[Tensor, "cascades n n n"],
    rule: StepRule,
    unbounded: bool,
    jitter: Float[Tensor, " R"],
) -> Samples:
    """Samples in occupied cells; the first of each ray is shifted by `jitter` (in [0, 1)) of a step."""
    march_rays = _march_cpu if rays.origins.device.type == "cpu" else reference.march
    return Samples(*march_rays(rays, occupied, rule, unbounded, jitter))


def _march_cpu(rays: CoreRays, occupied: Tensor, rule: StepRule, unbounded: bool, jitter: Tensor):
    count = len(rays.origins)
    origins, directions = rays.origins.contiguous().numpy(), rays.directions.contiguous().numpy()
    t, dt = np.empty((count, rule.most), np.float32), np.empty((count, rule.most), np.float32)
    counts = np.empty(count, np.int64)
    cpu.march(
        origins, directions, rays.near.contiguous().numpy(), rays.far.contiguous().numpy(), jitter.numpy(),
        occupied.numpy(), np.float32(rule.growth), np.float32(rule.shortest), np.float32(rule.longest), t, dt, counts,
    )  # fmt: skip
    offsets = np.concatenate([[0], np.cumsum(counts)])
    total = int(offsets[-1])
    points = np.empty((total, 3), np.float32)
    packed_t, packed_dt = np.empty(total, np.float32), np.empty(total, np.float32)
    cpu.gather(origins, directions, t, dt, offsets, unbounded, points, packed_t, packed_dt)
    return tuple(torch.from_numpy(values) for values in (points, packed_t, packed_dt, offsets))


def keep_visible(
    samples: Samples, density: Float[Tensor, " S"], encoded: Float[Tensor, "S width"]
) -> tuple[Samples, Float[Tensor, "kept width"], Int[Tensor, " kept"]]:
    """The samples that a ray can see given their densities, their rows of `encoded`, and the ray of each."""
    if density.device.type != "cpu":
        return reference.keep_visible(samples, density, encoded, MIN_TRANSMITTANCE, MIN_ALPHA)
    keep, counts = np.empty(len(density), np.bool_), np.empty(len(samples.offsets) - 1, np.int64)
    offsets, dt = samples.offsets.numpy(), samples.dt.numpy()
    cpu.visible(
        density.numpy(), dt, offsets, np.float32(MIN_TRANSMITTANCE), np.float32(MIN_ALPHA), keep, counts
    )
    kept_offsets = np.concatenate([[0], np.cumsum(counts)])
    kept = int(kept_offsets[-1])
    points, rows = np.empty((kept, 3), np.float32), np.empty((kept, encoded.shape[1]), np.float32)
    t, kept_dt, rays = np.empty(kept, np.float32), np.empty(kept, np.float32), np.empty(kept, np.int64)
    cpu.keep_rows(
        keep, offsets, kept_offsets, samples.points.numpy(), encoded.numpy(), samples.t.numpy(), dt,
        points, rows, t, kept_dt, rays,
    )  # fmt: skip
    packed = Samples(*(torch.from_numpy(values) for values in (points, t, kept_dt, kept_offsets)))
    return packed, torch.from_numpy(rows), torch.from_numpy(rays)
