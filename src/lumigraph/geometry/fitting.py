"""What the poses of captured cameras tell about a scene: which way is up, what they look at, from where.

All fits are in float64 and finite for any finite cameras: one camera, parallel cameras, coinciding cameras.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lumigraph.errors import LumigraphError
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.rotations import look_along, perpendicular, unit

_PARALLEL_SPREAD = 1e-4
"""Smallest mean squared sine between the optical axes and one line at which they still fix a point."""
_INWARD_RESULTANT = 0.95
"""Length of the mean viewing direction above which cameras count as facing forward (all within about 18 degrees)."""
_INWARD_SHARE = 0.8
_FULL_CIRCLE_GAP = math.radians(60.0)

Vector = Float[Tensor, "3"]


def fit_up(cameras: Cameras) -> Vector:
    """Unit vector that is up in the scene.

    People hold cameras level: the image's x axis is horizontal. So up is the direction most at right angles to all x
    axes (the smallest eigenvector of sum x x^T), with the sign of the mean camera up. Where the x axes do not tell
    (cameras side by side, or rolled at random) it is the mean camera up itself.
    """
    _require(cameras)
    rights, ups = cameras.rights.double(), cameras.ups.double()
    mean_up = ups.mean(0)
    forward = cameras.forwards.double().mean(0)
    values, vectors = torch.linalg.eigh(rights.T @ rights / len(cameras))
    level = vectors[:, 0]
    distinct = float(values[1]) > 0.02 and float(values[0]) < 0.2 * float(values[1])
    sign = float(mean_up @ level)
    if abs(sign) < 0.05:  # the cameras look down (or up) all around: what they look at is below
        sign = -float(forward @ level)
    if distinct and abs(sign) > 1e-3:
        return level * math.copysign(1.0, sign)
    return unit(mean_up, perpendicular(forward))


def fit_focus(cameras: Cameras) -> tuple[Vector, bool]:
    """The point nearest to all optical axes (least squares), and whether the cameras look at it from around.

    Cameras face it from around ("inward") when at least four fifths have it in front, and their axes differ by more
    than about 18 degrees on average. Otherwise (side by side, looking outwards, only one) the point is put on the mean
    axis, at the harmonic middle of near and far.
    """
    _require(cameras)
    positions, forwards = cameras.positions.double(), cameras.forwards.double()
    point = nearest_to_axes(cameras)
    if point is not None:
        in_front = ((point - positions) * forwards).sum(-1) > 0
        spread = float(forwards.mean(0).norm())
        if float(in_front.double().mean()) >= _INWARD_SHARE and spread < _INWARD_RESULTANT:
            return point, True
    return positions.mean(0) + _focal_depth(cameras) * unit(forwards.mean(0), forwards[0]), False


def nearest_to_axes(cameras: Cameras) -> Vector | None:
    """The point whose squared distances to all optical axes have the least sum; None where the axes are parallel."""
    _require(cameras)
    positions, forwards = cameras.positions.double(), cameras.forwards.double()
    identity = torch.eye(3, dtype=torch.float64, device=positions.device)
    projectors = identity - forwards[:, :, None] * forwards[:, None, :]
    system = projectors.mean(0)
    if float(torch.linalg.eigvalsh(system)[0]) <= _PARALLEL_SPREAD:
        return None
    return torch.linalg.solve(system, (projectors @ positions[:, :, None]).mean(0)[:, 0])


def average_pose(cameras: Cameras) -> Float[Tensor, "3 4"]:
    """The camera in the middle (float64): mean position and mean viewing direction, upright by the mean of the upward
    axes (LLFF's `poses_avg`)."""
    _require(cameras)
    forward, up = cameras.forwards.double().mean(0), cameras.ups.double().mean(0)
    return look_along(
        cameras.positions.double().mean(0),
        unit(forward, cameras.forwards[0].double()),
        unit(up, cameras.ups[0].double()),
    )


def _focal_depth(cameras: Cameras) -> float:
    """One over the mean disparity between near and far, weighted as LLFF does (3/4 far)."""
    near, far = cameras.near.double().clamp(min=1e-6).median(), cameras.far.double().clamp(min=1e-6).median()
    return float(1.0 / (0.25 / near + 0.75 / far))


@dataclass(frozen=True)
class Placement:
    """Where the cameras of a capture stand, in spherical coordinates about what they look at.

    focus, up: see `fit_focus`, `fit_up` (float64). east, north: with up, a right-handed frame; azimuth turns from east
    to north. azimuth: radians, the interval (start, end), end - start <= 2 pi, that holds all cameras. elevation:
    radians above the horizon, lowest and highest. radius: smallest and largest distance from the focus.
    mean_elevation, mean_radius: of all. aim_spread: standard deviation per axis of where cameras look instead of
    exactly at the focus.
    """

    inward: bool
    focus: Vector
    up: Vector
    east: Vector
    north: Vector
    azimuth: tuple[float, float]
    elevation: tuple[float, float]
    radius: tuple[float, float]
    mean_elevation: float
    mean_radius: float
    aim_spread: Vector

    @property
    def full_circle(self) -> bool:
        """Whether the cameras go all the way round, up to a gap of 60 degrees."""
        return self.azimuth[1] - self.azimuth[0] > 2.0 * math.pi - _FULL_CIRCLE_GAP

    def position(
        self,
        azimuth: Float[Tensor, "*shape"],
        elevation: Float[Tensor, "*shape"],
        radius: Float[Tensor, "*shape"],
    ) -> Float[Tensor, "*shape 3"]:
        """Scene points at spherical coordinates about the focus (radians, scene units)."""
        level = torch.cos(azimuth)[..., None] * self.east + torch.sin(azimuth)[..., None] * self.north
        outward = torch.cos(elevation)[..., None] * level + torch.sin(elevation)[..., None] * self.up
        return self.focus + radius[..., None] * outward


def fit_placement(cameras: Cameras) -> Placement:
    """Fit a `Placement` to cameras. Raises LumigraphError without any camera."""
    focus, inward = fit_focus(cameras)
    up = fit_up(cameras)
    x_axis = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64, device=up.device)
    level = x_axis - (x_axis @ up) * up
    east = unit(level, perpendicular(up)) if float(level.norm()) > 1e-3 else perpendicular(up)
    north = torch.linalg.cross(up, east)
    offsets = cameras.positions.double() - focus
    radius = offsets.norm(dim=-1)
    outward = unit(offsets, -cameras.forwards.double())
    elevation = torch.asin((outward @ up).clamp(-1.0, 1.0))
    level_part = outward - (outward @ up)[:, None] * up
    known = level_part.norm(dim=-1) > 0.05  # straight above the focus every azimuth is the same
    azimuth = torch.atan2(level_part @ north, level_part @ east)
    return Placement(
        inward=inward,
        focus=focus,
        up=up,
        east=east,
        north=north,
        azimuth=_covering_arc(azimuth[known] if bool(known.any()) else azimuth),
        elevation=(float(elevation.min()), float(elevation.max())),
        radius=(float(radius.min()), float(radius.max())),
        mean_elevation=float(elevation.mean()),
        mean_radius=float(radius.mean()),
        aim_spread=_aim_spread(cameras, focus),
    )


def _covering_arc(angles: Tensor) -> tuple[float, float]:
    """The shortest interval of angles that holds them all: the circle without its largest gap."""
    ordered = angles.sort().values
    gaps = torch.cat((ordered[1:] - ordered[:-1], ordered[:1] + 2.0 * math.pi - ordered[-1:]))
    widest = int(gaps.argmax())
    start = float(ordered[(widest + 1) % len(ordered)])
    end = float(ordered[widest])
    return start, end if end >= start else end + 2.0 * math.pi


def _aim_spread(cameras: Cameras, focus: Tensor) -> Tensor:
    """Standard deviation, about the focus, of the points of the optical axes nearest to it."""
    positions, forwards = cameras.positions.double(), cameras.forwards.double()
    along = ((focus - positions) * forwards).sum(-1, keepdim=True)
    return (positions + along * forwards - focus).square().mean(0).sqrt()


def _require(cameras: Cameras) -> None:
    if len(cameras) == 0:
        raise LumigraphError("a scene without cameras has neither focus nor bounds")
