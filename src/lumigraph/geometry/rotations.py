"""Rotations: exponential and logarithm of SO(3) and SE(3), and cameras that look at a point.

Rotation vectors w: the angle |w| in radians about the axis w/|w|. W is the matrix with W p = w x p.
"""

import torch
from jaxtyping import Float
from torch import Tensor

_SMALL_ANGLE = 1e-2
_PARALLEL = 1e-6

Vectors = Float[Tensor, "*shape 3"]
Broadcast = Float[Tensor, "*#shape 3"]
Rotations = Float[Tensor, "*shape 3 3"]


def skew(vectors: Vectors) -> Rotations:
    """W with W p = w x p."""
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), dim=-1).unflatten(-1, (3, 3))


def so3_exp(vectors: Vectors) -> Rotations:
    """Rodrigues' formula I + sin(a)/a W + (1 - cos(a))/a^2 W^2, finite with finite gradient at zero."""
    first, second, _ = _rodrigues_factors(vectors)
    matrix = skew(vectors)
    return _identity_like(vectors) + first * matrix + second * (matrix @ matrix)


def so3_log(rotations: Rotations) -> Vectors:
    """The rotation vector of angle in [0, pi]; inverse of `so3_exp` there. At pi either of the two axes may come out.

    Goes by the unit quaternion with its largest component first (Shepperd 1978), so it is accurate at every angle.
    """
    w, vector = _quaternion(rotations)
    sign = torch.where(w < 0, -1.0, 1.0)
    w, vector = w * sign, vector * sign[..., None]
    squared = (vector * vector).sum(-1)
    small = squared < 1e-12
    length = torch.where(small, 1.0, squared).sqrt()
    scale = torch.where(small, 2.0, 2.0 * torch.atan2(length, w) / length)
    return vector * scale[..., None]


def se3_exp(rotation: Vectors, translation: Vectors) -> Float[Tensor, "*shape 3 4"]:
    """The rigid motion of the screw (rotation; translation), as Nerfies uses it: [exp(W) | G v] with
    G = I + (1 - cos a)/a^2 W + (a - sin a)/a^3 W^2 (Park et al. 2021, section 3.2).
    """
    _, second, third = _rodrigues_factors(rotation)
    matrix = skew(rotation)
    left = _identity_like(rotation) + second * matrix + third * (matrix @ matrix)
    return torch.cat((so3_exp(rotation), left @ translation[..., None]), dim=-1)


def screw_motion(rotation: Broadcast, translation: Broadcast, points: Vectors) -> Vectors:
    """Points after the rigid motion `se3_exp(rotation, translation)`, without its matrices: many points, each with a
    motion of its own. Finite with finite gradient at zero, where points stay exactly where they are."""
    first, second, third = (factor.squeeze(-1) for factor in _rodrigues_factors(rotation))
    turned = torch.linalg.cross(rotation, points)
    pushed = torch.linalg.cross(rotation, translation)
    # W (first x + second v) + W W (second x + third v) + v, the products by W taken once each.
    twice = torch.linalg.cross(rotation, second * turned + third * pushed)
    return points + translation + first * turned + second * pushed + twice


def _identity_like(vectors: Tensor) -> Tensor:
    return torch.eye(3, dtype=vectors.dtype, device=vectors.device)


def _rodrigues_factors(vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """sin(a)/a, (1 - cos a)/a^2, (a - sin a)/a^3, each [*shape, 1, 1]; by series below a small angle."""
    squared = (vectors * vectors).sum(-1)[..., None, None]
    small = squared < _SMALL_ANGLE**2
    safe = torch.where(small, 1.0, squared)
    angle = safe.sqrt()
    half_sine = torch.sin(0.5 * angle)
    first = torch.where(small, 1.0 - squared / 6.0 + squared**2 / 120.0, torch.sin(angle) / angle)
    second = torch.where(small, 0.5 - squared / 24.0 + squared**2 / 720.0, 2.0 * half_sine * half_sine / safe)
    third = torch.where(small, 1.0 / 6.0 - squared / 120.0, (angle - torch.sin(angle)) / (safe * angle))
    return first, second, third


def _quaternion(rotations: Tensor) -> tuple[Tensor, Tensor]:
    """Unit quaternion (w, vector) of rotation matrices, of either sign."""
    m00, m01, m02, m10, m11, m12, m20, m21, m22 = rotations.flatten(-2).unbind(-1)
    # Row i is 4 q_i (w, x, y, z); the row with the largest diagonal is the accurate one.
    rows = torch.stack(
        (
            torch.stack((1 + m00 + m11 + m22, m21 - m12, m02 - m20, m10 - m01), -1),
            torch.stack((m21 - m12, 1 + m00 - m11 - m22, m01 + m10, m02 + m20), -1),
            torch.stack((m02 - m20, m01 + m10, 1 - m00 + m11 - m22, m12 + m21), -1),
            torch.stack((m10 - m01, m02 + m20, m12 + m21, 1 - m00 - m11 + m22), -1),
        ),
        dim=-2,
    )
    best = torch.diagonal(rows, dim1=-2, dim2=-1).argmax(-1)
    chosen = torch.gather(rows, -2, best[..., None, None].expand(*best.shape, 1, 4)).squeeze(-2)
    chosen = torch.nn.functional.normalize(chosen, dim=-1)
    return chosen[..., 0], chosen[..., 1:]


def interpolate_rotations(
    first: Rotations, second: Rotations, fraction: Float[Tensor, "*shape"]
) -> Rotations:
    """Shortest-arc interpolation: ``first`` at fraction 0, ``second`` at 1."""
    turn = so3_log(first.transpose(-1, -2) @ second)
    return first @ so3_exp(turn * fraction[..., None])


def perpendicular(vectors: Vectors) -> Vectors:
    """A unit vector at a right angle to each given one (any, where that is zero); the same every time."""
    axis = torch.nn.functional.one_hot(vectors.abs().argmin(-1), 3).to(vectors.dtype)
    return unit(torch.linalg.cross(vectors, axis), torch.roll(axis, 1, dims=-1))


def unit(vectors: Vectors, fallback: Broadcast) -> Vectors:
    """Normalised vectors; ``fallback`` where one is zero or not finite. Does not overflow."""
    largest = vectors.abs().amax(-1, keepdim=True)
    usable = (largest > 0) & torch.isfinite(largest)
    scaled = vectors / torch.where(usable, largest, 1.0)
    length = scaled.norm(dim=-1, keepdim=True)
    return torch.where(usable, scaled / torch.where(usable, length, 1.0), fallback)


def look_along(eye: Broadcast, forward: Broadcast, up: Broadcast) -> Float[Tensor, "*shape 3 4"]:
    """Camera-to-world (OpenCV) at ``eye`` with the given viewing direction, and ``up`` upwards in the image.

    The shapes of the three broadcast against each other. right = n(forward x up), down = forward x right. Where those
    two are parallel, or forward is zero, some right-angled frame is taken, always the same one: the result is a
    rotation for every finite input.
    """
    shape = torch.broadcast_shapes(eye.shape, forward.shape, up.shape)
    position, along, above = (value.double().expand(shape) for value in (eye, forward, up))
    above = unit(above, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64, device=eye.device).expand(shape))
    along = unit(along, perpendicular(above))
    right = torch.linalg.cross(along, above)
    parallel = right.norm(dim=-1, keepdim=True) < _PARALLEL
    right = unit(torch.where(parallel, perpendicular(along), right), perpendicular(along))
    down = torch.linalg.cross(along, right)
    return torch.stack((right, down, along, position), dim=-1).to(eye.dtype)


def look_at(eye: Broadcast, target: Broadcast, up: Broadcast) -> Float[Tensor, "*shape 3 4"]:
    """Camera-to-world (OpenCV) at ``eye`` looking towards ``target``; see `look_along`."""
    return look_along(eye, target.double() - eye.double(), up)
