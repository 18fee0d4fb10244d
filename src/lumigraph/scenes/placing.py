"""Where the scene is, judged from its cameras, and the transform that brings it to unit size."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lumigraph.geometry.bounds import Bounds
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.conventions import similarity
from lumigraph.geometry.fitting import fit_focus, fit_up
from lumigraph.geometry.rotations import perpendicular, unit
from lumigraph.scenes.formats.fields import Fields

# Of captures brought to unit size, in scene units: cameras are about 1 away from what they look at.
CAPTURE_NEAR, CAPTURE_FAR = 0.1, 100.0
# Nothing is expected nearer than this part of the way to what inward cameras look at. What a camera has right in front
# of it, no other sees: a field would fill it with fog, which the others then see.
_NEAREST = 0.3
# An object may reach beyond the picture in some views; this much room is left around what is seen in the widest.
_MARGIN = 1.25
# Typical distance of what is photographed side by side, in units of how far the photographer moved.
_FORWARD_DISTANCE = 4.0
_OUTWARD_DISTANCE = 2.0


@dataclass(frozen=True)
class Place:
    """Where a scene goes: the similarity from file to scene units, and near, far and bounds in scene units."""

    transform: Float[Tensor, "4 4"]
    near: float
    far: float
    bounds: Bounds


@dataclass(frozen=True)
class Region:
    """An object and the depths between which every camera sees it, in the units of the cameras."""

    bounds: Bounds
    near: float
    far: float


def object_region(cameras: Cameras) -> Region:
    """The cube that an object fills which every camera shows whole, judged by distance and field of view."""
    focus, distance = look_at_point(cameras)
    tangent = (cameras.size.double() / (2.0 * cameras.focal.double())).amax(1)
    away = (cameras.positions.double() - focus).norm(dim=1)
    # A fisheye or a very wide lens does not mean that the object surrounds the camera.
    half = min(float((away * tangent).max()) * _MARGIN, distance)
    reach = half * 3.0**0.5
    near = max(float(away.min()) - reach, 0.05 * distance)
    corner = torch.full((3,), half)
    return Region(Bounds((focus - half).float(), (focus + corner).float()), near, float(away.max()) + reach)


def look_at_point(cameras: Cameras) -> tuple[Float[Tensor, "3"], float]:
    """The point that matters most (float64), and the typical distance to it; finite and positive for any cameras.

    Inward cameras: the point nearest to their axes. Cameras side by side: a point in front of them, some way off in
    proportion to how far they moved. Cameras looking outwards: their middle.
    """
    focus, inward = fit_focus(cameras)
    positions, forwards = cameras.positions.double(), cameras.forwards.double()
    if inward:
        return focus, max(float((positions - focus).norm(dim=1).median()), 1e-6)
    middle = positions.mean(0)
    moved = float((positions - middle).norm(dim=1).max())
    if moved <= 1e-6 * (1.0 + float(middle.norm())):  # all in one place: nothing tells the size, any will do
        moved = 1.0 / _FORWARD_DISTANCE
    facing = forwards.mean(0)
    if float(facing.norm()) < 0.5:
        return middle, _OUTWARD_DISTANCE * moved
    return middle + _FORWARD_DISTANCE * moved * unit(facing, perpendicular(facing)), _FORWARD_DISTANCE * moved


def capture_near(cameras: Cameras) -> float:
    """Depth at which a capture of unit size begins, scene units: farther than `CAPTURE_NEAR` for inward cameras."""
    focus, inward = fit_focus(cameras)
    if not inward:
        return CAPTURE_NEAR
    return max(CAPTURE_NEAR, _NEAREST * float((cameras.positions.double() - focus).norm(dim=1).min()))


def capture_place(cameras: Cameras, transform: Float[Tensor, "4 4"] | None = None) -> Place:
    """Photos that show whatever there is: an unbounded scene, brought to unit size (by `transform`, if given)."""
    transform = unit_transform(cameras) if transform is None else transform
    near = capture_near(cameras.transformed(transform))
    return Place(transform, near, CAPTURE_FAR, Bounds(-torch.ones(3), torch.ones(3), unbounded=True))


def unit_transform(cameras: Cameras) -> Float[Tensor, "4 4"]:
    """The similarity (float64) that puts the look-at point at the origin, one unit from the cameras, up along z."""
    focus, distance = look_at_point(cameras)
    rotation = _up_to_z(fit_up(cameras).double())
    return similarity(1.0 / distance, rotation, -(rotation @ focus) / distance)


def _up_to_z(up: Float[Tensor, "3"]) -> Float[Tensor, "3 3"]:
    """The smallest rotation that turns the unit vector `up` to +z."""
    x, y, z = up.tolist()
    if z < -1.0 + 1e-9:
        return torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))
    a = 1.0 / (1.0 + z)
    rows = [[1.0 - a * x * x, -a * x * y, -x], [-a * x * y, 1.0 - a * y * y, -y], [x, y, z]]
    return torch.tensor(rows, dtype=torch.float64)


def read_box(fields: Fields) -> Bounds | None:
    """The bounds that a file gives as `aabb`: [[x, y, z], [x, y, z]], lower and upper corner in file units."""
    if "aabb" not in fields:
        return None
    lower, upper = torch.from_numpy(fields.matrix("aabb", 2, 3)).float()
    if not bool((upper > lower).all()):
        raise fields.wrong("aabb", "a lower and an upper corner, in this order")
    return Bounds(lower, upper)
