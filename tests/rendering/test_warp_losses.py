"""Regularisers of warps: golden values."""

import pytest
import torch

from lumigraph.rendering.warp_losses import ambient_energy, cauchy, displacement_energy, geman_mcclure


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
