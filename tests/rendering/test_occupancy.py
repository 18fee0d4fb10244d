"""The occupancy grid: what cameras cannot see stays closed, the rest finds the density that is there."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lumigraph.geometry.bounds import Bounds
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.rotations import look_at
from lumigraph.rendering.occupancy import LEAST, NEVER, OccupancyGrid
from lumigraph.rendering.volume.samples import CoreRays, StepRule, occupied_samples

BOX = Bounds(torch.tensor([-1.0, -1, -1]), torch.tensor([1.0, 1, 1]))


def camera(eye: list[float], focal: float) -> Cameras:
    pose = look_at(torch.tensor(eye), torch.zeros(3), torch.tensor([0.0, 0, 1])).float()
    one = torch.ones(1)
    return Cameras(
        camera_to_world=pose[None],
        focal=torch.full((1, 2), focal),
        principal=torch.full((1, 2), 16.0),
        size=torch.full((1, 2), 32),
        near=0.1 * one,
        far=20 * one,
        distortion=torch.zeros(1, 6),
        ids=torch.zeros(1, dtype=torch.long),
    )


def centres(cells: int, half: float = 1.0) -> Tensor:
    """[z, y, x, 3]"""
    axis = ((torch.arange(cells) + 0.5) / cells * 2 - 1) * half
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    return torch.stack([x, y, z], -1)


def ball(points: Tensor) -> Tensor:
    return 50.0 * (points.norm(dim=-1) < 0.5)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_everything_is_occupied_at_first() -> None:
    assert OccupancyGrid(8, 2, 1.0, 0.95).occupied.all()


@pytest.mark.parametrize("cascades", [1, 2])
def test_unseen_cells_are_closed_and_stay_closed(cascades: int) -> None:
    grid = OccupancyGrid(32, cascades, 1.0, 0.95)
    seen_from = camera([0.0, -3, 0], 100.0)
    grid.mark_unseen(seen_from, BOX)
    closed = grid.occupied == 0
    for cascade in range(cascades):
        points = centres(32, 2.0**cascade)
        xy, depth = seen_from.project(points.reshape(-1, 3), torch.zeros(32**3, dtype=torch.long))
        in_picture = ((xy >= 0) & (xy <= 32)).all(-1) & (depth > 0)
        # Nothing that the camera sees is closed, and what is far out of view is.
        assert not closed[cascade].reshape(-1)[in_picture].any()
    assert 0.1 < closed.float().mean() < 0.9
    for _ in range(3):
        grid.update(lambda points: torch.full_like(points[:, 0], 9.0), 1.0, generator())
    assert torch.equal(grid.occupied == 0, closed)
    grid.reset()
    assert torch.equal(grid.occupied == 0, closed)


@pytest.mark.parametrize("lens", ["fisheye", "pincushion"])
def test_a_lens_that_sees_wide_closes_nothing_that_it_sees(lens: str) -> None:
    """Its widest rays are far beyond what size and focal length alone would tell."""
    changed = {"focal": torch.full((1, 2), 12.8), "fisheye": True}
    if lens == "pincushion":
        changed = {"distortion": torch.tensor([[-0.12, 0.0, 0.0, 0.0, 0.0, 0.0]])}
    seen_from = replace(camera([0.0, -0.7, 0.0], 20.0), **changed)
    slope = seen_from.view_rays(0).directions @ seen_from.camera_to_world[0, :, :3]
    assert float((slope[..., 0] / slope[..., 2]).abs().max()) > (2.5 if lens == "fisheye" else 1.0)
    grid = OccupancyGrid(32, 2, 1.0, 0.95)
    grid.mark_unseen(seen_from, BOX)
    closed = grid.occupied == 0
    rays = seen_from.view_rays(0).flatten()
    for cascade in range(2):
        half = 2.0**cascade
        points = rays.points(torch.linspace(0.02, 2, 100).expand(len(rays), -1)).reshape(-1, 3)
        x, y, z = ((points[points.abs().amax(1) < half] / half + 1) * 16).long().unbind(1)
        assert not closed[cascade, z, y, x].any()
        # What lies well behind the camera is closed.
        behind = centres(32, half)[..., 1] < -0.7 - 0.25 * half
        assert closed[cascade][behind].all()


def test_converges_to_a_known_density() -> None:
    grid = OccupancyGrid(16, 1, 1.0, 0.5)
    for step in range(12):
        grid.update(ball, 1.0, generator(step))
    reach = centres(16).norm(dim=-1)
    half_diagonal = 3**0.5 / 16
    assert grid.occupied[0][reach < 0.5 - half_diagonal].all()
    assert not grid.occupied[0][reach > 0.5 + half_diagonal].any()


def test_share_of_cells_empties_the_rest_by_fading() -> None:
    """With a small share most empty cells are closed by fading alone, and no full one is."""
    grid = OccupancyGrid(16, 1, 1.0, 0.8)
    grid.update(lambda points: torch.full_like(points[:, 0], 9.0), 1.0, generator())
    assert grid.occupied.all()
    for step in range(60):
        grid.update(ball, 0.25, generator(step))
    reach = centres(16).norm(dim=-1)
    assert grid.occupied[0][reach < 0.4].float().mean() > 0.99
    assert not grid.occupied[0][reach > 0.6].any()


def test_asks_within_the_chosen_cells() -> None:
    """Every point asked for lies in its own cell, x fastest."""
    grid = OccupancyGrid(8, 3, 1.0, 0.95)
    asked = []

    def density(points: Tensor) -> Tensor:
        asked.append(points)
        return torch.zeros(len(points))

    grid.update(density, 1.0, generator())
    for cascade, points in enumerate(asked):
        distance = (points - centres(8, 2.0**cascade).reshape(-1, 3)).abs()
        assert float(distance.max()) <= 2.0**cascade / 8 + 1e-6


def test_nothing_there_leaves_nothing_occupied() -> None:
    grid = OccupancyGrid(8, 1, 1.0, 0.95)
    grid.update(lambda points: torch.zeros(len(points)), 1.0, generator())
    assert not grid.occupied.any()
    # An empty grid can still be asked, and finds what comes back.
    grid.update(lambda points: torch.full((len(points),), 2.0), 0.5, generator())
    assert grid.occupied.any()


def test_threshold_follows_the_mean_between_its_limits() -> None:
    grid = OccupancyGrid(8, 1, 1.0, 0.95)
    for value, occupied in ((LEAST * 0.9, False), (LEAST * 1.1, False), (1.1, True)):
        grid.density.zero_()
        grid.update(lambda points, v=value: torch.full((len(points),), v), 1.0, generator())
        assert bool(grid.occupied.any()) == occupied
    grid.density.zero_()
    grid.update(lambda points: torch.where(points[:, 0] > 0, 0.6, 0.1), 1.0, generator())
    assert torch.equal(grid.occupied[0].bool(), centres(8)[..., 0] > 0)


def test_looks_again_only_where_something_is_or_next_to_it() -> None:
    grid = OccupancyGrid(8, 1, 1.0, 0.95)
    grid.occupied.zero_()
    grid.occupied[0, 4, 4, 4] = 1
    asked = []

    def density(points: Tensor) -> Tensor:
        asked.append(points)
        return torch.full((len(points),), float(len(asked)))

    grid.update(density, 1.0, generator(), looks=3)
    assert [len(points) for points in asked] == [8**3, 27, 27]
    middle = centres(8)[4, 4, 4]
    assert float((asked[1] - middle).abs().max()) <= 1.5 * 2 / 8
    assert not torch.equal(asked[1], asked[2])
    near = torch.zeros(8, 8, 8, dtype=torch.bool)
    near[3:6, 3:6, 3:6] = True
    assert torch.equal(grid.density[0] == 3, near)
    assert torch.equal(grid.density[0] == 1, ~near)
    # Where nothing is, nobody looks again.
    grid.occupied.zero_()
    asked.clear()
    grid.update(density, 0.5, generator(), looks=3)
    assert len(asked) == 1


def test_what_is_seldom_there_is_kept_by_several_looks() -> None:
    """A ball that is there in one look of ten, at a decay that forgets within ten updates."""
    kept = {}
    for looks in (1, 6):
        grid = OccupancyGrid(16, 1, 1.0, 0.6)
        grid.update(ball, 1.0, generator())
        chance = generator(1)

        def sometimes(points: Tensor, chance: torch.Generator = chance) -> Tensor:
            return ball(points) * (torch.rand(len(points), generator=chance) < 0.1)

        for step in range(40):
            grid.update(sometimes, 0.25, generator(step), looks)
        inside = centres(16).norm(dim=-1) < 0.4
        kept[looks] = float(grid.occupied[0][inside].float().mean())
        assert not grid.occupied[0][centres(16).norm(dim=-1) > 0.6].any()
    assert kept[1] < 0.7
    assert kept[6] > 0.9


@pytest.mark.parametrize("unbounded", [False, True])
def test_what_rays_find_raises_the_cells_that_they_ask_in(unbounded: bool) -> None:
    """Every sample's cell is the one that marching found it in, whatever its cascade."""
    cascades = 3 if unbounded else 1
    grid = OccupancyGrid(8, cascades, 1.0, 0.9)
    chance = torch.rand(grid.occupied.shape, generator=generator())
    grid.occupied.copy_(chance < 0.3)
    grid.density.copy_(torch.where(grid.occupied > 0, 0.0, NEVER))
    origins = torch.randn(200, 3, generator=generator(1))
    directions = torch.nn.functional.normalize(torch.randn(200, 3, generator=generator(2)), dim=1)
    zero = torch.zeros(200)
    rays = CoreRays(origins, directions, zero, zero + 9, zero + 1)
    rule = StepRule(0.05 if unbounded else 0.0, 0.02, 1.0 if unbounded else 0.02, 400)
    samples, index = occupied_samples(rays, grid.occupied, rule, unbounded, zero)
    points = origins[index] + samples.t[:, None] * directions[index]
    grid.raise_to(points, samples.dt, torch.full_like(samples.t, 2.0))
    # A sample on the border between two cells may count to a closed one, which stays as it is.
    assert torch.equal(grid.density == NEVER, grid.occupied == 0)
    raised = grid.density == 2
    assert 0.6 < float(raised.sum() / grid.occupied.sum()) <= 1
    # What was more stays; the next update lets it fade, and finds it occupied.
    grid.raise_to(points, samples.dt, torch.ones_like(samples.t))
    assert torch.equal(grid.density == 2, raised)
    grid.update(lambda points: torch.zeros(len(points)), 1.0, generator())
    assert torch.equal(grid.occupied > 0, raised)


def test_a_function_of_the_generator() -> None:
    """Cells drawn twice do not depend on the number of threads."""
    grids = []
    threads = torch.get_num_threads()
    try:
        for count in (1, max(2, threads), 1):
            torch.set_num_threads(count)
            grid = OccupancyGrid(32, 1, 1.0, 0.95)
            for step in range(3):
                grid.update(lambda points: (points * 12.7).sin().sum(1).abs(), 2.0**-step, generator(step))
            grids.append(grid)
    finally:
        torch.set_num_threads(threads)
    for other in grids[1:]:
        assert torch.equal(grids[0].density, other.density)
        assert torch.equal(grids[0].occupied, other.occupied)
