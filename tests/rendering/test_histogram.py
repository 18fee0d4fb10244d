"""Dense histograms: golden values, brute force, and finite gradients at the extremes."""

import pytest
import torch
from torch import Tensor

from lumigraph.rendering.volume.histogram import (
    blurred,
    distortion,
    drawn_from,
    interlevel_loss,
    jittered,
    median_depth,
    outer_measure,
    spaced,
    stratified,
    visible_weights,
)


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


EDGES = row(2, 2.5, 3, 3.5, 4)
WEIGHTS = row(0.04877058, 0.37427961, 0.44821491, 0.02847606)


def random_histogram(rays: int, intervals: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    edges = torch.rand(rays, intervals + 1, generator=generator, dtype=torch.float64).sort(1).values
    weights = torch.rand(rays, intervals, generator=generator, dtype=torch.float64)
    return edges, 0.9 * weights / weights.sum(1, keepdim=True)


def test_weights_and_depths_of_a_ray() -> None:
    weights = visible_weights(row(0.1, 1, 3, 0.5), row(0.5, 0.5, 0.5, 0.5))
    torch.testing.assert_close(weights, WEIGHTS, atol=1e-8, rtol=0)
    middles = 0.5 * (EDGES[:, 1:] + EDGES[:, :-1])
    raw = float((weights * middles).sum())
    assert float(weights.sum()) == pytest.approx(0.89974116, abs=1e-8)
    assert raw == pytest.approx(2.70248641, abs=1e-8)
    assert raw / float(weights.sum()) == pytest.approx(3.00362653, abs=1e-8)


def test_golden_distortion() -> None:
    assert float(distortion(WEIGHTS, (EDGES - 2) / 2)) == pytest.approx(0.16266930, abs=1e-7)
    assert float(distortion(WEIGHTS, EDGES)) == pytest.approx(0.32533861, abs=1e-7)


def test_golden_blur() -> None:
    wanted = row(0.22152509, 0.42124726, 0.45821491, 0.24834548)
    torch.testing.assert_close(blurred(WEIGHTS), wanted, atol=1e-7, rtol=0)


def test_golden_bound_and_interlevel_loss() -> None:
    proposal_edges, proposal = row(2, 2.8, 4), row(0.2, 0.3)
    torch.testing.assert_close(outer_measure(EDGES, proposal_edges, proposal), row(0.2, 0.5, 0.3, 0.3))
    assert float(interlevel_loss(EDGES, WEIGHTS, proposal_edges, proposal)) == pytest.approx(
        0.04901144, abs=1e-7
    )


def test_golden_draws() -> None:
    edges, weights = row(2, 3, 4, 5), row(0.1, 0.7, 0.2)
    uniform = torch.linspace(0, 1, 5, dtype=torch.float64)[None]
    wanted = row(2, 3.21427908, 3.57142755, 3.92857602, 5)
    torch.testing.assert_close(drawn_from(edges, weights, uniform, padding=1e-5), wanted, atol=1e-7, rtol=0)


def test_distortion_is_the_double_sum() -> None:
    edges, weights = random_histogram(6, 9, 0)
    middles = 0.5 * (edges[:, 1:] + edges[:, :-1])
    pairs = weights[:, :, None] * weights[:, None, :] * (middles[:, :, None] - middles[:, None, :]).abs()
    wanted = pairs.sum((1, 2)) + (weights.square() * edges.diff(dim=1)).sum(1) / 3
    torch.testing.assert_close(distortion(weights, edges), wanted)


def test_bounds_are_those_of_brute_force() -> None:
    edges, _ = random_histogram(8, 7, 1)
    others, weights = random_histogram(8, 5, 2)
    wanted = torch.zeros(8, 7, dtype=torch.float64)
    for ray in range(8):
        for i in range(7):
            for j in range(5):
                meets = edges[ray, i] < others[ray, j + 1] and others[ray, j] < edges[ray, i + 1]
                wanted[ray, i] += weights[ray, j] * bool(meets)
    torch.testing.assert_close(outer_measure(edges, others, weights), wanted)


def test_a_histogram_covers_itself() -> None:
    edges, weights = random_histogram(8, 7, 3)
    assert float(interlevel_loss(edges, weights, edges, weights).max()) < 1e-20


def test_only_the_proposal_learns_from_the_interlevel_loss() -> None:
    edges, weights = random_histogram(4, 6, 4)
    others, proposal = random_histogram(4, 3, 5)
    weights.requires_grad_()
    proposal = (0.3 * proposal).requires_grad_()
    interlevel_loss(edges, weights, others, proposal).sum().backward()
    assert weights.grad is None
    assert proposal.grad is not None
    assert float(proposal.grad.min()) < 0


def test_draws_follow_the_density() -> None:
    """The part of many draws that lies in an interval is its weight."""
    edges, weights = random_histogram(3, 5, 6)
    uniform = stratified(3, 20_000, torch.Generator().manual_seed(0)).double()
    drawn = drawn_from(edges, weights, uniform)
    share = weights / weights.sum(1, keepdim=True)
    for i in range(5):
        inside = ((drawn >= edges[:, i : i + 1]) & (drawn < edges[:, i + 1 : i + 2])).double().mean(1)
        torch.testing.assert_close(inside, share[:, i], atol=1e-3, rtol=0)
    assert bool((drawn.sort(1).values == drawn).all())


@pytest.mark.parametrize(
    "weights", [row(0, 0, 0), row(1, 0, 0), row(0, 0, 1), row(1e-30, 0, 1e-30), row(1e30, 1e30, 0)]
)
def test_extreme_weights_give_depths_on_the_ray(weights: Tensor) -> None:
    edges = row(2, 2, 3, 7)
    for uniform in (
        stratified(1, 9, None),
        stratified(1, 9, torch.Generator().manual_seed(0)),
        torch.ones(1, 3),
    ):
        drawn = drawn_from(edges, weights, uniform.double())
        assert bool(torch.isfinite(drawn).all())
        assert float(drawn.min()) >= 2
        assert float(drawn.max()) <= 7


def test_a_ray_that_has_seen_nothing_is_sampled_evenly() -> None:
    drawn = drawn_from(row(0, 1, 2, 3, 4), row(0, 0, 0, 0), stratified(1, 5, None).double())
    torch.testing.assert_close(drawn, row(0, 1, 2, 3, 4), atol=1e-5, rtol=0)


@pytest.mark.parametrize("density", [0.0, 1e-8, 1.0, 1e4, 1e30])
def test_weights_and_gradients_are_finite(density: float) -> None:
    values = torch.full((2, 6), density, requires_grad=True)
    weights = visible_weights(values, torch.full((2, 6), 0.3))
    assert bool((weights >= 0).all())
    assert float(weights.detach().sum(1).max()) <= 1 + 1e-6
    (weights * torch.rand(2, 6)).sum().backward()
    assert values.grad is not None
    assert bool(torch.isfinite(values.grad).all())


def test_weights_sum_to_what_is_absorbed() -> None:
    density, lengths = torch.rand(4, 9, dtype=torch.float64), torch.rand(4, 9, dtype=torch.float64)
    absorbed = 1 - torch.exp(-(density * lengths).sum(1))
    torch.testing.assert_close(visible_weights(density, lengths).sum(1), absorbed)


def test_spacing_and_jitter() -> None:
    near, far = torch.tensor([2.0, 1.0]), torch.tensor([6.0, 4.0])
    even = spaced(near, far, 5)
    torch.testing.assert_close(even[0], torch.tensor([2.0, 3, 4, 5, 6]))
    inverse = spaced(near, far, 5, disparity=True)
    torch.testing.assert_close(1 / inverse[1], torch.linspace(1, 0.25, 5))
    torch.testing.assert_close(jittered(even, torch.zeros(2, 5))[0], torch.tensor([2.0, 2.5, 3.5, 4.5, 5.5]))
    moved = jittered(even, torch.rand(2, 5))
    assert bool((moved.diff(dim=1) >= 0).all())
    assert float(moved.min()) >= 1
    assert float(moved[0].max()) <= 6


def test_median_depth() -> None:
    assert float(median_depth(row(0, 1, 2, 3), row(0, 0.8, 0))) == pytest.approx(1.5)
    assert float(median_depth(row(0, 1, 2, 3), row(0.25, 0.25, 0.5))) == pytest.approx(2.0)
    assert float(median_depth(row(0, 1, 2, 3), row(0, 0, 0))) == pytest.approx(3.0)
