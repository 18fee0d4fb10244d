"""Which samples rays see: the kernel against marching, asking and thinning one after the other."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from lumigraph.fields.activations import box_density
from lumigraph.fields.hashgrid import GridLayout, HashGrid
from lumigraph.rendering.volume.samples import (
    CoreRays,
    StepRule,
    _trace_reference,
    occupied_samples,
    seen_samples,
    visible_samples,
)

CELLS = 12


def rays(count: int) -> CoreRays:
    """Rays from around the box towards it, some along the axes, some that miss."""
    generator = torch.Generator().manual_seed(3)
    origins = torch.randn(count, 3, generator=generator) * 2
    directions = torch.randn(count, 3, generator=generator) * 0.6 - origins
    origins[0], directions[0] = torch.tensor([-3.0, 0.1, 0.2]), torch.tensor([1.0, 0, 0])
    origins[1], directions[1] = torch.tensor([0.05, 0.1, 0.2]), torch.tensor([0, 0, -1.0])
    origins[2], directions[2] = torch.tensor([-3.0, 9, 0.2]), torch.tensor([1.0, 0, 0])
    directions = directions / directions.norm(dim=1, keepdim=True)
    near, far = torch.full((count,), 0.05), torch.full((count,), 30.0)
    return CoreRays(origins, directions, near, far, torch.ones(count))


def field(seed: int, cones: bool = False) -> tuple[HashGrid, nn.Sequential]:
    torch.manual_seed(seed)
    grid = HashGrid(GridLayout(3, 2, 12, 4, 32))
    nn.init.normal_(grid.table)
    width = grid.layout.faded_width if cones else grid.layout.width
    network = nn.Sequential(nn.Linear(width, 16, bias=False), nn.ReLU(), nn.Linear(16, 5, bias=False))
    return grid, network


@pytest.mark.parametrize("unbounded", [False, True])
@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("cones", [False, True])
@torch.no_grad()
def test_kernel_equals_the_twin(unbounded: bool, everything: bool, cones: bool) -> None:
    grid, network = field(0, cones)
    cascades = 3 if unbounded else 1
    occupied = (
        torch.rand(cascades, CELLS, CELLS, CELLS, generator=torch.Generator().manual_seed(4)) < 0.3
    ).byte()
    rule = StepRule(
        growth=1 / 32 if unbounded else 0.0, shortest=0.03, longest=0.5 if unbounded else 0.03, most=500
    )
    some = rays(200)
    if cones:
        some = replace(some, spread=torch.logspace(-3, 0, 200))
    jitter = torch.rand(200, generator=torch.Generator().manual_seed(5))
    limits = (0.0, 0.0) if everything else (1e-2, 1e-2)
    ours, index = visible_samples(some, occupied, rule, unbounded, jitter, grid, network, *limits)
    twin, twin_index = _trace_reference(some, occupied, rule, unbounded, jitter, grid, network, *limits)
    # A sample on the edge of a cell, or of a limit, may fall to either side of it.
    same = (ours.offsets[1:] - ours.offsets[:-1]) == (twin.offsets[1:] - twin.offsets[:-1])
    assert same.float().mean() > 0.97
    assert len(ours.t) > 500
    keep, keep_twin = same[index], same[twin_index]
    torch.testing.assert_close(ours.t[keep], twin.t[keep_twin], rtol=0, atol=1e-4)
    torch.testing.assert_close(ours.points[keep], twin.points[keep_twin], rtol=0, atol=1e-4)
    assert ((ours.points >= 0) & (ours.points <= 1)).all()


@torch.no_grad()
def test_rays_that_miss_and_capacity() -> None:
    grid, network = field(1)
    occupied = torch.ones(1, CELLS, CELLS, CELLS, dtype=torch.uint8)
    some = rays(3)
    rule = StepRule(growth=0.0, shortest=0.01, longest=0.01, most=7)
    samples, _ = visible_samples(some, occupied, rule, False, torch.zeros(3), grid, network, 0.0, 0.0)
    assert (samples.offsets[1:] - samples.offsets[:-1]).tolist() == [7, 7, 0]
    torch.testing.assert_close(samples.t[0], torch.tensor(2.0), rtol=0, atol=1e-5)


def alone(
    occupied: torch.Tensor, rule: StepRule, unbounded: bool, **changed: list[float] | float
) -> torch.Tensor:
    """Distances of all samples of one ray in occupied cells; from (-3, 0.1, 0.2) along x unless changed."""
    values = {"origin": [-3.0, 0.1, 0.2], "direction": [1.0, 0, 0], "near": 0.0, "far": 20.0, **changed}
    ray = CoreRays(
        *(torch.tensor([values[name]]) for name in ("origin", "direction", "near", "far")), torch.ones(1)
    )
    grid, network = field(2)
    with torch.no_grad():
        found, _ = visible_samples(ray, occupied, rule, unbounded, torch.zeros(1), grid, network, 0.0, 0.0)
        twin, _ = _trace_reference(ray, occupied, rule, unbounded, torch.zeros(1), grid, network, 0.0, 0.0)
    torch.testing.assert_close(found.t, twin.t, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.dt, twin.dt, rtol=1e-5, atol=1e-5)
    return found.t


FULL = torch.ones(1, 8, 8, 8, dtype=torch.uint8)
EVEN = StepRule(growth=0.0, shortest=1 / 16, longest=1 / 16, most=100)


def test_samples_fill_the_box_and_no_more() -> None:
    t = alone(FULL, EVEN, False)
    torch.testing.assert_close(t, 2 + torch.arange(32) / 16)
    inside = alone(FULL, EVEN, False, origin=[0.0, 0.1, 0.2])
    torch.testing.assert_close(inside, torch.arange(16) / 16)
    torch.testing.assert_close(alone(FULL, EVEN, False, near=2.5, far=3.0), 2.5 + torch.arange(8) / 16)
    assert not len(alone(FULL, EVEN, False, direction=[-1.0, 0, 0]))
    assert not len(alone(FULL, EVEN, False, near=3.0, far=2.5))


@pytest.mark.parametrize(
    "direction", [[1.0, 0.0, 0.0], [1.0, -0.0, -0.0], [1.0, 1e-20, -1e-20], [1.0, 0.0, 1e-11]]
)
def test_axis_parallel_rays_skip_what_is_empty(direction: list[float]) -> None:
    occupied = torch.zeros_like(FULL)
    occupied[0, 4, 4, 6] = 1
    torch.testing.assert_close(alone(occupied, EVEN, False, direction=direction), 3.5 + torch.arange(4) / 16)


def test_samples_stay_where_they_are_when_other_cells_empty() -> None:
    generator = torch.Generator().manual_seed(6)
    occupied = (torch.rand(FULL.shape, generator=generator) < 0.3).byte()
    direction = torch.nn.functional.normalize(torch.tensor([1.0, 0.13, -0.21]), dim=0).tolist()
    whole = alone(FULL, EVEN, False, direction=direction)
    part = alone(occupied, EVEN, False, direction=direction)
    assert 0 < len(part) < len(whole)
    assert float((whole[:, None] - part).abs().amin(0).max()) < 1e-5


def test_steps_grow_with_distance_in_unbounded_scenes() -> None:
    """dt = clamp(t / 8, shortest, longest), out to the outermost cascade, whose half side is 4."""
    rule = StepRule(growth=1 / 8, shortest=0.05, longest=0.4, most=100)
    t = alone(FULL.expand(3, 8, 8, 8), rule, True, origin=[0.0, 0.1, 0.2], near=0.1)
    torch.testing.assert_close(t.diff(), (t[:-1] / 8).clamp(0.05, 0.4), rtol=1e-4, atol=1e-5)
    assert 3.6 <= t[-1] < 4


def test_the_cascade_is_chosen_by_place() -> None:
    """Only the middle cascade is occupied: samples lie between half sides 1 and 2."""
    occupied = torch.zeros(3, 8, 8, 8, dtype=torch.uint8)
    occupied[1] = 1
    rule = StepRule(growth=0.0, shortest=1 / 16, longest=1 / 16, most=200)
    t = alone(occupied, rule, True, origin=[0.0, 0.1, 0.2])
    torch.testing.assert_close(t, 1 + 1 / 16 + torch.arange(16) / 16)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "changed",
    [
        {"origin": [NAN, 0.0, 0.0]},
        {"direction": [NAN, 0.0, 0.0]},
        {"direction": [0.0, NAN, 0.0]},
        {"direction": [INF, 0.0, 0.0]},
        {"origin": [INF, 0.0, 0.0]},
        {"near": NAN},
        {"far": NAN},
        {"near": INF, "far": INF},
        {"origin": [-1e7, 0.1, 0.2], "far": 2e7},
        {"origin": [-1e30, 0.1, 0.2], "far": INF},
    ],
)
@pytest.mark.parametrize("occupied", [FULL, torch.zeros_like(FULL)])
@pytest.mark.timeout(60)
def test_nothing_is_found_where_there_is_no_ray(occupied: torch.Tensor, changed: dict) -> None:
    """Not finite, or so far away that float32 cannot tell one step from the next: no sample, and no endless march."""
    assert not len(alone(occupied, EVEN, False, **changed))


def test_a_ray_without_direction_ends() -> None:
    t = alone(FULL, EVEN, False, origin=[0.0, 0, 0], direction=[0.0, 0, 0], far=3.0)
    assert len(t) <= EVEN.most


@torch.no_grad()
def test_no_rays() -> None:
    nothing = CoreRays(torch.zeros(0, 3), torch.zeros(0, 3), *(torch.zeros(0) for _ in range(3)))
    samples, index = visible_samples(nothing, FULL, EVEN, False, torch.zeros(0), *field(3))
    assert samples.offsets.tolist() == [0]
    assert not len(samples.t) and not len(index)


@torch.no_grad()
def test_thinning_keeps_what_can_be_seen() -> None:
    """A constant field: samples go on until less than the given light is left, and none that hide too little stay."""
    grid, network = field(4)
    nn.init.ones_(grid.table)
    for layer in (network[0], network[2]):
        nn.init.constant_(layer.weight, 0.1)
    density = box_density(network(grid(torch.rand(1, 3)))[0, 0])
    alpha = 1 - float(torch.exp(-density / 16))
    ray = CoreRays(
        torch.tensor([[-3.0, 0.1, 0.2]]),
        torch.tensor([[1.0, 0, 0]]),
        torch.zeros(1),
        torch.full((1,), 9.0),
        torch.ones(1),
    )
    for limit, count in (((1 - alpha) ** 9.5, 10), ((1 - alpha) ** 20.5, 21), (0.0, 32)):
        for trace in (visible_samples, _trace_reference):
            samples, index = trace(ray, FULL, EVEN, False, torch.zeros(1), grid, network, limit, 0.9 * alpha)
            assert len(samples.t) == count
            assert torch.equal(index, torch.zeros(count, dtype=torch.long))
    for trace in (visible_samples, _trace_reference):
        samples, _ = trace(ray, FULL, EVEN, False, torch.zeros(1), grid, network, 0.0, 1.1 * alpha)
        assert not len(samples.t)


@pytest.mark.parametrize("unbounded", [False, True])
@torch.no_grad()
def test_marching_and_seeing_one_after_the_other_equal_the_kernel(unbounded: bool) -> None:
    """All samples in occupied cells, thinned by densities that are asked for afterwards."""
    grid, network = field(5)
    cascades = 2 if unbounded else 1
    occupied = (torch.rand(cascades, 8, 8, 8, generator=torch.Generator().manual_seed(8)) < 0.4).byte()
    rule = StepRule(growth=1 / 32 if unbounded else 0.0, shortest=0.04, longest=0.4, most=200)
    some, jitter = rays(100), torch.rand(100, generator=torch.Generator().manual_seed(9))
    samples, index = occupied_samples(some, occupied, rule, unbounded, jitter)
    assert torch.equal(index, samples.rays)
    found, of_ray = seen_samples(samples, network(grid(samples.points))[:, 0].exp(), 1e-2, 1e-2)
    ours, ours_index = visible_samples(some, occupied, rule, unbounded, jitter, grid, network, 1e-2, 1e-2)
    same = (found.offsets.diff() == ours.offsets.diff()) & (found.offsets.diff() > 0)
    assert same.sum() > 60
    keep, keep_ours = same[of_ray], same[ours_index]
    torch.testing.assert_close(found.t[keep], ours.t[keep_ours], rtol=0, atol=1e-5)
    torch.testing.assert_close(found.points[keep], ours.points[keep_ours], rtol=0, atol=1e-5)
