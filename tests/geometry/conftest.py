"""Cameras that the tests of this room share."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.rotations import look_at

MakeCameras = Callable[..., Cameras]


def build(poses: Tensor, **changed) -> Cameras:
    count = len(poses)
    values = {
        "camera_to_world": poses.float(),
        "focal": torch.tensor([[90.0, 80.0]]).repeat(count, 1),
        "principal": torch.tensor([[31.0, 25.0]]).repeat(count, 1),
        "size": torch.tensor([[64, 48]]).repeat(count, 1),
        "near": torch.full((count,), 2.0),
        "far": torch.full((count,), 6.0),
        "distortion": torch.zeros(count, 6),
        "ids": torch.arange(count),
    }
    return Cameras(**{**values, **changed}).check()


def ring(count: int, centre: Tensor, up: Tensor, radius: float = 4.0, arc: float = 2 * math.pi) -> Tensor:
    """Poses on rings of two heights that look at ``centre``."""
    angle = torch.arange(count, dtype=torch.float64) * (arc / count)
    height = torch.where(torch.arange(count) % 2 == 0, 0.3, 0.7).double()
    local = torch.stack((height.cos() * angle.cos(), height.cos() * angle.sin(), height.sin()), -1)
    z = up.double() / up.double().norm()
    x = torch.linalg.cross(torch.tensor([0.3, -0.5, 0.8], dtype=torch.float64), z)
    x = x / x.norm()
    frame = torch.stack((x, torch.linalg.cross(z, x), z), -1)
    return look_at(centre + radius * local @ frame.T, centre.double(), z)


@pytest.fixture
def make_cameras() -> MakeCameras:
    return build


@pytest.fixture
def ring_poses() -> Callable[..., Tensor]:
    return ring


@pytest.fixture
def inward() -> Cameras:
    """Thirty cameras all around the point (1, -2, 0.5), up along (0.2, 0.1, 1)."""
    return build(ring(30, torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.2, 0.1, 1.0])))


@pytest.fixture
def forward_facing() -> Cameras:
    """Nine cameras side by side that look nearly the same way."""
    x, y = torch.meshgrid(torch.linspace(-1, 1, 3).double(), torch.linspace(-1, 1, 3).double(), indexing="ij")
    eyes = torch.stack((x.flatten(), torch.zeros(9).double(), y.flatten()), -1)
    targets = eyes * 0.5 + torch.tensor([0.0, 10.0, 0.0])
    return build(look_at(eyes, targets, torch.tensor([0.0, 0.0, 1.0]).double()))


@pytest.fixture
def side_by_side() -> Cameras:
    """Twelve cameras with nearly one viewing direction, in no simple frame."""
    generator = torch.Generator().manual_seed(3)
    random = torch.rand(12, 6, generator=generator, dtype=torch.float64) * 2 - 1
    eyes = torch.tensor([3.0, 1.0, -2.0]).double() + random[:, :3] * torch.tensor([1.0, 0.6, 0.2])
    targets = torch.tensor([9.0, 2.0, 6.0]).double() + random[:, 3:]
    return build(look_at(eyes, targets, torch.tensor([0.1, 1.0, 0.2]).double()))
