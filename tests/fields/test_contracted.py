"""Contraction of Gaussians against autograd, and the directions along which they are encoded."""

import pytest
import torch

from lumigraph.fields.conical import integrated_encoding
from lumigraph.fields.contracted import DirectionalEncoding, Solid, contract_gaussians, directions_of
from lumigraph.geometry.bounds import contract


def some_gaussians(count: int, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    means = scale * torch.randn(count, 3, generator=generator, dtype=torch.float64)
    root = 0.1 * scale * torch.randn(count, 3, 3, generator=generator, dtype=torch.float64)
    return means, root @ root.transpose(1, 2)


@pytest.mark.parametrize("scale", [0.5, 3.0, 100.0])
def test_gaussians_are_pushed_through_the_jacobian(scale: float) -> None:
    means, covariances = some_gaussians(20, scale)
    contracted, pushed = contract_gaussians(means, covariances)
    torch.testing.assert_close(contracted, contract(means, "l2"))
    for i in range(len(means)):
        jacobian = torch.autograd.functional.jacobian(lambda x: contract(x[None], "l2")[0], means[i])
        assert isinstance(jacobian, torch.Tensor)
        torch.testing.assert_close(pushed[i], jacobian @ covariances[i] @ jacobian.T)


def test_contraction_is_the_identity_inside_the_unit_ball() -> None:
    means, covariances = some_gaussians(50, 1.0)
    means = 0.999 * means / means.norm(dim=1).amax()
    contracted, pushed = contract_gaussians(means, covariances)
    torch.testing.assert_close(contracted, means, rtol=0, atol=1e-15)
    torch.testing.assert_close(pushed, covariances)


@pytest.mark.parametrize("reach", [0.0, 1e-20, 1.0, 1e6, 1e20])
def test_extremes_have_finite_values_and_gradients(reach: float) -> None:
    means = (reach * torch.tensor([[1.0, 0.0, 0.0], [0.6, -0.64, 0.48]])).requires_grad_()
    covariances = (1e-2 * max(1.0, reach) * torch.eye(3)).expand(2, 3, 3)
    contracted, pushed = contract_gaussians(means, covariances)
    encoded = DirectionalEncoding("icosahedron", 2, 12)(contracted, pushed)
    (contracted.sum() + encoded.sum()).backward()
    assert means.grad is not None
    assert torch.isfinite(means.grad).all()
    assert torch.isfinite(encoded).all()
    assert (contracted.norm(dim=1) <= 2.0001).all()


@pytest.mark.parametrize(
    ("solid", "subdivisions", "count"),
    [("octahedron", 1, 3), ("octahedron", 2, 9), ("icosahedron", 1, 6), ("icosahedron", 2, 21), ("icosahedron", 3, 46)],
)  # fmt: skip
def test_directions_are_half_the_vertices(solid: Solid, subdivisions: int, count: int) -> None:
    directions = directions_of(solid, subdivisions)
    assert directions.shape == (count, 3)
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(count))
    products = directions @ directions.T
    products.fill_diagonal_(0)
    assert products.abs().max() < 0.98
    # Spread evenly: no direction of space counts more than another.
    torch.testing.assert_close(directions.T @ directions, count / 3 * torch.eye(3), atol=1e-4, rtol=0)


def test_the_octahedron_gives_the_diagonal_encoding() -> None:
    means, covariances = (value.float() for value in some_gaussians(10, 1.0))
    encoding = DirectionalEncoding("octahedron", 1, 16)
    assert encoding.width == 96
    order = encoding.directions.argmax(1)
    wanted = integrated_encoding(
        means[:, order], covariances.diagonal(dim1=1, dim2=2)[:, order].contiguous(), 16
    )
    torch.testing.assert_close(encoding(means, covariances), wanted, atol=1e-5, rtol=0)


def test_encoding_is_the_mean_over_the_gaussian() -> None:
    """Against a million draws."""
    mean, covariance = (
        torch.tensor([[0.3, -0.2, 0.5]]),
        torch.tensor([[[0.09, 0.03, 0], [0.03, 0.04, 0], [0, 0, 0.01]]]),
    )
    encoding = DirectionalEncoding("icosahedron", 2, 3)
    draws = torch.randn(200_000, 3, generator=torch.Generator().manual_seed(0))
    points = mean + draws @ torch.linalg.cholesky(covariance[0]).T
    wanted = encoding(points, torch.zeros(len(points), 3, 3)).mean(0)
    torch.testing.assert_close(encoding(mean, covariance)[0], wanted, atol=8e-3, rtol=0)
