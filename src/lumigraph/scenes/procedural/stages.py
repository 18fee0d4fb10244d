"""The scenes themselves. World units, z up; everything lies within 1.2 of the origin along each axis and stands on a
round table whose top is at z = FLOOR.

still: a penny-farthing with laced spokes, a glossy ball, a drum and a gold ring.
moving: Newton's cradle over one period, time in [0, 1], first and last moment alike.
moving-split: the same, in front of it a ball that parts into two and closes again (a change of topology).
attributes: a robot; attribute 0 in [-1, 1] turns its head, attribute 1 in [-1, 1] raises its arm.
"""

import math

import torch
from torch import Tensor

from lumigraph.scenes.procedural.shapes import Box, Capsule, Cylinder, Ellipsoid, Shape, Sphere, Torus
from lumigraph.scenes.procedural.tracing import AnalyticScene, Group, Material, Solid

FLOOR = -0.62
EXTENT = 1.2
"""No part of any scene is farther than this from the origin along any axis."""

Vector = tuple[float | int, float | int, float | int]


# --------------------------------------------------------------------------------------------- helpers


def _double(*values: float | int) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _turn(axis: str, angle: Tensor | float) -> Tensor:
    """Rotation by `angle` [M] radians (or one number) about a world axis: [M, 3, 3] (or [3, 3])."""
    angle = torch.as_tensor(angle, dtype=torch.float64)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    rows = {
        "x": [one, zero, zero, zero, cosine, -sine, zero, sine, cosine],
        "y": [cosine, zero, sine, zero, one, zero, -sine, zero, cosine],
        "z": [cosine, -sine, zero, sine, cosine, zero, zero, zero, one],
    }[axis]
    return torch.stack(rows, -1).reshape(*angle.shape, 3, 3)


def _at(shape: Shape, material: Material, centre: Vector, rotation: Tensor | None = None) -> Solid:
    return Solid(
        shape, material, _double(*centre), torch.eye(3, dtype=torch.float64) if rotation is None else rotation
    )


def _along(direction: Tensor) -> Tensor:
    """A rotation whose z axis points along `direction`."""
    z = torch.nn.functional.normalize(direction, dim=0)
    helper = _double(1, 0, 0) if abs(float(z[0])) < 0.9 else _double(0, 1, 0)
    x = torch.nn.functional.normalize(torch.linalg.cross(helper, z), dim=0)
    return torch.stack([x, torch.linalg.cross(z, x), z], 1)


def _rod(start: Vector, end: Vector, size: float, material: Material) -> Solid:
    a, b = _double(*start), _double(*end)
    half = 0.5 * float((b - a).norm())
    return Solid(Capsule(size, half), material, 0.5 * (a + b), _along(b - a))


def _around(rotation: Tensor, pivot: Vector) -> tuple[Tensor, Tensor]:
    """Pose [M] that turns the world about a point."""
    point = _double(*pivot)
    return rotation, point - rotation @ point


# ------------------------------------------------------------------------------------------- materials


def _mix(first: Vector, second: Vector, share: Tensor) -> Tensor:
    return torch.lerp(torch.tensor(first), torch.tensor(second), share[:, None])


def _table_top(points: Tensor, normals: Tensor) -> Tensor:
    """A chequered disc inside a brass ring and a walnut rim."""
    x, y = points[:, 0], points[:, 1]
    distance = torch.hypot(x, y)
    tiles = ((torch.floor(x / 0.2) + torch.floor(y / 0.2)) % 2).float()
    colour = _mix((0.66, 0.61, 0.52), (0.06, 0.14, 0.18), tiles)
    colour = torch.where(
        ((distance > 0.96) & (distance < 1.0))[:, None], torch.tensor((0.55, 0.36, 0.12)), colour
    )
    rim = (distance >= 1.0) | (normals[:, 2] < 0.5)
    return torch.where(rim[:, None], torch.tensor((0.20, 0.12, 0.07)), colour)


def _wood(points: Tensor, _: Tensor) -> Tensor:
    """Year rings, bent and warped a little."""
    x, y, z = points.unbind(-1)
    bend = 0.02 * torch.sin(7 * x + 2 * y) + 0.012 * torch.sin(17 * x - 5 * z)
    rings = 0.5 + 0.5 * torch.sin(95 * torch.hypot(y + bend + 0.15, z + 0.31))
    return _mix((0.44, 0.24, 0.10), (0.24, 0.11, 0.04), rings**2)


def _stripes(points: Tensor, normals: Tensor) -> Tensor:
    """A drum: zigzag bands on the side, a pale skin on top."""
    angle = torch.atan2(points[:, 1], points[:, 0]) / math.pi * 6
    zigzag = 0.03 * (2 * (angle - torch.floor(angle + 0.5)).abs() - 0.5)
    band = ((torch.floor((points[:, 2] + zigzag) / 0.055) % 2) == 0).float()
    side = _mix((0.05, 0.18, 0.42), (0.80, 0.72, 0.50), band)
    return torch.where((normals[:, 2].abs() > 0.5)[:, None], torch.tensor((0.75, 0.70, 0.60)), side)


def _panels(points: Tensor, normals: Tensor) -> Tensor:
    """A robot's chest: a lit dial with ticks and two rows of lamps on the front (-y) of a teal box."""
    x, _, z = points.unbind(-1)
    colour = torch.tensor((0.10, 0.42, 0.44)).repeat(len(points), 1)
    distance, angle = torch.hypot(x, z - 0.06), torch.atan2(z - 0.06, x)
    dial = (distance < 0.11) & (distance > 0.02)
    ticks = (torch.cos(12 * angle) > 0.55) & (distance > 0.07)
    colour = torch.where(dial[:, None], torch.tensor((0.90, 0.82, 0.55)), colour)
    colour = torch.where((dial & ticks)[:, None], torch.tensor((0.25, 0.05, 0.03)), colour)
    column = torch.round(x / 0.075)
    lamps = (torch.hypot(x - 0.075 * column, z + 0.14) < 0.024) & (column.abs() <= 2)
    lamp = _mix((0.95, 0.35, 0.06), (0.35, 0.85, 0.25), (column % 2).float())
    colour = torch.where(lamps[:, None], lamp, colour)
    seam = (z.abs() > 0.225) & (z.abs() < 0.24)
    plain = torch.where(seam[:, None], torch.tensor((0.03, 0.12, 0.13)), torch.tensor((0.10, 0.42, 0.44)))
    return torch.where((normals[:, 1] < -0.5)[:, None], colour, plain)


STEEL = Material((0.56, 0.57, 0.60), reflectance=0.5, gloss=90, metal=True)
GOLD = Material((0.95, 0.62, 0.20), gloss=110, metal=True)
BLACK = Material((0.035, 0.035, 0.04), gloss=25)
RED = Material((0.62, 0.03, 0.025), reflectance=0.05, gloss=160)
PAINT = Material((0.035, 0.15, 0.11), reflectance=0.06, gloss=120)
LEATHER = Material((0.30, 0.10, 0.04), gloss=18)
CREAM = Material((0.78, 0.72, 0.60), gloss=40)
TEAL = Material((0.10, 0.42, 0.44), reflectance=0.05, gloss=80)
WOOD = Material((0.4, 0.2, 0.1), texture=_wood, gloss=30)


def _table() -> Group:
    top = Material((0.6, 0.6, 0.6), texture=_table_top, reflectance=0.03, gloss=35)
    half = 0.045
    return Group((Solid(Cylinder(1.12, half), top, _double(0, 0, FLOOR - half), casts_shadow=False),))


# --------------------------------------------------------------------------------------------- scenes


def _wheel(centre: Vector, ring: float, tube: float, spokes: int, hub: float) -> list[Solid]:
    """A wheel in the plane y = 0 with spokes laced tangentially from both flanges of the hub."""
    x, _, z = centre
    solids = [
        _at(Torus(ring, tube), BLACK, centre, _turn("x", math.pi / 2)),
        _at(Torus(ring - 1.05 * tube, 0.4 * tube), STEEL, centre, _turn("x", math.pi / 2)),
        _at(Cylinder(hub, 0.055), GOLD, centre, _turn("x", math.pi / 2)),
    ]
    rim = ring - 1.2 * tube
    for spoke in range(spokes):
        angle = 2 * math.pi * spoke / spokes
        lead = 0.9 if spoke % 4 < 2 else -0.9
        flange = 0.045 if spoke % 2 else -0.045
        start = (x + 0.8 * hub * math.cos(angle + lead), flange, z + 0.8 * hub * math.sin(angle + lead))
        end = (x + rim * math.cos(angle), 0.15 * flange, z + rim * math.sin(angle))
        solids.append(_rod(start, end, 0.0062, STEEL))
    return solids


def _handlebar(head: Vector, side: float) -> list[Solid]:
    x, _, z = head
    bend = (x + 0.03, 0.20 * side, z + 0.07)
    return [
        _rod((x, 0, z + 0.05), bend, 0.014, STEEL),
        _rod(bend, (x - 0.06, 0.34 * side, z), 0.014, STEEL),
        _rod((x - 0.045, 0.317 * side, z + 0.01), (x - 0.10, 0.40 * side, z - 0.035), 0.024, BLACK),
    ]


def _bicycle() -> list[Solid]:
    big, small = (0.16, 0.0, FLOOR + 0.615), (-0.70, 0.0, FLOOR + 0.212)
    head = (0.20, 0.0, big[2] + 0.72)
    solids = _wheel(big, 0.58, 0.035, 24, 0.06) + _wheel(small, 0.185, 0.027, 10, 0.035)
    # The backbone follows the big wheel down to the small one.
    bow = [
        (big[0] + 0.69 * math.cos(math.radians(a)), 0.0, big[2] + 0.69 * math.sin(math.radians(a)))
        for a in range(88, 195, 8)
    ]
    spine = [head, *bow]
    solids += [_rod(a, b, 0.026, PAINT) for a, b in zip(spine, spine[1:], strict=False)]
    end = spine[-1]
    for side in (-0.075, 0.075):
        solids.append(_rod((big[0], side, big[2]), (head[0], side * 0.8, head[2] - 0.02), 0.017, PAINT))
        solids.append(_rod(end, (small[0], side * 0.9, small[2]), 0.014, PAINT))
        crank = (big[0] + math.copysign(0.13, side), 1.5 * side, big[2] - math.copysign(0.07, side))
        solids.append(_rod((big[0], 1.5 * side, big[2]), crank, 0.012, STEEL))
        solids.append(_at(Box((0.055, 0.035, 0.014)), BLACK, (crank[0], 2.1 * side, crank[2])))
        solids += _handlebar(head, math.copysign(1.0, side))
    solids += [
        _rod((head[0], 0, head[2] - 0.03), (head[0], 0, head[2] + 0.05), 0.028, GOLD),
        _rod((big[0], -0.115, big[2]), (big[0], 0.115, big[2]), 0.02, STEEL),
        _at(Ellipsoid((0.15, 0.075, 0.035)), LEATHER, (0.03, 0.0, head[2] + 0.045), _turn("y", 0.12)),
        _rod((0.05, 0, head[2] - 0.05), (0.04, 0, head[2] + 0.03), 0.012, STEEL),
        _at(Sphere(0.055), GOLD, (head[0] + 0.10, 0, head[2] - 0.09)),
        _rod((head[0], 0, head[2] - 0.07), (head[0] + 0.10, 0, head[2] - 0.09), 0.012, STEEL),
    ]
    return solids


def still() -> AnalyticScene:
    """The penny-farthing: thin spokes, textures, metal and lacquer that change with the view."""
    drum = Material((0.5, 0.5, 0.5), texture=_stripes, gloss=40)
    ring_tilt = _turn("z", 0.5) @ _turn("y", math.radians(62))
    props = [
        _at(Sphere(0.17), RED, (0.52, -0.55, FLOOR + 0.17)),
        _at(Cylinder(0.15, 0.11), drum, (-0.38, -0.58, FLOOR + 0.11)),
        _at(Sphere(0.09), CREAM, (-0.02, -0.72, FLOOR + 0.09)),
        _at(Box((0.15, 0.15, 0.15)), WOOD, (-0.22, 0.58, FLOOR + 0.15), _turn("z", 0.4)),
        # The ring leans with its lower edge on the table.
        _at(
            Torus(0.15, 0.035),
            GOLD,
            (0.40, 0.58, FLOOR + 0.035 + 0.15 * math.sin(math.radians(62))),
            ring_tilt,
        ),
    ]
    return AnalyticScene("still", (_table(), Group((*_bicycle(), *props))))


def _cradle_ball(index: int, material: Material) -> Group:
    """A ball on two threads; the outer ones swing in turn, half a period each."""
    x, top, low = 0.23 * (index - 2), 0.56, -0.16
    solids = [_at(Sphere(0.113), material, (x, 0, low))]
    for side in (-0.34, 0.34):
        solids.append(_rod((x, side, top), (x, 0.02 * side, low + 0.112), 0.0062, CREAM))
    if index in (1, 2, 3):
        return Group(tuple(solids))
    sign = 1.0 if index == 0 else -1.0

    def pose(times: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        angle = 0.75 * sign * (sign * torch.cos(2 * math.pi * times)).clamp_min(0)
        return _around(_turn("y", angle), (x, 0, top))

    return Group(tuple(solids), pose)


def _cradle_frame() -> list[Solid]:
    solids = [_at(Box((0.66, 0.42, 0.05)), WOOD, (0, 0, FLOOR + 0.05))]
    for y in (-0.34, 0.34):
        corners = [(-0.58, y, FLOOR + 0.1), (-0.58, y, 0.56), (0.58, y, 0.56), (0.58, y, FLOOR + 0.1)]
        solids += [_rod(a, b, 0.024, STEEL) for a, b in zip(corners, corners[1:], strict=False)]
        solids += [_at(Sphere(0.036), GOLD, corner) for corner in corners[1:3]]
    return solids


def _parting_balls() -> list[Group]:
    """Two balls in one place at times 0 and 1, farthest apart at time 0.5."""

    def half(sign: float) -> Group:
        def pose(times: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
            way = 0.5 - 0.5 * torch.cos(2 * math.pi * times)
            return _turn("z", torch.zeros_like(times)), sign * way[:, None] * _double(0.3, 0, 0)

        return Group((_at(Sphere(0.14), RED, (0, -0.68, FLOOR + 0.14)),), pose)

    return [half(-1.0), half(1.0)]


def moving(topology_change: bool = False) -> AnalyticScene:
    """Newton's cradle over one period; with `topology_change`, a ball in front of it parts into two."""
    colours = (RED, STEEL, GOLD, STEEL, Material((0.03, 0.12, 0.45), reflectance=0.05, gloss=160))
    balls = [_cradle_ball(index, material) for index, material in enumerate(colours)]
    extra = _parting_balls() if topology_change else []
    name = "moving-split" if topology_change else "moving"
    return AnalyticScene(name, (_table(), Group(tuple(_cradle_frame())), *balls, *extra), moving=True)


def _robot_head() -> list[Solid]:
    solids = [
        _at(Box((0.21, 0.17, 0.15)), CREAM, (0, 0, 0.46)),
        _rod((0, 0, 0.61), (0, 0, 0.76), 0.010, STEEL),
        _at(Sphere(0.04), RED, (0, 0, 0.78)),
        _at(Box((0.11, 0.012, 0.022)), BLACK, (0, -0.172, 0.385)),
    ]
    for tooth in range(4):
        solids.append(_at(Box((0.010, 0.010, 0.018)), STEEL, (0.045 * (tooth - 1.5), -0.180, 0.385)))
    for x in (-0.09, 0.09):
        solids += [
            _at(Cylinder(0.062, 0.02), GOLD, (x, -0.175, 0.50), _turn("x", math.pi / 2)),
            _at(Sphere(0.048), Material((0.85, 0.85, 0.80), gloss=120), (x, -0.180, 0.50)),
            _at(Sphere(0.022), BLACK, (x, -0.216, 0.50)),
            _at(Cylinder(0.05, 0.03), STEEL, (2.4 * x, 0, 0.46), _turn("y", math.pi / 2)),
        ]
    return solids


def _robot_arm(side: float) -> list[Solid]:
    """An arm that hangs from the shoulder at (0.31 side, 0, 0.17)."""
    x = 0.35 * side
    solids = [
        _at(Sphere(0.075), STEEL, (x, 0, 0.17)),
        _rod((x, 0, 0.15), (x, -0.02, -0.06), 0.042, TEAL),
        _at(Sphere(0.052), STEEL, (x, -0.02, -0.08)),
        _rod((x, -0.02, -0.10), (x, -0.10, -0.26), 0.036, TEAL),
    ]
    for finger in (-0.035, 0.035):
        solids.append(_rod((x + 0.6 * finger, -0.11, -0.29), (x + finger, -0.15, -0.37), 0.014, GOLD))
    return solids


def _robot_body() -> list[Solid]:
    chest = Material((0.1, 0.4, 0.4), texture=_panels, reflectance=0.05, gloss=80)
    solids = [
        _at(Box((0.27, 0.19, 0.25)), chest, (0, 0, 0.0)),
        _at(Cylinder(0.07, 0.04), STEEL, (0, 0, 0.28)),
    ]
    for x in (-0.14, 0.14):
        solids += [
            _at(Cylinder(0.062, 0.13), STEEL, (x, 0, -0.37)),
            _at(Torus(0.062, 0.016), BLACK, (x, 0, -0.33)),
            _at(Torus(0.062, 0.016), BLACK, (x, 0, -0.40)),
            _at(Box((0.105, 0.16, 0.055)), TEAL, (x, -0.04, FLOOR + 0.055)),
        ]
    return solids


def attributes() -> AnalyticScene:
    """The robot: attribute 0 turns the head, attribute 1 raises the arm at its right (x < 0)."""

    def head(_: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        return _around(_turn("z", 0.9 * values[:, 0]), (0, 0, 0.4))

    def arm(_: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        return _around(_turn("y", 0.25 + 1.15 * (values[:, 1] + 1)), (-0.35, 0, 0.17))

    groups = (
        _table(),
        Group((*_robot_body(), *_robot_arm(1.0))),
        Group(tuple(_robot_head()), head, attribute=0),
        Group(tuple(_robot_arm(-1.0)), arm, attribute=1),
        Group(
            (
                _at(Sphere(0.12), RED, (0.62, -0.50, FLOOR + 0.12)),
                _at(Torus(0.11, 0.03), GOLD, (-0.62, -0.45, FLOOR + 0.03)),
            )
        ),
    )
    return AnalyticScene("attributes", groups, attribute_names=("head", "arm"))
