"""What rays count in the colours' loss."""

from dataclasses import replace

import pytest
import torch

from lumigraph.geometry.rays import Rays
from lumigraph.rendering.colour_error import ray_shares
from lumigraph.rendering.renderer import Batch


@pytest.mark.parametrize(("power", "expected"), [(0.0, [1, 1, 1]), (0.5, [1, 2, 8]), (1.0, [1, 4, 64])])
def test_a_ray_counts_by_its_weight_to_a_power(power: float, expected: list[float]) -> None:
    ones = torch.ones(3)
    rays = Rays(torch.zeros(3, 3), torch.ones(3, 3), ones, ones, ones, camera_ids=ones.long())
    batch = Batch(rays=rays, rgba=torch.rand(3, 4), weight=torch.tensor([1.0, 4.0, 64.0]))
    wanted = torch.tensor(expected, dtype=torch.float32)
    torch.testing.assert_close(ray_shares(batch, power), wanted / wanted.sum())
    torch.testing.assert_close(ray_shares(replace(batch, weight=None), power), ones / 3)
