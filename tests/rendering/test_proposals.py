"""Sampling with proposals: golden values, brute force, and what is drawn where nothing is known."""

import pytest
import torch
from torch import Tensor

from lumigraph.rendering.volume.proposals import (
    depth_of,
    dilated,
    intervals,
    jitters,
    normalised,
    schlick,
    with_some_at,
)


def random_histogram(rays: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    s = torch.rand(rays, count + 1, generator=generator).sort(1).values
    s[:, 0], s[:, -1] = 0, 1
    weights = torch.rand(rays, count, generator=generator)
    return s, weights / weights.sum(1, keepdim=True)


@pytest.mark.parametrize(
    ("progress", "wanted"), [(0.0, 0.0), (0.01, 0.09174312), (0.1, 0.52631579), (0.5, 0.90909091), (1.0, 1.0)]
)
def test_golden_schlick(progress: float, wanted: float) -> None:
    assert schlick(progress, 10.0) == pytest.approx(wanted, abs=1e-8)


@pytest.mark.parametrize("disparity", [False, True])
def test_depth_goes_from_near_to_far(disparity: bool) -> None:
    s = torch.linspace(0, 1, 5).expand(2, 5)
    near, far = torch.tensor([0.5, 2.0]), torch.tensor([8.0, 1e6])
    t = depth_of(s, near, far, disparity)
    torch.testing.assert_close(t[:, 0], near)
    torch.testing.assert_close(t[:, -1], far)
    even = 1 / t if disparity else t
    torch.testing.assert_close(even.diff(dim=1), even.diff(dim=1)[:, :1].expand(2, 4), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("disparity", [False, True])
def test_depths_are_normalised_again(disparity: bool) -> None:
    s = torch.linspace(0, 1, 9).expand(2, 9)
    near, far = torch.tensor([0.5, 2.0]), torch.tensor([8.0, 50.0])
    t = depth_of(s, near, far, disparity)
    torch.testing.assert_close(normalised(t, near, far, disparity), s, rtol=0, atol=1e-6)
    beyond = torch.tensor([[0.1, 9.0], [-1.0, 1e9]])
    torch.testing.assert_close(normalised(beyond, near, far, disparity), torch.tensor([[0.0, 1.0]] * 2))
    without_length = normalised(t, far, far, disparity)
    assert not without_length.any()


@pytest.mark.parametrize("disparity", [False, True])
def test_some_edges_give_way_to_those_at_given_depths(disparity: bool) -> None:
    s, _ = random_histogram(2, 10, 0)
    near, far = torch.tensor([1.0, 2.0]), torch.tensor([9.0, 10.0])
    t = torch.tensor([[3.0, 7.0, 5.0], [5.0, 5.0, 4.0]])
    edges = with_some_at(s, t, near, far, disparity)
    assert edges.shape == s.shape
    assert (edges.diff(dim=1) >= 0).all()
    assert torch.equal(edges[:, [0, -1]], s[:, [0, -1]])
    depths = depth_of(edges, near, far, disparity)
    for ray in range(2):
        for depth in t[ray]:
            assert float((depths[ray] - depth).abs().min()) < 1e-4
        assert torch.isin(edges[ray], s[ray]).sum() == 11 - 3


@pytest.mark.parametrize("count", [1, 5, 16])
def test_dilation_is_the_largest_density_within_reach(count: int) -> None:
    s, weights = random_histogram(4, count, count)
    reach = 0.04
    edges, wide = dilated(s, weights, reach)
    assert edges.shape == (4, 3 * count + 1)
    assert wide.shape == (4, 3 * count)
    density = weights / s.diff(dim=1)
    for ray in range(4):
        wanted = []
        for i in range(3 * count):
            low, high = edges[ray, i], edges[ray, i + 1]
            middle = 0.5 * (low + high)
            holds = (s[ray, :-1] - reach <= middle) & (middle < s[ray, 1:] + reach)
            wanted.append(float((density[ray] * holds).max() * (high - low)))
        brute = torch.tensor(wanted)
        torch.testing.assert_close(wide[ray], brute / brute.sum(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(wide.sum(1), torch.ones(4))


def test_dilation_by_nothing_keeps_the_distribution() -> None:
    s, weights = random_histogram(3, 8, 0)
    edges, wide = dilated(s, weights, 0.0)
    places = torch.rand(3, 50, generator=torch.Generator().manual_seed(1))

    def below(edges: Tensor, weights: Tensor) -> Tensor:
        parts = (places[:, :, None] - edges[:, None, :-1]) / edges.diff(dim=1).clamp(min=1e-9)[:, None]
        return (parts.clamp(0, 1) * weights[:, None]).sum(2)

    torch.testing.assert_close(below(edges, wide), below(s, weights), atol=1e-4, rtol=0)


def test_a_ray_that_sees_nothing_is_sampled_all_the_same() -> None:
    s, _ = random_histogram(2, 8, 0)
    edges, wide = dilated(s, torch.zeros(2, 8), 0.01)
    drawn = intervals(edges, wide, jitters(2, 6, None))
    assert torch.isfinite(drawn).all()
    assert (drawn.diff(dim=1) >= 0).all()


def test_intervals_of_an_even_density_are_even() -> None:
    whole, weight = torch.tensor([[0.0, 1.0]]), torch.ones(1, 1)
    drawn = intervals(whole, weight, jitters(1, 8, None))
    torch.testing.assert_close(drawn, torch.linspace(0, 1, 9)[None], atol=1e-6, rtol=0)


def test_intervals_follow_the_density() -> None:
    """The part of many middles that lies in an interval of the density is its weight."""
    s, weights = random_histogram(3, 5, 6)
    uniform = jitters(3, 20_000, torch.Generator().manual_seed(0))
    assert ((uniform >= 0) & (uniform < 1)).all()
    drawn = intervals(s, weights, uniform)
    assert ((drawn >= 0) & (drawn <= 1)).all()
    assert (drawn.diff(dim=1) >= 0).all()
    middles = 0.5 * (drawn[:, 1:] + drawn[:, :-1])
    for ray in range(3):
        counted = torch.histogram(middles[ray], s[ray]).hist / 20_000
        torch.testing.assert_close(counted, weights[ray], atol=2e-3, rtol=0)


def test_jitter_moves_all_draws_of_a_ray_together() -> None:
    uniform = jitters(4, 8, torch.Generator().manual_seed(0))
    steps = uniform.diff(dim=1)
    torch.testing.assert_close(steps, steps[:1, :1].expand(4, 7))
    assert len(uniform[:, 0].unique()) == 4
