"""Samples along rays: where a field is asked. Those in occupied cells that a ray can see.

Everything here is in core coordinates: the core box of the scene is [-1, 1]^3 and directions are unit vectors, so `t`
and `dt` are lengths in units of the box's half side.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from lumigraph.fields.activations import BOX_SIDE, LARGEST, box_density
from lumigraph.fields.hashgrid import HashGrid
from lumigraph.geometry.bounds import shrinkage
from lumigraph.rendering.volume import cpu, reference
from lumigraph.rendering.volume.tracing_cpu import trace_kernel

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
    length travelled per unit of the ray parameter that the rest of the project uses. For cones, spread [R] is the
    standard deviation across the ray of what a pixel sees, per unit of length; rays without it are lines."""

    origins: Float[Tensor, "R 3"]
    directions: Float[Tensor, "R 3"]
    near: Float[Tensor, " R"]
    far: Float[Tensor, " R"]
    speed: Float[Tensor, " R"]
    spread: Float[Tensor, " R"] | None = None

    def sizes(
        self, samples: "Samples", index: Int[Tensor, " S"], unbounded: bool
    ) -> Float[Tensor, " S"] | None:
        """Deviations of what pixels see of samples on the rays `index`, in sides of the unit cube; None of lines."""
        if self.spread is None:
            return None
        return shrinkage(samples.points, unbounded) * self.spread[index] * samples.t


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


def visible_samples(
    rays: CoreRays,
    occupied: UInt8[Tensor, "cascades n n n"],
    rule: StepRule,
    unbounded: bool,
    jitter: Float[Tensor, " R"],
    grid: HashGrid,
    network: nn.Sequential,
    min_transmittance: float = MIN_TRANSMITTANCE,
    min_alpha: float = MIN_ALPHA,
) -> tuple[Samples, Int[Tensor, " S"]]:
    """The samples in occupied cells that a ray can see, and the ray of each; without gradients.

    The first step of each ray is shifted by `jitter` (in [0, 1)) of its length. `network` is linear, ReLU, linear,
    without biases; `box_density` makes the density of its first output at the features of `grid`, for cones at the
    faded ones.
    """
    trace = _trace_cpu if rays.origins.device.type == "cpu" else _trace_reference
    return trace(rays, occupied, rule, unbounded, jitter, grid, network, min_transmittance, min_alpha)


def occupied_samples(
    rays: CoreRays,
    occupied: UInt8[Tensor, "cascades n n n"],
    rule: StepRule,
    unbounded: bool,
    jitter: Float[Tensor, " R"],
) -> tuple[Samples, Int[Tensor, " S"]]:
    """All samples in occupied cells, and the ray of each: what a field is asked about that no kernel knows."""
    if rays.origins.device.type != "cpu":
        samples = Samples(*reference.march(rays, occupied, rule, unbounded, jitter))
        return samples, samples.rays
    t, dt, counts = _no_steps(len(rays.origins), rule)
    growth, shortest, longest = _floats(rule.growth, rule.shortest, rule.longest)
    cpu.march(
        _array(rays.origins), _array(rays.directions), _array(rays.near), _array(rays.far), _array(jitter),
        _array(occupied), growth, shortest, longest, t, dt, counts,
    )  # fmt: skip
    return _packed(rays, t, dt, counts, unbounded)


def seen_samples(
    samples: Samples,
    density: Float[Tensor, " S"],
    min_transmittance: float = MIN_TRANSMITTANCE,
    min_alpha: float = MIN_ALPHA,
) -> tuple[Samples, Int[Tensor, " K"]]:
    """Those of `samples`, of which `density` is known, that their rays can see, and the ray of each."""
    if density.device.type != "cpu":
        return reference.keep_visible(samples, density, min_transmittance, min_alpha)
    counts = samples.offsets.new_zeros(len(samples.offsets) - 1)
    seen = torch.empty(len(density), dtype=torch.bool)
    least_light, least_alpha = _floats(min_transmittance, min_alpha)
    cpu.see(
        _array(density), _array(samples.dt), _array(samples.offsets), least_light, least_alpha, seen.numpy(),
        counts.numpy(),
    )  # fmt: skip
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    kept = Samples(samples.points[seen], samples.t[seen], samples.dt[seen], offsets)
    return kept, kept.rays


def _trace_reference(rays, occupied, rule, unbounded, jitter, grid, network, min_transmittance, min_alpha):
    """The twin: marches first, then asks for all densities."""
    samples = Samples(*reference.march(rays, occupied, rule, unbounded, jitter))
    sizes = rays.sizes(samples, samples.rays, unbounded)
    features = grid(samples.points) if sizes is None else grid.faded(samples.points, sizes)
    hidden = network[:-1](features)
    density = box_density(hidden @ network[-1].weight[0])
    return reference.keep_visible(samples, density, min_transmittance, min_alpha)


def _trace_cpu(rays, occupied, rule, unbounded, jitter, grid, network, min_transmittance, min_alpha):
    layout = grid.layout
    first, second = network[0].weight.detach(), network[-1].weight.detach()[0]
    t, dt, counts = _no_steps(len(rays.origins), rule)
    cones = rays.spread is not None
    spread = np.empty(0, np.float32) if rays.spread is None else _array(rays.spread)
    width = layout.faded_width if cones else layout.width
    trace_kernel(layout.features, width, len(first), cones)(
        _array(rays.origins), _array(rays.directions),
        _array(rays.near), _array(rays.far), spread, _array(jitter), _array(occupied),
        *_floats(rule.growth, rule.shortest, rule.longest), unbounded,
        _array(grid.table), *layout.arrays, _array(first.T), _array(second),
        *_floats(LARGEST, 1 / BOX_SIDE, min_transmittance, min_alpha), t, dt, counts,
    )  # fmt: skip
    return _packed(rays, t, dt, counts, unbounded)


def _no_steps(rays: int, rule: StepRule) -> tuple[np.ndarray, ...]:
    """Room for the steps of rays, and for their numbers."""
    room = (rays, rule.most)
    return np.empty(room, np.float32), np.empty(room, np.float32), np.empty(rays, np.int64)


def _packed(rays: CoreRays, t: np.ndarray, dt: np.ndarray, counts: np.ndarray, unbounded: bool):
    """Steps as packed samples, and the ray of each."""
    offsets = np.concatenate([[0], np.cumsum(counts)])
    total = int(offsets[-1])
    points, index = np.empty((total, 3), np.float32), np.empty(total, np.int64)
    packed_t, packed_dt = np.empty(total, np.float32), np.empty(total, np.float32)
    origins, directions = _array(rays.origins), _array(rays.directions)
    cpu.gather(origins, directions, t, dt, offsets, unbounded, points, packed_t, packed_dt, index)
    packed = Samples(*(torch.from_numpy(values) for values in (points, packed_t, packed_dt, offsets)))
    return packed, torch.from_numpy(index)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


def _floats(*values: float) -> tuple[np.float32, ...]:
    return tuple(np.float32(value) for value in values)
