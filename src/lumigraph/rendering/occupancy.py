"""Which cells of space may hold something, so that rays skip the rest (Instant-NGP, appendix E.2)."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from lumigraph.geometry.bounds import Bounds
from lumigraph.geometry.cameras import Cameras
from lumigraph.rendering.randomness import step_generator

DIAGONAL = 2 * math.sqrt(3)
"""Of the core box, in core coordinates."""
OPAQUE_STEP = 0.01
"""A cell is occupied if it hides this part of the light over the shortest step (Instant-NGP, appendix E.2)."""
NEVER = -1.0
"""Density of a cell that no camera sees: it is never occupied."""
LEAST = 0.25
"""The threshold falls with the mean density, but not below this share of what hides anything."""
BLOCKS = 32
"""Visibility is decided for blocks of cells, this many along an axis."""
MARGIN = 0.1
"""Slope by which a camera is taken to see farther than it does: poses are not exact, and may be refined."""
BORDER_RAYS = 65
"""Rays along each side of a picture that tell how far a camera sees."""

_INTERVAL, _SHARE, _FADING = 16, 0.0625, 0.8
"""Of `Surroundings`: steps between updates, the share of cells they look at, and how what was found there fades."""
_STREAM = 0x9E3779B97F4A7C15
"""Odd 64-bit constant that keeps apart what different seeds draw."""

Density = Callable[[Float[Tensor, "n 3"]], Float[Tensor, " n"]]
"""Density at points in core coordinates, per unit of core length."""


class OccupancyGrid(nn.Module):
    """Cascades of cells^3: cascade c covers [-2^c, 2^c]^3 in core coordinates.

    Everything is occupied until the first update.
    """

    density: Float[Tensor, "cascades n n n"]
    occupied: Tensor

    def __init__(self, cells: int, cascades: int, threshold: float, decay: float) -> None:
        """`threshold`: the density above which a cell is always kept; below it, those above the mean are."""
        super().__init__()
        self.cells, self.cascades, self.threshold, self.decay = cells, cascades, threshold, decay
        self.register_buffer("density", torch.zeros(cascades, cells, cells, cells))
        self.register_buffer("occupied", torch.ones(cascades, cells, cells, cells, dtype=torch.uint8))

    def mark_unseen(self, cameras: Cameras, bounds: Bounds) -> None:
        """Closes the cells that no camera has in view."""
        blocks = min(BLOCKS, self.cells)
        for cascade in range(self.cascades):
            half = 2.0**cascade
            axis = ((torch.arange(blocks) + 0.5) / blocks * 2 - 1) * half
            z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
            centres = torch.stack([x, y, z], -1).reshape(-1, 3)
            radius = half / blocks * 3**0.5
            seen = _seen(
                centres * bounds.half_extent.max() + bounds.centre, radius * bounds.half_extent.max(), cameras
            )
            seen = seen.reshape(1, 1, blocks, blocks, blocks).float()
            fine = nn.functional.interpolate(seen, size=(self.cells,) * 3, mode="nearest")[0, 0] > 0
            self.density[cascade][~fine] = NEVER
            self.occupied[cascade] = fine.to(torch.uint8)

    def reset(self) -> None:
        """Everything that some camera sees is occupied again."""
        self.density.clamp_(max=0)
        self.occupied.copy_(self.density >= 0)

    def follow(
        self,
        density: Density,
        step: int,
        seed: int,
        *,
        interval: int,
        warmup: int,
        share: float,
        looks: int = 1,
    ) -> bool:
        """Keeps up with a field in training: updates at every so many-th step, of all cells up to step `warmup` and of
        `share` of them later, then with `looks`. Whether there was one at this step."""
        if step == 0 or step % interval:
            return False
        generator = step_generator(_STREAM, seed, step, self.density.device)
        if step <= warmup:
            self.update(density, 1.0, generator)
        else:
            self.update(density, share, generator, looks)
        return True

    @torch.no_grad()
    def raise_to(
        self, points: Float[Tensor, "n 3"], lengths: Float[Tensor, " n"], density: Float[Tensor, " n"]
    ) -> None:
        """Raises the cells in which rays have asked to the densities that they found there: points in core coordinates,
        each for a step of that length. This counts from the next update on."""
        n, last = self.cells, self.cascades - 1
        # In which cascade rays ask, see `reference.march`.
        reach = torch.maximum(points.abs().amax(1), lengths * (0.5 * n)).clamp(min=1.0)
        cascade = torch.ceil(torch.log2(reach)).long().clamp(0, last)
        inside = (points / torch.pow(2.0, cascade)[:, None] + 1) * (0.5 * n)
        x, y, z = inside.long().clamp_(0, n - 1).unbind(1)
        cells, flat = ((cascade * n + z) * n + y) * n + x, self.density.view(-1)
        # On its border a point may count to a cell that no camera sees.
        flat.scatter_reduce_(0, cells, torch.where(flat[cells] >= 0, density, NEVER), "amax")

    @torch.no_grad()
    def update(self, density: Density, share: float, generator: torch.Generator, looks: int = 1) -> None:
        """Re-estimates cells: that share of all, drawn at random, and as many of the occupied ones (all at share 1).

        Densities fade by `decay` and are raised to what is found at a random point of the cell; a cell is occupied when
        it exceeds the mean of the positive ones, or `threshold`. Of a field that moves, `density` answers for some
        moment; with more than one of `looks`, cells that are occupied or touch one that is are asked so many times, so
        that what is there seldom is not forgotten between two finds.
        """
        for cascade in range(self.cascades):
            flat = self.density[cascade].view(-1)
            cells = self._choose(cascade, share, generator)
            cells = cells[flat[cells] >= 0]
            found = density(self._random_points(cells, cascade, generator))
            if looks > 1:
                self._look_again(density, cells, found, cascade, generator, looks - 1)
            flat.copy_(torch.where(flat >= 0, flat * self.decay, flat))
            # Not by assignment: cells drawn twice would end with whichever thread was last.
            flat.scatter_reduce_(0, cells, found, "amax")
        positive = self.density[self.density > 0]
        mean = float(positive.mean()) if len(positive) else 0.0
        limit = min(max(mean, LEAST * self.threshold), self.threshold)
        self.occupied.copy_(self.density > limit)

    def _look_again(
        self,
        density: Density,
        cells: Int[Tensor, " n"],
        found: Float[Tensor, " n"],
        cascade: int,
        generator: torch.Generator,
        looks: int,
    ) -> None:
        """Raises what was `found` to what more looks find, where something is, or next to it."""
        again = torch.nonzero(_widened(self.occupied[cascade : cascade + 1])[cells])[:, 0]
        for _ in range(looks if len(again) else 0):
            more = density(self._random_points(cells[again], cascade, generator))
            found[again] = torch.maximum(found[again], more)

    def _choose(self, cascade: int, share: float, generator: torch.Generator) -> Int[Tensor, " n"]:
        device, total = self.density.device, self.cells**3
        if share >= 1:
            return torch.arange(total, device=device)
        count = max(1, int(share * total))
        anywhere = torch.randint(total, (count,), generator=generator, device=device)
        occupied = torch.nonzero(self.occupied[cascade].view(-1))[:, 0]
        if not len(occupied):
            return anywhere
        chosen = torch.randint(
            len(occupied), (min(count, len(occupied)),), generator=generator, device=device
        )
        return torch.cat([anywhere, occupied[chosen]])

    def _random_points(self, cells: Tensor, cascade: int, generator: torch.Generator) -> Float[Tensor, "n 3"]:
        n = self.cells
        corner = torch.stack([cells % n, cells // n % n, cells // (n * n)], -1)
        jitter = torch.rand(corner.shape, generator=generator, device=cells.device)
        return ((corner + jitter) / n * 2 - 1) * 2.0**cascade


class Surroundings(nn.Module):
    """An occupancy grid of one cascade for methods that ask about intervals, not points: what lies within a cell of an
    occupied one counts as occupied."""

    near: Tensor

    def __init__(self, cells: int, steps: int) -> None:
        """`steps`: along the diagonal, over one of which an occupied cell hides something."""
        super().__init__()
        self.grid = OccupancyGrid(cells, 1, OPAQUE_STEP * steps / DIAGONAL, _FADING)
        self.register_buffer("near", torch.ones(cells**3, dtype=torch.bool))

    def mark_unseen(self, cameras: Cameras, bounds: Bounds) -> None:
        """See `OccupancyGrid`."""
        self.grid.mark_unseen(cameras, bounds)
        self._widen()

    def reset(self) -> None:
        """Everything that some camera sees is occupied again."""
        self.grid.reset()
        self._widen()

    def follow(self, density: Density, step: int, seed: int) -> None:
        """Keeps up with a field in training."""
        if self.grid.follow(density, step, seed, interval=_INTERVAL, warmup=_INTERVAL, share=_SHARE):
            self._widen()

    def _widen(self) -> None:
        self.near.copy_(_widened(self.grid.occupied))

    def hold(self, points: Float[Tensor, "n 3"]) -> Bool[Tensor, " n"]:
        """Whether there may be something about points in core coordinates."""
        n = self.grid.cells
        x, y, z = ((points + 1) * (0.5 * n)).long().clamp_(0, n - 1).unbind(1)
        return self.near[(z * n + y) * n + x]


def _widened(occupied: UInt8[Tensor, "1 n n n"]) -> Bool[Tensor, " cells"]:
    """Which cells of a cascade are occupied or touch one that is, numbered as they lie in memory."""
    return nn.functional.max_pool3d(occupied[:, None].float(), 3, 1, 1).flatten() > 0


def _seen(points: Float[Tensor, "n 3"], radius: Tensor, cameras: Cameras) -> Bool[Tensor, " n"]:
    """Whether a ball about each point is, at least partly, in the picture of some camera and in front of it."""
    seen = torch.zeros(len(points), dtype=torch.bool)
    for camera in range(len(cameras)):
        pose = cameras.camera_to_world[camera]
        local = (points - pose[:, 3]) @ pose[:, :3]
        slope = _widest_slopes(cameras, camera) + MARGIN
        # A picture's side is a plane through the camera: how far the centre lies beyond it.
        beyond = (local[:, :2].abs() - slope * local[:, 2:]) / torch.sqrt(1 + slope**2)
        seen |= (local[:, 2] > -radius) & (beyond <= radius).all(1)
    return seen


def _widest_slopes(cameras: Cameras, camera: int) -> Float[Tensor, "2"]:
    """The largest |x| / z and |y| / z of the rays of a camera, found along the border of its picture: there every lens
    that can be inverted sees farthest."""
    right, bottom = (cameras.size[camera] - 1).tolist()
    share = torch.linspace(0, 1, BORDER_RAYS)
    zero, one = torch.zeros(BORDER_RAYS), torch.ones(BORDER_RAYS)
    x = torch.cat([share, share, zero, one]) * right
    y = torch.cat([zero, one, share, share]) * bottom
    rays = cameras.rays(torch.full((len(x),), camera), x.round().long(), y.round().long())
    local = rays.directions @ cameras.camera_to_world[camera, :, :3]
    return (local[:, :2] / local[:, 2:]).abs().amax(0)
