"""Scenes made of solids: what a ray sees is computed, not sampled, so colour, depth and alpha are exact.

The light is a sun with a soft edge, a sky dome with ambient occlusion, and reflections of that sky: all functions of
the surface point, its normal and the view direction only, hence the same from every camera. Shadows and occlusion
come from the signed distances of the solids: a shadow is the least ratio of distance to way along the line to the
sun, compared with the sun's angular radius.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lumigraph.geometry.rays import Rays
from lumigraph.scenes.procedural.shapes import Shape

CHUNK = 1 << 18
"""Rays traced at a time: bounds memory at some 200 MB, and larger is faster."""
BLOCK = 256
"""Neighbouring rays that are tested together against what could be in their way."""

SUN = (0.45, -0.55, 0.95)
"""Towards the sun (not normalised), in world coordinates with z up."""
SUN_COLOUR = (2.35, 2.2, 1.95)
SKY_COLOUR = (0.62, 0.72, 0.88)
GROUND_COLOUR = (0.36, 0.32, 0.28)
SUN_WIDTH = 0.07
"""Tangent of the sun's angular radius: how soft shadows are."""
OCCLUSION_TAPS = (0.04, 0.11, 0.22)
"""Heights above a surface at which ambient occlusion asks for the distance to other solids, in scene units."""
THINNEST_OCCLUDER = 0.01
"""Rods thinner than this take no ambient light away."""

Texture = Callable[[Float[Tensor, "N 3"], Float[Tensor, "N 3"]], Float[Tensor, "N 3"]]
"""Linear base colour from points and normals in the solid's own frame."""

Pose = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(times [M], attributes [M, A]) -> rotation [M, 3, 3] and translation [M, 3] from the group's frame to the world."""


@dataclass(frozen=True)
class Material:
    """How a surface answers light. `colour` is linear rgb, which `texture` replaces where given; `reflectance` is the
    Fresnel reflectance at normal incidence, `gloss` the Blinn-Phong exponent; a metal tints its reflections and has
    no diffuse part."""

    colour: tuple[float, float, float]
    texture: Texture | None = None
    reflectance: float = 0.04
    gloss: float | int = 60
    metal: bool = False


@dataclass(frozen=True)
class Solid:
    """A shape at `centre`, turned by `rotation` (rows: world from shape), inside its group's frame."""

    shape: Shape
    material: Material
    centre: Float[Tensor, "3"]
    rotation: Float[Tensor, "3 3"] = field(default_factory=lambda: torch.eye(3, dtype=torch.float64))
    casts_shadow: bool = True


@dataclass(frozen=True)
class Group:
    """Solids that move together. `attribute` is the index of the attribute that moves them, -1 for none."""

    solids: tuple[Solid, ...]
    pose: Pose | None = None
    attribute: int = -1


@dataclass(frozen=True)
class Traced:
    """What rays [*s] see: premultiplied sRGB [*s, 3], alpha (0 or 1) [*s], depth t [*s] and unit normals [*s, 3] in
    world axes (NaN where nothing is), and the attribute [*s] that moves what is seen (-1: none, or nothing is seen)."""

    rgb: Float[Tensor, "*s 3"]
    alpha: Float[Tensor, "*s"]
    depth: Float[Tensor, "*s"]
    attribute: Int[Tensor, "*s"]
    normals: Float[Tensor, "*s 3"]


@dataclass(frozen=True)
class AnalyticScene:
    """Solids, whether they move with time, and the names of the attributes that control them."""

    name: str
    groups: tuple[Group, ...]
    moving: bool = False
    attribute_names: tuple[str, ...] = ()

    @property
    def attributes(self) -> int:
        """The number of attributes."""
        return len(self.attribute_names)

    @torch.no_grad()
    def trace(self, rays: Rays) -> Traced:
        """Exact colour, alpha and depth along rays of any leading shape, within [near, far].

        Rays of a moving scene without times are traced at time 0, without attributes at attributes 0.
        """
        flat = rays.flatten().to("cpu")
        parts = [self._trace(part) for part in flat.split(CHUNK)]
        rgb, alpha, depth, attribute, normals = (torch.cat(values) for values in zip(*parts, strict=True))
        shape = tuple(rays.shape)
        rgb, normals = (values.reshape(*shape, 3).to(rays.device) for values in (rgb, normals))
        alpha, depth, attribute = (
            values.reshape(shape).to(rays.device) for values in (alpha, depth, attribute)
        )
        return Traced(rgb, alpha, depth, attribute, normals)

    def _trace(self, rays: Rays) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        world = _World(self.groups, *self._state(rays))
        length = rays.directions.norm(dim=-1)
        origins, directions = rays.origins, rays.directions / length[:, None]
        t, hit = world.first_hit(origins, directions, rays.near * length, rays.far * length)
        seen = torch.isfinite(t).nonzero()[:, 0]
        rgb, normals = torch.zeros(len(t), 3), torch.full((len(t), 3), torch.nan)
        if len(seen):
            points = origins[seen] + t[seen, None] * directions[seen]
            rgb[seen], normals[seen] = world.shade(points, directions[seen], hit[seen], seen)
        depth = (t / length).masked_fill(~torch.isfinite(t), torch.nan)
        return rgb, torch.isfinite(t).float(), depth, world.attribute_of(hit), normals

    def _state(self, rays: Rays) -> tuple[Tensor, Tensor]:
        """Times [M] and attributes [M, A], with M = 1 when all rays share them."""
        times = rays.times if rays.times is not None and self.moving else torch.zeros(1)
        given = rays.attributes if rays.attributes is not None and self.attributes else None
        attributes = torch.zeros(1, self.attributes) if given is None else given
        together = bool((times == times[:1]).all()) and bool((attributes == attributes[:1]).all())
        if together:
            return times[:1].double(), attributes[:1].double()
        count = rays.numel
        return times.double().expand(count), attributes.double().expand(count, -1)


class _World:
    """The solids of a scene at one state per ray (or one for all)."""

    def __init__(self, groups: tuple[Group, ...], times: Tensor, attributes: Tensor) -> None:
        self.groups = groups
        self.solids: list[tuple[int, Solid]] = [
            (index, solid) for index, group in enumerate(groups) for solid in group.solids
        ]
        still = (torch.eye(3, dtype=torch.float64)[None], torch.zeros(1, 3, dtype=torch.float64))
        poses = [still if group.pose is None else group.pose(times, attributes) for group in groups]
        self.poses = [(rotation.float(), translation.float()) for rotation, translation in poses]
        self.beads = [
            _Beads([s for owner, s in self.solids if owner == group]) for group in range(len(groups))
        ]

    def members(self, group: int) -> list[tuple[int, Solid]]:
        """The solids of a group, with their indices among all."""
        return [(index, solid) for index, (owner, solid) in enumerate(self.solids) if owner == group]

    def attribute_of(self, hit: Tensor) -> Tensor:
        """The attribute that moves each solid of `hit` [N] (index of a solid, -1 for none)."""
        labels = torch.tensor([self.groups[group].attribute for group, _ in self.solids] + [-1])
        return labels[hit]

    def _pose(self, group: int, rows: Tensor | None) -> tuple[Tensor, Tensor]:
        rotation, translation = self.poses[group]
        if len(rotation) == 1 or rows is None:
            return rotation, translation
        return rotation[rows], translation[rows]

    def _points_into(self, group: int, points: Tensor, rows: Tensor | None) -> Tensor:
        """World points [N, 3] in a group's frame; `rows` are their rays, where poses differ from ray to ray."""
        rotation, translation = self._pose(group, rows)
        return _rotate_back(rotation, points - translation)

    def _directions_into(self, group: int, directions: Tensor, rows: Tensor | None) -> Tensor:
        return _rotate_back(self._pose(group, rows)[0], directions)

    def first_hit(self, o: Tensor, d: Tensor, near: Tensor, far: Tensor) -> tuple[Tensor, Tensor]:
        """Distance t [N] of the first solid along unit directions (inf: none), and its index (-1: none)."""
        best = torch.full((len(o),), torch.inf)
        which = torch.full((len(o),), -1, dtype=torch.int64)
        for group in range(len(self.groups)):
            local_o, local_d = self._points_into(group, o, None), self._directions_into(group, d, None)
            candidates = self.beads[group].hit_by(local_o, local_d)
            for (index, solid), rows in zip(self.members(group), candidates, strict=True):
                if not len(rows):
                    continue
                rotation = solid.rotation.float()
                start = (local_o[rows] - solid.centre.float()) @ rotation
                along = local_d[rows] @ rotation
                closest = -(start * along).sum(-1)
                t = solid.shape.intersect(start + closest[:, None] * along, along) + closest
                valid = (t >= near[rows]) & (t <= far[rows]) & (t < best[rows])
                chosen = rows[valid]
                best[chosen] = t[valid]
                which[chosen] = index
        return best, which

    def shade(self, points: Tensor, view: Tensor, hit: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """sRGB [N, 3] and normals [N, 3] at the points [N, 3] of the solids `hit` seen along unit directions `view`."""
        normals = torch.zeros_like(points)
        base, tint = torch.zeros_like(points), torch.zeros_like(points)
        gloss = torch.zeros(len(points))
        order = hit.argsort(stable=True)
        counts = torch.bincount(hit, minlength=len(self.solids)).tolist()
        for (group, solid), mine in zip(self.solids, order.split(counts), strict=True):
            if not len(mine):
                continue
            rotation = solid.rotation.float()
            local = (self._points_into(group, points[mine], rows[mine]) - solid.centre.float()) @ rotation
            normal = solid.shape.normal(local)
            normals[mine] = _rotate(self._pose(group, rows[mine])[0], normal @ rotation.T)
            base[mine], tint[mine] = _colours(solid.material, local, normal)
            gloss[mine] = solid.material.gloss
        sun = torch.nn.functional.normalize(torch.tensor(SUN), dim=0)
        lit = self._sunlight(points, normals, sun, hit, rows)
        open_sky = self._open_sky(points, normals, hit, rows)
        return _tone(_light(normals, view, sun, base, tint, gloss, lit, open_sky)), normals

    def _sunlight(self, points: Tensor, normals: Tensor, sun: Tensor, hit: Tensor, rows: Tensor) -> Tensor:
        """Share of the sun that each point sees, in [0, 1]."""
        facing = (normals @ sun > 0).nonzero()[:, 0]
        points, hit, rows = points[facing], hit[facing], rows[facing]
        clearance = torch.full((len(points),), SUN_WIDTH)
        for group in range(len(self.groups)):
            local = self._points_into(group, points, rows)
            towards = self._directions_into(group, sun.expand(len(points), 3), rows)
            candidates = self.beads[group].shading(local, towards)
            for (index, solid), picked in zip(self.members(group), candidates, strict=True):
                picked = picked[hit[picked] != index] if solid.casts_shadow else picked[:0]
                if not len(picked):
                    continue
                rotation = solid.rotation.float()
                start = (local[picked] - solid.centre.float()) @ rotation
                way = towards[picked] @ rotation
                some = _could_shade(start, way, solid.shape.radius)
                picked = picked[some]
                narrowest = solid.shape.clearance(start[some], way[some])
                clearance[picked] = torch.minimum(clearance[picked], narrowest)
        share = (0.5 + 0.5 * clearance / SUN_WIDTH).clamp(0, 1)
        lit = torch.zeros(len(normals))
        lit[facing] = share * share * (3 - 2 * share)
        return lit

    def _open_sky(self, points: Tensor, normals: Tensor, hit: Tensor, rows: Tensor) -> Tensor:
        """Ambient light that reaches each point, in [0, 1]: 1 where nothing else is near above the surface."""
        taps = torch.tensor(OCCLUSION_TAPS)
        room = taps.repeat(len(points), 1)
        for group in range(len(self.groups)):
            local = self._points_into(group, points, rows)
            upwards = self._directions_into(group, normals, rows)
            candidates = self.beads[group].close_to(local, 2 * OCCLUSION_TAPS[-1])
            for (index, solid), picked in zip(self.members(group), candidates, strict=True):
                if not len(picked) or solid.shape.radius_across < THINNEST_OCCLUDER:
                    continue
                rotation = solid.rotation.float()
                start = (local[picked] - solid.centre.float()) @ rotation
                near = solid.shape.distance(start) < 2 * OCCLUSION_TAPS[-1]
                near = (near & (hit[picked] != index)).nonzero()[:, 0]
                start, picked = start[near], picked[near]
                above = start[:, None] + taps[:, None] * (upwards[picked] @ rotation)[:, None]
                there = solid.shape.distance(above.reshape(-1, 3)).reshape(-1, len(taps))
                room[picked] = torch.minimum(room[picked], there.clamp_min(0))
        return 0.15 + 0.85 * (room / taps).mean(-1)


def _rotate(rotation: Tensor, vectors: Tensor) -> Tensor:
    """Rotations [1 or N, 3, 3] times vectors [N, 3]."""
    if len(rotation) == 1:
        return vectors @ rotation[0].T
    return torch.einsum("nij,nj->ni", rotation, vectors)


def _rotate_back(rotation: Tensor, vectors: Tensor) -> Tensor:
    if len(rotation) == 1:
        return vectors @ rotation[0]
    return torch.einsum("nij,ni->nj", rotation, vectors)


def _could_shade(offset: Tensor, sun: Tensor, radius: float) -> Tensor:
    """Indices of the points from which the sun's cone touches a ball of `radius` around the origin."""
    middle = -(offset * sun).sum(-1)
    wide = radius + SUN_WIDTH * (middle + radius).clamp_min(0)
    beside = (offset * offset).sum(-1) - middle * middle
    return ((beside < wide * wide) & (middle > -radius)).nonzero()[:, 0]


class _Beads:
    """Spheres that cover each solid of a group, to find quickly which rays and points could concern it.

    Rays and points come in blocks of BLOCK neighbours, each bounded by one cone or sphere. Every answer is a list
    with one tensor of indices for each solid; it may name too many, never too few.
    """

    def __init__(self, solids: list[Solid]) -> None:
        centres, radii, owners = [], [], []
        for index, solid in enumerate(solids):
            places, radius = solid.shape.beads()
            centres.append(places @ solid.rotation.float().T + solid.centre.float())
            radii += [radius] * len(places)
            owners += [index] * len(places)
        self.centres, self.radii = torch.cat(centres), torch.tensor(radii) * 1.001 + 1e-4
        self.owners, self.count = torch.tensor(owners), len(solids)

    def hit_by(self, o: Tensor, d: Tensor) -> list[Tensor]:
        """Indices of the rays (unit directions) that could meet each solid."""
        start, spread = _balls(o)
        axis, sine, cosine = _cones(d)
        return self._rows(self._in_cones(start, axis, sine, cosine, spread), len(o))

    def shading(self, points: Tensor, sun: Tensor) -> list[Tensor]:
        """Indices of the points which each solid could shade."""
        start, spread = _balls(points)
        axis, sine, cosine = _cones(sun)
        wider = torch.atan2(sine, cosine) + SUN_WIDTH
        return self._rows(self._in_cones(start, axis, wider.sin(), wider.cos(), spread), len(points))

    def close_to(self, points: Tensor, reach: float) -> list[Tensor]:
        """Indices of the points that could be nearer than `reach` to each solid."""
        start, spread = _balls(points)
        return self._rows(
            torch.cdist(start, self.centres) <= self.radii + spread[:, None] + reach, len(points)
        )

    def _in_cones(self, start: Tensor, axis: Tensor, sine: Tensor, cosine: Tensor, spread: Tensor) -> Tensor:
        """[blocks, beads]: whether a bead is nearer to the cone of a block than its radius."""
        offset = self.centres - start[:, None]
        along = (offset * axis[:, None]).sum(-1)
        beside = ((offset * offset).sum(-1) - along * along).clamp_min(0).sqrt()
        outside = beside * cosine[:, None] - along * sine[:, None]
        return (outside <= self.radii + spread[:, None] + 1e-3) | (cosine[:, None] < 0.1)

    def _rows(self, passing: Tensor, count: int) -> list[Tensor]:
        by_solid = torch.zeros(self.count, len(passing), dtype=torch.int32)
        by_solid.index_add_(0, self.owners, passing.T.int())
        inside = torch.arange(BLOCK)
        found = []
        for row in by_solid:
            blocks = row.nonzero()
            rows = (blocks * BLOCK + inside).reshape(-1)
            found.append(
                rows[rows < count] if len(blocks) and int(blocks[-1]) * BLOCK + BLOCK > count else rows
            )
        return found


def _blocks(values: Tensor) -> Tensor:
    """[N, 3] as [ceil(N / BLOCK), BLOCK, 3], the last value repeated to fill."""
    missing = -len(values) % BLOCK
    if missing:
        values = torch.cat([values, values[-1:].expand(missing, 3)])
    return values.reshape(-1, BLOCK, 3)


def _balls(points: Tensor) -> tuple[Tensor, Tensor]:
    """Centre [B, 3] and radius [B] of a ball around the points of each block."""
    blocks = _blocks(points)
    centre = blocks.mean(1)
    return centre, (blocks - centre[:, None]).norm(dim=-1).amax(1)


def _cones(directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Axis [B, 3], sine and cosine [B] of the half angle of a cone around the unit directions of each block."""
    blocks = _blocks(directions)
    axis = torch.nn.functional.normalize(blocks.mean(1), dim=-1)
    # The chord is at least the sine, and unlike 1 - cosine² it has digits left at small angles.
    chord = (blocks - axis[:, None]).norm(dim=-1).amax(1)
    return axis, chord, 1 - 0.5 * chord * chord


def _colours(material: Material, points: Tensor, normals: Tensor) -> tuple[Tensor, Tensor]:
    """(diffuse colour, reflectance at normal incidence) [N, 3] each."""
    colour = torch.tensor(material.colour).expand(len(points), 3)
    if material.texture is not None:
        colour = material.texture(points, normals)
    if material.metal:
        return torch.zeros_like(colour), colour
    return colour, torch.full_like(colour, material.reflectance)


def _sky(directions: Tensor) -> Tensor:
    """Light [N, 3] that comes from unit directions: a bright horizon between a blue dome and the brown floor."""
    up = directions[:, 2:]
    rise = torch.sigmoid(10 * up)
    dome = torch.tensor(SKY_COLOUR) * (1.15 - 0.45 * up.clamp_min(0))
    return rise * dome + (1 - rise) * torch.tensor(GROUND_COLOUR)


def _light(
    normals: Tensor,
    view: Tensor,
    sun: Tensor,
    base: Tensor,
    tint: Tensor,
    gloss: Tensor,
    lit: Tensor,
    open_sky: Tensor,
) -> Tensor:
    """Linear light [N, 3] that leaves points towards the camera: Lambert, Blinn-Phong (normalised), Schlick's Fresnel
    term, and the sky mirrored in the surface."""
    up = 0.5 + 0.5 * normals[:, 2:]
    ambient = up * torch.tensor(SKY_COLOUR) + (1 - up) * torch.tensor(GROUND_COLOUR)
    cosine = (normals @ sun).clamp_min(0)
    direct = (cosine * lit)[:, None] * torch.tensor(SUN_COLOUR)
    diffuse = base * (0.62 * direct + 0.75 * ambient * open_sky[:, None])

    facing = -(normals * view).sum(-1).clamp(-1, 0)
    grazing = (1 - facing) ** 5
    fresnel = tint + (1 - tint) * (grazing * (1 - torch.exp(-gloss / 40)))[:, None]
    halfway = torch.nn.functional.normalize(sun - view, dim=-1)
    lobe = (normals * halfway).sum(-1).clamp_min(0) ** gloss * (gloss + 8) / 25
    mirrored = view + 2 * facing[:, None] * normals
    reflected = _sky(mirrored) * open_sky[:, None] + (lobe * lit)[:, None] * torch.tensor(SUN_COLOUR)
    return diffuse + fresnel * reflected


def _tone(light: Tensor) -> Tensor:
    """Linear light to sRGB in [0, 1]: the filmic curve fitted by Narkowicz, then the sRGB transfer function."""
    light = 0.66 * light
    mapped = (light * (2.51 * light + 0.03) / (light * (2.43 * light + 0.59) + 0.14)).clamp(0, 1)
    return torch.where(
        mapped <= 0.0031308, 12.92 * mapped, 1.055 * mapped.clamp_min(1e-8) ** (1 / 2.4) - 0.055
    )
