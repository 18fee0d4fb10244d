"""Gaussians of conical frustums and cylinders, and the integrated encoding."""

import math

import pytest
import torch

from lumigraph.fields.conical import (
    RayMoments,
    conical_moments,
    cylindrical_moments,
    gaussian_covariances,
    gaussian_means,
    gaussian_variances,
    integrated_encoding,
)


def _double(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _golden() -> tuple[RayMoments, torch.Tensor, torch.Tensor]:
    """The frustum of the golden values, with its mean and diagonal covariance."""
    moments = conical_moments(_double(2, 3), _double(0.01)[0])
    d = _double(0.1, -0.2, -1)
    return moments, gaussian_means(moments, torch.zeros_like(d), d)[0], gaussian_variances(moments, d)[0]


def test_a_frustum_has_the_published_moments():
    moments, mean, variance = _golden()
    assert float(moments.t_mean) == pytest.approx(2.56578947, abs=1e-8)
    assert float(moments.t_var) == pytest.approx(0.07988227, abs=1e-8)
    assert float(moments.r_var) == pytest.approx(1.66578947e-4, rel=1e-8)
    torch.testing.assert_close(mean, _double(0.25657895, -0.51315789, -2.56578947), atol=1e-8, rtol=0)
    torch.testing.assert_close(variance, _double(9.6382e-4, 3.35552e-3, 7.98902e-2), atol=1e-7, rtol=1e-5)


def test_the_encoding_has_the_published_values_and_order():
    _, mean, variance = _golden()
    sines = _double(
        0.25365072, -0.49010787, -0.52318687, 0.48998542, -0.84967509, 0.77853522, 0.84882628, -0.86267452,
        0.39241852,
    )  # fmt: skip
    cosines = _double(
        0.96679779, 0.86973811, -0.80591141, 0.86952081, 0.51450931, 0.34691632, 0.51399532, -0.45113197,
        -0.35289357,
    )  # fmt: skip
    encoded = integrated_encoding(mean, variance, 3)
    torch.testing.assert_close(encoded, torch.cat([sines, cosines]), atol=1e-8, rtol=0)


def _points_in(first: float, last: float, radius: float, d: torch.Tensor, cone: bool) -> torch.Tensor:
    """Points spread evenly in a frustum or cylinder around d from the origin, cut perpendicular to d."""
    generator = torch.Generator().manual_seed(0)
    count = 400_000
    u, v, angle = torch.rand(3, count, generator=generator, dtype=torch.float64)
    t = (first**3 + u * (last**3 - first**3)) ** (1 / 3) if cone else first + u * (last - first)
    r = radius * (t if cone else 1) * v.sqrt()
    one = torch.linalg.cross(d, _double(0, 1, 0))
    one = one / one.norm()
    two = torch.linalg.cross(d, one) / d.norm()
    turn = 2 * math.pi * angle
    return t[:, None] * d + r[:, None] * (turn.cos()[:, None] * one + turn.sin()[:, None] * two)


@pytest.mark.parametrize(("first", "last", "radius"), [(2, 3, 0.4), (0, 1, 0.5), (0.5, 4, 0.1)])
@pytest.mark.parametrize("cone", [True, False])
def test_moments_are_those_of_points_in_the_piece(first: float, last: float, radius: float, cone: bool):
    d = _double(0.3, -0.5, 1.2)
    points = _points_in(first, last, radius, d, cone)
    of = conical_moments if cone else cylindrical_moments
    moments = of(_double(first, last), _double(radius)[0])
    mean = gaussian_means(moments, torch.zeros(3, dtype=torch.float64), d)[0]
    covariance = gaussian_covariances(moments, d)[0]
    size = float(last * d.norm())
    torch.testing.assert_close(mean, points.mean(0), atol=3e-3 * size, rtol=0)
    torch.testing.assert_close(covariance, torch.cov(points.T), atol=3e-3 * size**2, rtol=0)


def test_variances_are_the_diagonal_of_the_covariance():
    generator = torch.Generator().manual_seed(1)
    edges = torch.rand(5, 4, generator=generator).sort(1).values * 6
    d = torch.randn(5, 3, generator=generator)
    moments = conical_moments(edges, torch.rand(5, generator=generator))
    covariance = gaussian_covariances(moments, d)
    assert covariance.shape == (5, 3, 3, 3)
    torch.testing.assert_close(gaussian_variances(moments, d), covariance.diagonal(dim1=-2, dim2=-1))
    assert (torch.linalg.eigvalsh(covariance.double()) > -1e-6).all()


def test_the_encoding_is_the_mean_of_the_plain_encoding_over_the_gaussian():
    mean, variance = _double(0.4, -1.1, 2.0), _double(0.3, 0.02, 0.6)
    generator = torch.Generator().manual_seed(2)
    points = mean + variance.sqrt() * torch.randn(400_000, 3, generator=generator, dtype=torch.float64)
    plain = integrated_encoding(points, torch.zeros_like(points), 3).mean(0)
    torch.testing.assert_close(integrated_encoding(mean, variance, 3), plain, atol=4e-3, rtol=0)


def test_without_variance_it_is_the_plain_encoding():
    points = torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(3))
    encoded = integrated_encoding(points, torch.zeros_like(points), 4)
    by_hand = [f(2.0**octave * points) for f in (torch.sin, torch.cos) for octave in range(4)]
    torch.testing.assert_close(encoded, torch.cat(by_hand, -1))


def test_frequencies_finer_than_the_gaussian_fade():
    encoded = integrated_encoding(torch.full((1,), 0.3), torch.full((1,), 100.0), 16)
    assert (encoded.abs() < 1e-20).all()


def test_wide_pieces_keep_positive_moments_and_short_ones_do_not_cancel():
    """The published formula in terms of t0 and t1 loses all digits for short pieces far away."""
    short = conical_moments(torch.tensor([1e4, 1e4 + 0.0625]), torch.tensor(1e-3))
    assert float(short.t_var) == pytest.approx(0.0625**2 / 12, rel=1e-3)
    whole = conical_moments(_double(0, 1), _double(1)[0])
    assert float(whole.t_mean) == pytest.approx(3 / 4)
    assert float(whole.t_var) == pytest.approx(3 / 80)
    assert float(whole.r_var) == pytest.approx(3 / 20)


@pytest.mark.parametrize(
    "edges", [(0, 0), (2, 2), (0, 1e-20), (0, 1e6), (0.2, 1e6), (1e6, 1e6 + 1), (1e-12, 1e12)]
)
@pytest.mark.parametrize("of", [conical_moments, cylindrical_moments])
@pytest.mark.parametrize("radius", [0.0, 1e-3, 1e3])
@pytest.mark.parametrize("direction", [(0.0, 0.0, 0.0), (0.1, -0.2, -1.0), (1e-8, 0.0, 0.0)])
def test_extremes_have_finite_values_and_gradients(edges, of, radius: float, direction):
    t = torch.tensor(edges, dtype=torch.float32, requires_grad=True)
    r = torch.tensor(radius, requires_grad=True)
    d = torch.tensor(direction, requires_grad=True)
    moments = of(t, r)
    assert all(bool((values >= 0).all()) for values in moments)
    mean, covariance = gaussian_means(moments, torch.zeros(3), d), gaussian_covariances(moments, d)
    encoded = integrated_encoding(mean, gaussian_variances(moments, d), 16)
    assert torch.isfinite(covariance).all()
    assert torch.isfinite(encoded).all()
    gradients = torch.autograd.grad(encoded.sum() + covariance.sum(), (t, r, d))
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
