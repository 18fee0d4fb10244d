"""Spherical harmonics: orthonormal over the sphere, and each degree an invariant space."""

import math

import pytest
import torch
from torch import Tensor

from lumigraph.fields.directions import spherical_harmonics
from lumigraph.geometry.rotations import so3_exp


def sphere(count: int) -> Tensor:
    """Evenly spread unit vectors [count, 3] (Fibonacci lattice): as good as many more random ones."""
    index = torch.arange(count, dtype=torch.float64) + 0.5
    z, angle = 1 - 2 * index / count, math.pi * (1 + 5**0.5) * index
    across = (1 - z * z).sqrt()
    return torch.stack([across * angle.cos(), across * angle.sin(), z], -1)


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_orthonormal(degree: int) -> None:
    basis = spherical_harmonics(sphere(20_000), degree)
    assert basis.shape == (20_000, degree**2)
    products = 4 * math.pi * basis.T @ basis / len(basis)
    torch.testing.assert_close(products, torch.eye(degree**2, dtype=torch.float64), rtol=0, atol=1e-3)


def test_lower_degrees_come_first() -> None:
    directions = sphere(50)
    for degree in (1, 2, 3):
        assert torch.equal(
            spherical_harmonics(directions, degree), spherical_harmonics(directions)[:, : degree**2]
        )


def test_each_degree_keeps_its_length_under_rotation() -> None:
    """The addition theorem: the sum of squares within degree l is (2 l + 1) / (4 pi) in every direction."""
    rotation = so3_exp(torch.tensor([0.3, -1.1, 0.7], dtype=torch.float64))
    values = spherical_harmonics(sphere(50) @ rotation.T)
    for degree in range(4):
        within = values[:, degree**2 : (degree + 1) ** 2].square().sum(1)
        torch.testing.assert_close(
            within, torch.full((50,), (2 * degree + 1) / (4 * math.pi), dtype=torch.float64)
        )


def test_first_order_is_y_z_x() -> None:
    x, y, z = directions = torch.tensor([0.6, -0.48, 0.64])
    factor = math.sqrt(3 / (4 * math.pi))
    torch.testing.assert_close(
        spherical_harmonics(directions, 2)[1:], factor * torch.stack([-y, z, -x]), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("degree", [0, 5])
def test_other_degrees_are_refused(degree: int) -> None:
    with pytest.raises(ValueError, match="only 1 to 4"):
        spherical_harmonics(torch.zeros(2, 3), degree)
