"""Solids that a ray meets in closed form, each centred on its own origin.

In this module o and d are a ray's origin and unit direction, p a point, t a distance along the ray. All functions
take tensors [N, 3] and return [N] or [N, 3]. `intersect` wants o moved along the ray to near the solid's centre,
which keeps thin solids exact in float32. A ray that starts inside a solid does not see it.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Points = Float[Tensor, "N 3"]
Numbers = Float[Tensor, " N"]


class Shape:
    """A closed solid around the origin of its own frame."""

    @property
    def radius(self) -> float:
        """Radius of a sphere around the origin that holds the solid."""
        raise NotImplementedError

    @property
    def radius_across(self) -> float:
        """Half the thickness of a thin solid, `radius` of others."""
        return self.radius

    def beads(self) -> tuple[Float[Tensor, "K 3"], float]:
        """Centres and common radius of spheres that together hold the solid; fewer or more, for speed only."""
        return torch.zeros(1, 3), self.radius

    def intersect(self, o: Points, d: Points) -> Numbers:
        """Distance t (possibly negative) at which the ray enters the solid; inf where it misses."""
        raise NotImplementedError

    def normal(self, p: Points) -> Points:
        """Outward unit normal at points p of the surface."""
        raise NotImplementedError

    def distance(self, p: Points) -> Numbers:
        """Signed distance of p to the surface, negative inside."""
        raise NotImplementedError

    def clearance(self, p: Points, way: Points) -> Numbers:
        """How far a line from p passes the solid: the least ratio of distance to way s along it (`way` unit).

        For convex solids the ratio falls and then rises, so that a scan followed by halving the bracket finds
        the least; the few others (rings) are narrow enough for the scan. Shapes that know their nearest point use
        that instead.
        """
        middle = -_dot(p, way)
        near, far = (middle - 1.5 * self.radius).clamp_min(1e-3), (middle + 1.5 * self.radius).clamp_min(2e-3)

        def ratio(s: Tensor) -> Tensor:
            at = p[:, None] + s[..., None] * way[:, None]
            return self.distance(at.reshape(-1, 3)).reshape(s.shape) / s

        steps = 8
        s = near[:, None] + (far - near)[:, None] * torch.linspace(0, 1, steps)
        best, place = ratio(s).min(1)
        width = (far - near) / (steps - 1)
        centre = s.gather(1, place[:, None])[:, 0]
        for _ in range(4):
            width = width / 2
            around = torch.stack([centre - width, centre + width], 1).clamp_min(1e-3)
            values, side = ratio(around).min(1)
            centre = torch.where(values < best, around.gather(1, side[:, None])[:, 0], centre)
            best = torch.minimum(best, values)
        return best


def _entry(enter: Tensor, leave: Tensor) -> Tensor:
    return torch.where(enter < leave, enter, torch.inf)


def _quadratic(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Roots of a t² + 2 b t + c in order, (inf, -inf) where there are none."""
    discriminant = b * b - a * c
    root = discriminant.clamp_min(0).sqrt()
    missed = discriminant <= 0
    safe = a.clamp_min(1e-30)
    enter, leave = (-b - root) / safe, (-b + root) / safe
    return enter.masked_fill(missed, torch.inf), leave.masked_fill(missed, -torch.inf)


def _slab(o: Tensor, d: Tensor, half: float) -> tuple[Tensor, Tensor]:
    """Where the ray is between two planes at -half and half of one axis."""
    d = torch.where(d.abs() < 1e-12, torch.where(d < 0, -1e-12, 1e-12), d)
    one, other = (-half - o) / d, (half - o) / d
    return torch.minimum(one, other), torch.maximum(one, other)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    # By components: several times faster than a sum over a last dimension of two or three.
    products = (a * b).unbind(-1)
    return sum(products[1:], products[0])


def _length(p: Tensor) -> Tensor:
    return _dot(p, p).sqrt()


@dataclass(frozen=True)
class Sphere(Shape):
    """A ball."""

    size: float

    @property
    def radius(self) -> float:
        return self.size

    def intersect(self, o: Points, d: Points) -> Numbers:
        return _entry(*_quadratic(_dot(d, d), _dot(o, d), _dot(o, o) - self.size**2))

    def normal(self, p: Points) -> Points:
        return torch.nn.functional.normalize(p, dim=-1)

    def distance(self, p: Points) -> Numbers:
        return _length(p) - self.size

    def clearance(self, p: Points, way: Points) -> Numbers:
        s = (-_dot(p, way)).clamp_min(1e-3)
        return (_length(p + s[:, None] * way) - self.size) / s


@dataclass(frozen=True)
class Ellipsoid(Shape):
    """An ellipsoid with half axes `axes`. Its `distance` is the first-order estimate of Quilez, exact in sign and at
    the surface."""

    axes: tuple[float, float, float]

    @property
    def radius(self) -> float:
        return max(self.axes)

    def intersect(self, o: Points, d: Points) -> Numbers:
        axes = o.new_tensor(self.axes)
        o, d = o / axes, d / axes
        return _entry(*_quadratic(_dot(d, d), _dot(o, d), _dot(o, o) - 1))

    def normal(self, p: Points) -> Points:
        return torch.nn.functional.normalize(p / p.new_tensor(self.axes) ** 2, dim=-1)

    def distance(self, p: Points) -> Numbers:
        axes = p.new_tensor(self.axes)
        scaled = _length(p / axes)
        return scaled * (scaled - 1) / _length(p / axes**2).clamp_min(1e-9)


@dataclass(frozen=True)
class Box(Shape):
    """A box with half sides `half`."""

    half: tuple[float, float, float]

    @property
    def radius(self) -> float:
        return math.hypot(*self.half)

    def intersect(self, o: Points, d: Points) -> Numbers:
        slabs = [_slab(o[:, axis], d[:, axis], self.half[axis]) for axis in range(3)]
        enter = torch.stack([near for near, _ in slabs]).amax(0)
        return _entry(enter, torch.stack([far for _, far in slabs]).amin(0))

    def normal(self, p: Points) -> Points:
        face = (p.abs() - p.new_tensor(self.half)).argmax(-1, keepdim=True)
        return torch.zeros_like(p).scatter_(-1, face, torch.sign(p.gather(-1, face)))

    def distance(self, p: Points) -> Numbers:
        excess = p.abs() - p.new_tensor(self.half)
        return _length(excess.clamp_min(0)) + excess.amax(-1).clamp_max(0)


@dataclass(frozen=True)
class Cylinder(Shape):
    """A capped cylinder along z."""

    size: float
    half: float

    @property
    def radius(self) -> float:
        return math.hypot(self.size, self.half)

    def intersect(self, o: Points, d: Points) -> Numbers:
        side = _round_side(o, d, self.size)
        caps = _slab(o[:, 2], d[:, 2], self.half)
        return _entry(torch.maximum(side[0], caps[0]), torch.minimum(side[1], caps[1]))

    def normal(self, p: Points) -> Points:
        across = _length(p[:, :2])
        side = (across - self.size) > (p[:, 2].abs() - self.half)
        outward = torch.cat([p[:, :2] / across.clamp_min(1e-12)[:, None], torch.zeros_like(p[:, 2:])], -1)
        cap = torch.zeros_like(p)
        cap[:, 2] = torch.sign(p[:, 2])
        return torch.where(side[:, None], outward, cap)

    def distance(self, p: Points) -> Numbers:
        excess = torch.stack([_length(p[:, :2]) - self.size, p[:, 2].abs() - self.half], -1)
        return _length(excess.clamp_min(0)) + excess.amax(-1).clamp_max(0)


def _round_side(o: Tensor, d: Tensor, size: float) -> tuple[Tensor, Tensor]:
    """Where the ray is inside an endless cylinder along z. A ray along the axis is in it all the way or never."""
    along = _dot(d[:, :2], d[:, :2])
    outside = _dot(o[:, :2], o[:, :2]) - size**2
    enter, leave = _quadratic(along, _dot(o[:, :2], d[:, :2]), outside)
    parallel = along < 1e-20
    always = parallel & (outside < 0)
    enter = torch.where(parallel, torch.inf, enter).masked_fill(always, -torch.inf)
    leave = torch.where(parallel, -torch.inf, leave).masked_fill(always, torch.inf)
    return enter, leave


@dataclass(frozen=True)
class Capsule(Shape):
    """A rod along z with round ends: all points within `size` of a segment of half length `half`."""

    size: float
    half: float

    @property
    def radius(self) -> float:
        return self.size + self.half

    @property
    def radius_across(self) -> float:
        return self.size

    def beads(self) -> tuple[Float[Tensor, "K 3"], float]:
        count = max(1, min(12, round(self.half / (2 * self.size))))
        step = self.half / count
        places = torch.zeros(count, 3)
        places[:, 2] = torch.arange(count) * 2 * step + step - self.half
        return places, step + self.size

    def intersect(self, o: Points, d: Points) -> Numbers:
        # Most rays near a rod pass its axis at a distance: only the others are worth the work.
        beside = (o[:, 0] * d[:, 1] - o[:, 1] * d[:, 0]) ** 2
        worth = (beside <= 1.001 * self.size**2 * _dot(d[:, :2], d[:, :2]) + 1e-12).nonzero()[:, 0]
        first = torch.full_like(o[:, 0], torch.inf)
        if not len(worth):
            return first
        o, d = o[worth], d[worth]
        # The union of these three is convex, so the first entry into any of them is the entry into the rod.
        entry = Cylinder(self.size, self.half).intersect(o, d)
        for end in (-self.half, self.half):
            entry = torch.minimum(entry, Sphere(self.size).intersect(o - o.new_tensor([0, 0, end]), d))
        first[worth] = entry
        return first

    def normal(self, p: Points) -> Points:
        return torch.nn.functional.normalize(self._from_axis(p), dim=-1)

    def distance(self, p: Points) -> Numbers:
        return _length(self._from_axis(p)) - self.size

    def clearance(self, p: Points, way: Points) -> Numbers:
        flat = _dot(way[:, :2], way[:, :2]).clamp_min(1e-12)
        nearest = p[:, 2] - _dot(p[:, :2], way[:, :2]) / flat * way[:, 2]
        nearest = nearest.clamp(-self.half, self.half)
        s = (nearest * way[:, 2] - _dot(p, way)).clamp_min(1e-3)
        return (_length(self._from_axis(p + s[:, None] * way)) - self.size) / s

    def _from_axis(self, p: Tensor) -> Tensor:
        return torch.cat([p[:, :2], p[:, 2:] - p[:, 2:].clamp(-self.half, self.half)], -1)


@dataclass(frozen=True)
class Torus(Shape):
    """A ring around z: all points within `size` of a circle of radius `ring`.

    The ray meets it where t⁴ + a t² + b t + c = 0 (o is the closest point to the centre, so there is no cubic term).
    The quartic falls, rises, falls and rises between its critical points, which are the closed-form roots of a
    cubic; the entry lies in the first falling piece that ends below zero and is bisected there.
    """

    ring: float
    size: float

    @property
    def radius(self) -> float:
        return self.ring + self.size

    def beads(self) -> tuple[Float[Tensor, "K 3"], float]:
        count = max(6, min(24, round(math.pi * self.ring / (1.5 * self.size))))
        angle = torch.arange(count) * (2 * math.pi / count)
        places = self.ring * torch.stack([angle.cos(), angle.sin(), torch.zeros(count)], 1)
        return places, 2 * self.ring * math.sin(math.pi / (2 * count)) + self.size

    def intersect(self, o: Points, d: Points) -> Numbers:
        first = torch.full_like(o[:, 0], torch.inf)
        o, d = o.double(), d.double()
        shift = -_dot(o, d)
        o = o + shift[:, None] * d
        beside = _dot(o, o)
        k = beside + self.ring**2 - self.size**2
        flat = 4 * self.ring**2
        a = 2 * k - flat * _dot(d[:, :2], d[:, :2])
        b = -2 * flat * _dot(o[:, :2], d[:, :2])
        c = k * k - flat * _dot(o[:, :2], o[:, :2])
        end = (self.radius**2 - beside).clamp_min(0).sqrt()
        low, high, found = _falling_piece(a, b, c, end)
        rows = found.nonzero()[:, 0]
        a, b, c, low, high = a[rows], b[rows], c[rows], low[rows], high[rows]
        for _ in range(36):
            middle = 0.5 * (low + high)
            above = _quartic(a, b, c, middle) > 0
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        first[rows] = (0.5 * (low + high) + shift[rows]).to(first.dtype)
        return first

    def normal(self, p: Points) -> Points:
        return torch.nn.functional.normalize(self._from_circle(p), dim=-1)

    def distance(self, p: Points) -> Numbers:
        return _length(self._from_circle(p)) - self.size

    def _from_circle(self, p: Tensor) -> Tensor:
        across = _length(p[:, :2])[:, None].clamp_min(1e-12)
        return torch.cat([p[:, :2] * (1 - self.ring / across), p[:, 2:]], -1)


def _quartic(a: Tensor, b: Tensor, c: Tensor, t: Tensor) -> Tensor:
    return ((t * t + a) * t + b) * t + c


def _falling_piece(a: Tensor, b: Tensor, c: Tensor, end: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(low, high, found): the first piece of [-end, end] on which the quartic falls from above to below zero."""
    first, second, third = (root.clamp(-end, end) for root in _depressed_cubic(a / 2, b / 4))
    in_first = _quartic(a, b, c, first) < 0
    in_third = _quartic(a, b, c, third) < 0
    low = torch.where(in_first, -end, second)
    return low, torch.where(in_first, first, third), (in_first | in_third) & (end > 0)


def _depressed_cubic(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Real roots of t³ + p t + q in rising order; where there is only one, it is given three times."""
    discriminant = 0.25 * q * q + p**3 / 27
    # Cardano with the sign that does not cancel.
    sign = torch.where(q < 0, -1.0, 1.0)
    base = 0.5 * q.abs() + discriminant.clamp_min(0).sqrt()
    u = -sign * base.pow(1 / 3)
    single = u - p / (3 * torch.where(u.abs() < 1e-30, 1e-30, u))
    # Vieta, for three real roots.
    scale = (-p / 3).clamp_min(1e-30).sqrt()
    angle = torch.acos((-0.5 * q / scale**3).clamp(-1, 1)) / 3
    roots = [2 * scale * torch.cos(angle - 2 * math.pi * turn / 3) for turn in (2, 1, 0)]
    ordered = torch.stack(roots).sort(0).values
    three = discriminant < 0
    return tuple(torch.where(three, root, single) for root in ordered)  # type: ignore[return-value]
