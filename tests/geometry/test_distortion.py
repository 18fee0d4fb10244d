import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lumigraph.geometry.distortion import distort, undistort, undistort_with_jacobian

# The fox capture of instant-ngp; a strong barrel; tangential only.
LENSES = [
    [0.0578421, -0.0805099, 0.0, 0.0, -0.000980296, 0.00015575],
    [-0.28, 0.08, -0.01, 0.001, 0.001, -0.002],
    [0.0, 0.0, 0.0, 0.0, 0.01, -0.02],
]
FISHEYES = [[0.0] * 6, [0.05, -0.01, 0.002, -0.0005, 0.0, 0.0]]


def grid(limit: float) -> torch.Tensor:
    axis = torch.linspace(-limit, limit, 21, dtype=torch.float64)
    return torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)


@pytest.mark.parametrize("lens", LENSES)
def test_undistort_inverts_distort(lens):
    xy, lens = grid(0.8), torch.tensor(lens, dtype=torch.float64)
    assert torch.allclose(undistort(distort(xy, lens), lens), xy, atol=1e-12)
    single = undistort(distort(xy, lens).float(), lens.float()).double()
    assert float((single - xy).abs().max()) < 2e-6


@pytest.mark.parametrize("lens", FISHEYES)
def test_undistort_inverts_the_fisheye(lens):
    xy, lens = grid(3.0), torch.tensor(lens, dtype=torch.float64)
    assert torch.allclose(undistort(distort(xy, lens, fisheye=True), lens, fisheye=True), xy, atol=1e-9)


def test_fisheye_without_coefficients_is_equidistant():
    xy = torch.tensor([[math.tan(0.7), 0.0]], dtype=torch.float64)
    assert distort(xy, torch.zeros(6, dtype=torch.float64), fisheye=True)[0, 0] == pytest.approx(0.7)


def test_distortion_golden_value():
    # By hand: r = 0.05, D = 1 + 0.1 r + 0.2 r^2; tangential terms 2 p1 x y + p2 (r + 2 x^2) and mirrored.
    lens = torch.tensor([0.1, 0.2, 0.0, 0.0, 0.01, 0.02], dtype=torch.float64)
    x_d, y_d = distort(torch.tensor([[0.1, 0.2]], dtype=torch.float64), lens)[0].tolist()
    radial = 1 + 0.1 * 0.05 + 0.2 * 0.05**2
    assert x_d == pytest.approx(0.1 * radial + 2 * 0.01 * 0.02 + 0.02 * (0.05 + 2 * 0.01), abs=1e-15)
    assert y_d == pytest.approx(0.2 * radial + 2 * 0.02 * 0.02 + 0.01 * (0.05 + 2 * 0.04), abs=1e-15)


@pytest.mark.parametrize(("lens", "fisheye"), [(LENSES[0], False), (LENSES[1], False), (FISHEYES[1], True)])
def test_jacobian_agrees_with_autograd(lens, fisheye):
    lens = torch.tensor(lens, dtype=torch.float64)
    xy = torch.tensor([[0.3, -0.2], [0.0, 0.0], [-0.5, 0.4]], dtype=torch.float64)
    _, (a, b, c) = undistort_with_jacobian(distort(xy, lens, fisheye), lens, fisheye)
    for i in range(len(xy)):
        forward = torch.autograd.functional.jacobian(lambda p: distort(p, lens, fisheye), xy[i])
        expected = torch.linalg.inv(forward)
        got = torch.stack((torch.stack((a[i], b[i])), torch.stack((b[i], c[i]))))
        assert torch.allclose(got, expected, atol=1e-6)


def test_each_coordinate_is_independent_of_the_batch():
    lens = torch.tensor(LENSES[1])
    xy = grid(0.6).float().reshape(-1, 2)
    together = undistort(xy, lens)
    assert all(torch.equal(undistort(xy[i : i + 1], lens)[0], together[i]) for i in range(0, len(xy), 37))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=2, max_size=2),
    st.lists(st.floats(-10, 10, width=32), min_size=6, max_size=6),
    st.booleans(),
)
def test_any_lens_gives_finite_coordinates(xy, lens, fisheye):
    result, jacobian = undistort_with_jacobian(torch.tensor([xy]), torch.tensor(lens), fisheye)
    assert bool(torch.isfinite(result).all())
    assert all(bool(torch.isfinite(entry).all()) for entry in jacobian)
