"""Which samples rays see: the kernel against marching, asking and thinning one after the other."""

import pytest
import torch
from torch import nn

from lumigraph.fields.hashgrid import GridLayout, HashGrid
from lumigraph.rendering.volume.samples import CoreRays, StepRule, _trace_reference, visible_samples

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


def field(seed: int) -> tuple[HashGrid, nn.Sequential]:
    torch.manual_seed(seed)
    grid = HashGrid(GridLayout(3, 2, 12, 4, 32))
    nn.init.normal_(grid.table)
    network = nn.Sequential(nn.Linear(6, 16, bias=False), nn.ReLU(), nn.Linear(16, 5, bias=False))
    return grid, network


@pytest.mark.parametrize("unbounded", [False, True])
@pytest.mark.parametrize("everything", [False, True])
@torch.no_grad()
def test_kernel_equals_the_twin(unbounded: bool, everything: bool) -> None:
    grid, network = field(0)
    cascades = 3 if unbounded else 1
    occupied = (
        torch.rand(cascades, CELLS, CELLS, CELLS, generator=torch.Generator().manual_seed(4)) < 0.3
    ).byte()
    rule = StepRule(
        growth=1 / 32 if unbounded else 0.0, shortest=0.03, longest=0.5 if unbounded else 0.03, most=500
    )
    some = rays(200)
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
