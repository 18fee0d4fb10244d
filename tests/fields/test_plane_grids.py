"""Grids over pairs of axes: against a loop over planes and corners, at the rim, gradients."""

import math
from itertools import combinations

import pytest
import torch

from lumigraph.fields.plane_grids import PlaneGrids, plane_count


def by_hand(grids: PlaneGrids, point: list[float]) -> list[float]:
    found = []
    for grid in grids.grids:
        side = grid.shape[-1]
        for plane, (first, second) in enumerate(combinations(range(len(point)), 2)):
            x, y = (min(max((point[axis] + 1) / 2 * (side - 1), 0), side - 1) for axis in (first, second))
            left, top = min(math.floor(x), side - 2), min(math.floor(y), side - 2)
            u, v = x - left, y - top
            for feature in range(grid.shape[1]):
                a, b = grid[plane, feature, top, left : left + 2].tolist()
                c, d = grid[plane, feature, top + 1, left : left + 2].tolist()
                found.append((1 - v) * ((1 - u) * a + u * b) + v * ((1 - u) * c + u * d))
    return found


@pytest.mark.parametrize("dimensions", [4, 6])
def test_it_is_bilinear_interpolation_on_every_plane(dimensions: int) -> None:
    torch.manual_seed(0)
    grids = PlaneGrids(dimensions, 3, (2, 5))
    points = torch.rand(7, dimensions) * 2.6 - 1.3
    points[0] = 1.0
    wanted = torch.tensor([by_hand(grids, point) for point in points.tolist()])
    torch.testing.assert_close(grids(points).detach(), wanted, atol=1e-6, rtol=1e-5)
    assert wanted.shape[1] == plane_count(dimensions) * 3 * 2


def test_beyond_the_rim_the_rim_goes_on_with_finite_gradients() -> None:
    grids = PlaneGrids(4, 2, (4,))
    points = torch.tensor([[9.0, -9.0, 0.0, 1e6]], requires_grad=True)
    assert torch.equal(grids(points), grids(points.detach().clamp(-1, 1)))
    grids(points).square().sum().backward()
    assert points.grad is not None
    assert torch.isfinite(points.grad).all()
    assert torch.isfinite(grids.grids[0].grad).all()
