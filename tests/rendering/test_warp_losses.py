"""Regularisers of warps: golden values."""

import math
from typing import get_args, get_type_hints

import pytest
import torch

from lumigraph.configs.warped import WarpedConfig
from lumigraph.geometry.rotations import so3_exp
from lumigraph.rendering.warp_losses import (
    ELASTIC_RESIDUALS,
    ambient_energy,
    cauchy,
    displacement_energy,
    elastic_energy,
    geman_mcclure,
)


def test_robust_losses() -> None:
    # The golden value .4, times the scale.
    assert float(geman_mcclure(torch.tensor(1e-6), 1e-3)) == pytest.approx(0.4e-3)
    assert float(geman_mcclure(torch.tensor(1e6), 1e-3)) == pytest.approx(2e-3)
    assert float(cauchy(torch.tensor(2 * 0.05**2), 0.05)) == pytest.approx(0.05 * 0.6931472)
    # Close to zero both are half the squared residual over the scale.
    for loss in (geman_mcclure, cauchy):
        assert float(loss(torch.tensor(1e-6), 0.05)) == pytest.approx(0.5e-6 / 0.05, rel=1e-3)


def test_displacements_and_ambient_coordinates_cost_by_their_published_scales() -> None:
    points = torch.zeros(2, 3)
    moved = torch.tensor([[0.0, 0, 0], [0, 1e-3, 0]])
    assert displacement_energy(moved, points).tolist() == pytest.approx([0, 0.4e-3])
    assert ambient_energy(torch.tensor([[0.05, 0.05], [0, 0]])).tolist() == pytest.approx(
        [0.05 * 0.6931472, 0]
    )


STRETCHED = torch.diag(torch.tensor([2.0, 0.5, 1.5], dtype=torch.float64))
FAR = {
    "log_svals": 2 * math.log(2) ** 2 + math.log(1.5) ** 2,
    "svals": 1 + 0.25 + 0.25,
    "jtj": (9 + 0.75**2 + 1.25**2) / 4,
    "div": 1.0,
    "det": 0.25,
    "log_det": math.log(1.5) ** 2,
    "nearest_rotation": 1.5,
}
"""Squared residuals of `STRETCHED`."""


def turns() -> torch.Tensor:
    return so3_exp(torch.randn(10, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64))


@pytest.mark.parametrize("kind", FAR)
def test_elastic_residuals_measure_stretching(kind: str) -> None:
    residual = ELASTIC_RESIDUALS[kind]
    assert float(residual(STRETCHED)) == pytest.approx(FAR[kind])
    z = FAR[kind] / 0.03**2
    assert float(elastic_energy(STRETCHED, kind)) == pytest.approx(0.03 * 2 * z / (z + 4))
    assert float(residual(torch.eye(3))) == 0
    turned = residual(turns())
    if kind == "div":
        assert turned.min() > 0.01
        return
    assert turned.max() < 1e-12
    # Turned before or after, what is stretched is stretched as much.
    torch.testing.assert_close(
        residual(turns() @ STRETCHED @ turns().flip(0)), residual(STRETCHED).expand(10)
    )


def test_elastic_residuals_have_the_names_of_the_option() -> None:
    assert get_args(get_type_hints(WarpedConfig)["elastic"]) == tuple(FAR) == tuple(ELASTIC_RESIDUALS)


@pytest.mark.parametrize("kind", FAR)
def test_gradients_of_elastic_residuals_are_those_of_differences(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    jacobians = torch.eye(3) + 0.3 * torch.randn(6, 3, 3, generator=generator)
    jacobians = jacobians.double().requires_grad_()
    assert torch.autograd.gradcheck(ELASTIC_RESIDUALS[kind], jacobians)
    # Also where singular values are alike, and where space is folded.
    for singular in (torch.eye(3), torch.zeros(3, 3), torch.diag(torch.tensor([1.0, 1.0, -1.0]))):
        singular.requires_grad_()
        (gradient,) = torch.autograd.grad(elastic_energy(singular, kind), singular)
        assert torch.isfinite(gradient).all()


def test_a_reflection_is_no_rotation() -> None:
    mirror = torch.diag(torch.tensor([1.0, 1.0, -1.0]))
    assert float(ELASTIC_RESIDUALS["nearest_rotation"](mirror)) == pytest.approx(4)
    assert float(ELASTIC_RESIDUALS["svals"](mirror)) == pytest.approx(0)
