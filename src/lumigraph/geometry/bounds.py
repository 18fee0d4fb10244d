"""The part of space a scene occupies, and the contraction of what lies beyond it.

Contraction (mip-NeRF 360, Barron et al. 2022, equation 10): contract(x) = x where |x| <= 1, (2 - 1/|x|) x/|x|
elsewhere; all of space lands in the ball (Euclidean norm, "l2") or cube (maximum norm, "linf") of radius 2.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lumigraph.errors import LumigraphError

Norm = Literal["linf", "l2"]
Points = Float[Tensor, "*shape 3"]

_LARGEST = 1e30


def contract(points: Points, norm: Norm = "linf") -> Points:
    """Map all of space into the ball or cube of radius 2; identity within radius 1.

    Finite, with finite gradient, everywhere.
    """
    points = points.clamp(-_LARGEST, _LARGEST)
    length = _length(points, norm)
    return points * ((2.0 - 1.0 / length) / length)


def unit_cube(points: Points, unbounded: bool) -> Points:
    """Core coordinates, in which a scene's box is [-1, 1]^3, to the cube [0, 1]^3 of a grid: the box fills it, or where
    the scene is unbounded all of space does, contracted in the maximum norm."""
    return 0.25 * contract(points) + 0.5 if unbounded else 0.5 * points + 0.5


def shrinkage(cubed: Points, unbounded: bool) -> Tensor:
    """By how much `unit_cube` has shrunk lengths across the direction from the centre, at points that it has placed
    [*s, 3]; contraction shrinks those along it further, by 2 L - 1 at L half sides. Returns [*s]."""
    if not unbounded:
        return torch.full_like(cubed[..., 0], 0.5)
    length = (4 * cubed - 2).abs().amax(-1).clamp(min=1)
    return 0.25 * length * (2 - length)


def uncontract(points: Points, norm: Norm = "linf") -> Points:
    """Inverse of `contract`; radius 2 and beyond map to the farthest distance the dtype can tell from infinity."""
    length = _length(points, norm)
    remaining = (2.0 - length).clamp(min=torch.finfo(points.dtype).eps)
    return points * (1.0 / (length * remaining))


def _length(points: Tensor, norm: Norm) -> Tensor:
    """max(1, norm) over the last dimension, kept; never overflows."""
    largest = points.abs().amax(dim=-1, keepdim=True).clamp(min=1.0)
    if norm == "linf":
        return largest
    return (largest * torch.linalg.vector_norm(points / largest, dim=-1, keepdim=True)).clamp(min=1.0)


def within_core_box(
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    near: Float[Tensor, " n"],
    far: Float[Tensor, " n"],
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Near and far of rays in core coordinates, cut to where they enter and leave the core box [-1, 1]^3. A ray that
    misses it keeps no length, at its near end."""
    slope = torch.where(directions.abs() < 1e-12, 1e-12, directions)
    one, other = (-1 - origins) / slope, (1 - origins) / slope
    enters, leaves = torch.minimum(one, other).amax(1), torch.maximum(one, other).amin(1)
    first, last = torch.maximum(near, enters), torch.minimum(far, leaves)
    missed = last <= first
    return torch.where(missed, near, first), torch.where(missed, near, last)


@dataclass(frozen=True)
class Bounds:
    """An axis-aligned box in scene units: all of a bounded scene, or the core of an unbounded one.

    In an unbounded scene content may lie anywhere; what is outside the box is background, to be contracted.
    """

    lower: Float[Tensor, "3"]
    upper: Float[Tensor, "3"]
    unbounded: bool = False

    @property
    def centre(self) -> Float[Tensor, "3"]:
        return 0.5 * (self.lower + self.upper)

    @property
    def half_extent(self) -> Float[Tensor, "3"]:
        return 0.5 * (self.upper - self.lower)

    def to(self, device: torch.device | str) -> "Bounds":
        return Bounds(self.lower.to(device), self.upper.to(device), self.unbounded)

    def normalise(self, points: Points) -> Points:
        """The box to [-1, 1] on each axis."""
        return (points - self.centre) / self.half_extent

    def denormalise(self, points: Points) -> Points:
        """Inverse of `normalise`."""
        return points * self.half_extent + self.centre

    def contract(self, points: Points, norm: Norm = "linf") -> Points:
        """Normalise by the box, then contract: the box stays in [-1, 1], all else lands within radius 2."""
        return contract(self.normalise(points), norm)

    def uncontract(self, points: Points, norm: Norm = "linf") -> Points:
        """Inverse of `contract`."""
        return self.denormalise(uncontract(points, norm))

    def to_json(self) -> dict[str, Any]:
        return {"lower": self.lower.tolist(), "upper": self.upper.tolist(), "unbounded": self.unbounded}

    @classmethod
    def from_json(cls, data: Any, where: str | None = None) -> "Bounds":
        """Inverse of `to_json`; anything that is not a box raises LumigraphError."""
        what = "bounds need 'lower', 'upper' (three numbers each) and 'unbounded'"
        try:
            lower = torch.tensor(data["lower"], dtype=torch.float32)
            upper = torch.tensor(data["upper"], dtype=torch.float32)
            unbounded = data["unbounded"]
        except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise LumigraphError(what, where=where) from error
        if lower.shape != (3,) or upper.shape != (3,) or not isinstance(unbounded, bool):
            raise LumigraphError(what, where=where)
        if not bool(torch.isfinite(upper - lower).all() and (upper > lower).all()):
            raise LumigraphError("the upper corner of the bounds must exceed the lower one", where=where)
        return cls(lower, upper, unbounded)


NGP_SCALE, NGP_OFFSET = 0.33, (0.5, 0.5, 0.5)
"""What instant-ngp takes where a ``transforms.json`` does not say."""


def ngp_bounds(
    aabb_scale: float | int, scale: float | int = NGP_SCALE, offset: Sequence[float | int] = NGP_OFFSET
) -> Bounds:
    """The box, in the file's units, that instant-ngp gives a ``transforms.json`` with these keys.

    instant-ngp maps x to scale * x + offset and looks inside the cube of side ``aabb_scale`` about (0.5, 0.5, 0.5).
    """
    if not (math.isfinite(aabb_scale) and aabb_scale > 0 and math.isfinite(scale) and scale > 0):
        raise LumigraphError(f"aabb_scale {aabb_scale} and scale {scale} must be positive numbers")
    if len(offset) != 3 or not all(math.isfinite(value) for value in offset):
        raise LumigraphError(f"offset {list(offset)} must be three finite numbers")
    centre = (0.5 - torch.tensor(offset, dtype=torch.float64)) / scale
    half = 0.5 * aabb_scale / scale
    return Bounds((centre - half).float(), (centre + half).float())
