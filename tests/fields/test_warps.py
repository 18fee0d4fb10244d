"""Warps: the published numbers, the identity at zero, and finite gradients there."""

import math

import pytest
import torch

from lumigraph.fields.encodings import frequency_encoding, octave_window, windowed_encoding
from lumigraph.fields.warps import WARPS, SE3Warp, TranslationWarp, Warp, warp_jacobians
from lumigraph.geometry.rotations import screw_motion, se3_exp, so3_exp
from lumigraph.rendering.warp_losses import elastic_energy

FULL = torch.tensor(6.0)
SCREW = (
    torch.tensor([[0.1, 0.2, -0.3]], dtype=torch.float64),
    torch.tensor([[0.5, -0.4, 0.2]], dtype=torch.float64),
)


def some_points(count: int = 20) -> torch.Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(0))


def lively(name: str, codes: int = 4) -> Warp:
    torch.manual_seed(0)
    warp = WARPS[name](codes, octaves=3, depth=3, width=16, skip=1)
    torch.nn.init.normal_(warp.network.output.weight, std=0.1)
    return warp


@pytest.mark.parametrize(
    ("alpha", "wanted"),
    [(0.0, [0.0] * 6), (0.5, [0.5] + [0.0] * 5), (1.0, [1.0] + [0.0] * 5), (2.3, [1, 1, 0.206107, 0, 0, 0])],
)
def test_the_window_of_octaves(alpha: float, wanted: list[float]) -> None:
    assert octave_window(6, torch.tensor(alpha)).tolist() == pytest.approx(wanted, abs=1e-6)


def test_the_window_leaves_the_identity_alone() -> None:
    x = some_points(5)
    whole = windowed_encoding(x, 6, FULL)
    torch.testing.assert_close(whole, frequency_encoding(x, 6), rtol=0, atol=1e-6)
    shut = windowed_encoding(x, 6, torch.tensor(0.0))
    assert torch.equal(shut[:, :3], x)
    assert not shut[:, 3:].any()
    # Octave 1 half open: both its sines and its cosines are halved, of all coordinates.
    half = windowed_encoding(x, 6, torch.tensor(1.5), identity=False)
    torch.testing.assert_close(half[:, 6:12], 0.5 * whole[:, 9:15])


def test_screw_motion_has_the_published_numbers() -> None:
    moved = screw_motion(*SCREW, torch.tensor([[0.3, 0.1, -0.2]], dtype=torch.float64))
    torch.testing.assert_close(
        moved, torch.tensor([[0.72230138, -0.44214831, -0.12066508]], dtype=torch.float64), rtol=0, atol=1e-8
    )
    origin = screw_motion(*SCREW, torch.zeros(1, 3).double())
    wanted = torch.tensor([[0.44738969, -0.47772380, 0.13064736]], dtype=torch.float64)
    torch.testing.assert_close(origin, wanted, rtol=0, atol=1e-8)


@pytest.mark.parametrize("size", [0.0, 1e-6, 5e-3, 0.5, 3.0])
def test_screw_motion_is_that_of_the_matrices(size: float) -> None:
    generator = torch.Generator().manual_seed(1)
    w, v, x = torch.randn(3, 8, 3, generator=generator, dtype=torch.float64)
    matrices = se3_exp(size * w, v)
    wanted = (matrices[..., :3] @ x[..., None])[..., 0] + matrices[..., 3]
    torch.testing.assert_close(screw_motion(size * w, v, x), wanted)


def test_no_motion_is_exactly_the_identity_with_finite_gradients() -> None:
    w, v = torch.zeros(20, 3, requires_grad=True), torch.zeros(20, 3, requires_grad=True)
    x = some_points()
    moved = screw_motion(w, v, x)
    assert torch.equal(moved, x)
    gradients = torch.autograd.grad(moved.square().sum(), (w, v), create_graph=True)
    assert all(torch.isfinite(g).all() for g in gradients)
    (again,) = torch.autograd.grad(gradients[0].sum(), w)
    assert torch.isfinite(again).all()


@pytest.mark.parametrize("name", WARPS)
def test_a_warp_of_zero_weights_leaves_points_where_they_are(name: str) -> None:
    warp = lively(name)
    torch.nn.init.zeros_(warp.network.output.weight)
    x = some_points()
    assert torch.equal(warp(x, torch.rand(20, 4), FULL), x)


@pytest.mark.parametrize("name", WARPS)
def test_warps_begin_close_to_the_identity(name: str) -> None:
    torch.manual_seed(0)
    warp, x = WARPS[name](8), some_points()
    distance = (warp(x, 0.05 * torch.rand(1, 8), FULL) - x).norm(dim=1)
    assert 0 < distance.max() < 0.02


def test_a_motion_depends_on_the_code_and_on_fine_octaves_only_when_alpha_lets_them() -> None:
    warp, x = lively("se3"), some_points()
    codes = torch.rand(2, 1, 4)
    moved = warp(x.expand(2, -1, -1), codes, FULL)
    assert (moved[0] - moved[1]).abs().max() > 1e-4
    # The second octave follows the point and the first one.
    first = next(warp.network.hidden.parameters())
    with torch.no_grad():
        first[:, 9:15] = 5.0
    shut, half = (warp(x, codes[0], torch.tensor(a)) for a in (1.0, 1.5))
    with torch.no_grad():
        first[:, 9:15] = 0.0
    assert torch.equal(shut, warp(x, codes[0], torch.tensor(1.0)))
    assert not torch.equal(half, warp(x, codes[0], torch.tensor(1.5)))


@pytest.mark.parametrize("name", WARPS)
def test_jacobians_are_those_of_differences(name: str) -> None:
    warp, x = lively(name).double(), some_points(6).double()
    codes = torch.rand(6, 4).double()
    exact = warp_jacobians(warp, x, codes, FULL.double())
    step = 1e-6
    for column in range(3):
        shift = step * torch.eye(3, dtype=torch.float64)[column]
        ahead, behind = (warp(x + sign * shift, codes, FULL.double()) for sign in (1, -1))
        torch.testing.assert_close(exact[..., column], (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-7)


def test_the_elastic_energy_sees_stretching_and_no_rigid_motion() -> None:
    turns = so3_exp(torch.randn(10, 3, generator=torch.Generator().manual_seed(2)))
    assert elastic_energy(turns).max() < 1e-9
    stretched = elastic_energy(torch.diag(torch.tensor([math.e, 1.0, 1.0])))
    z = 1 / 0.03**2
    assert float(stretched) == pytest.approx(0.03 * 2 * z / (z + 4), rel=1e-4)
    shrunk = elastic_energy(torch.diag(torch.tensor([1.0, 1 / math.e, 1.0])))
    assert float(shrunk) == pytest.approx(float(stretched), rel=1e-4)


@pytest.mark.parametrize("kind", [SE3Warp, TranslationWarp])
def test_elastic_gradients_reach_the_warp_and_are_finite(kind: type[Warp]) -> None:
    torch.manual_seed(0)
    warp = kind(4, octaves=2, depth=2, width=8)
    for still in (False, True):
        if still:
            torch.nn.init.zeros_(warp.network.output.weight)
        warp.zero_grad()
        elastic_energy(warp_jacobians(warp, some_points(), torch.rand(20, 4), FULL)).sum().backward()
        gradient = warp.network.output.weight.grad
        assert gradient is not None
        assert torch.isfinite(gradient).all()
        assert still or gradient.any()
