"""Packed samples as dense histograms: the same light, and intervals that lie where the samples do."""

import pytest
import torch

from lumigraph.rendering.volume import reference


def test_the_weights_are_those_of_compositing_and_the_intervals_in_order() -> None:
    generator = torch.Generator().manual_seed(0)
    offsets = torch.tensor([0, 3, 3, 8])
    dt = torch.full((8,), 0.1)
    # Ray 0: touching samples; ray 2: two together, a gap, three together with growing steps.
    t = torch.tensor([1.0, 1.1, 1.2, 2.0, 2.1, 2.7, 2.8, 2.905])
    dt[-1] = 0.105
    density = 3 * torch.rand(8, generator=generator)
    edges, weights = reference.histogram(density, t, dt, offsets, torch.tensor([2.0, 5.0, 6.0]))
    assert edges.shape == (3, 11)
    assert bool((edges[:, 1:] >= edges[:, :-1]).all())
    _, opacity, moment, _ = reference.composite(density, torch.rand(8, 3), t, dt, offsets, 0.0)
    torch.testing.assert_close(weights.sum(1), opacity)
    torch.testing.assert_close(
        (weights * 0.5 * (edges[:, 1:] + edges[:, :-1])).sum(1), moment, rtol=1e-3, atol=0
    )
    lengths = edges[:, 1:] - edges[:, :-1]
    assert lengths[0].tolist() == pytest.approx([0.1, 0, 0.1, 0, 0.1, 0.75, 0, 0, 0, 0], abs=1e-6)
    assert lengths[1].tolist() == [0.0] * 10
    assert lengths[2].tolist() == pytest.approx(
        [0.1, 0, 0.1, 0.5, 0.1, 0, 0.1025, 0, 0.105, 3.0425], abs=1e-3
    )
    assert edges[:, -1].tolist() == pytest.approx([2.0, 5.0, 6.0])


def test_gradients_reach_the_density() -> None:
    density = torch.tensor([1.0, 0.0, 1e8], requires_grad=True)
    t, dt = torch.tensor([1.0, 2.0, 3.0]), torch.full((3,), 0.5)
    edges, weights = reference.histogram(density, t, dt, torch.tensor([0, 3]), torch.tensor([4.0]))
    (weights * edges[:, 1:]).sum().backward()
    assert density.grad is not None
    assert bool(torch.isfinite(density.grad).all())
    assert float(density.grad[0].abs()) > 0
