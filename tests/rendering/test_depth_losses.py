"""Depth losses: golden values, brute force, perfect surfaces, and finite gradients at the extremes."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lumigraph.configs.depth import DepthLoss, depth_loss_of
from lumigraph.configs.ngp import NGPConfig
from lumigraph.rendering.depth_losses import (
    depth_terms,
    dsnerf_loss,
    in_scene_units,
    penalty,
    rendered_depth,
    sky_loss,
    spread,
    surface_mass,
    swb_losses,
    urf_losses,
)
from lumigraph.rendering.volume.histogram import visible_weights

LOSSES = ("l2", "urf", "dsnerf", "swb")


def numbers(*values: float | int) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def golden_ray() -> tuple[Tensor, Tensor]:
    """Twenty intervals on [2, 4] with a surface about 3 and something floating before it."""
    edges = torch.linspace(2, 4, 21, dtype=torch.float64)[None]
    density = torch.zeros(1, 20, dtype=torch.float64)
    density[0, 8:12] = numbers(2, 6, 6, 2)
    density[0, 3] = 0.5
    return edges, visible_weights(density, edges[:, 1:] - edges[:, :-1])


def random_rays(rays: int, intervals: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    edges = 1 + 3 * torch.rand(rays, intervals + 1, generator=generator, dtype=torch.float64).sort(1).values
    weights = torch.rand(rays, intervals, generator=generator, dtype=torch.float64)
    depth = 1.5 + 2 * torch.rand(rays, generator=generator, dtype=torch.float64)
    return edges, 0.9 * weights / weights.sum(1, keepdim=True), depth


@pytest.mark.parametrize(
    ("beta", "at_middles", "expected"),
    [
        (0.0, True, (3.39796e-4, 3.178981e-2, 3.083139e-2)),
        (0.0, False, (3.39796e-4, 3.285801e-3, 3.289619e-2)),
        (2.0, True, (4.75714e-4, 6.03810e-4, 2.931844e-2)),
        (2.0, False, (4.75714e-4, 2.25688e-4, 3.131846e-2)),
    ],
)
def test_golden_bounds(beta: float, at_middles: bool, expected: tuple[float, ...]) -> None:
    edges, weights = golden_ray()
    found = swb_losses(edges, weights, numbers(3), numbers(0.1), beta=beta, at_middles=at_middles)
    for value, golden in zip(found, expected, strict=True):
        assert float(value) == pytest.approx(golden, rel=1e-4)


def test_a_perfect_surface_costs_nothing_at_right_edges_and_something_at_middles() -> None:
    edges = torch.linspace(2, 4, 21, dtype=torch.float64)[None]
    ideal = surface_mass(edges, numbers(3), numbers(0.1))
    empty, near, far = swb_losses(edges, ideal, numbers(3), numbers(0.1))
    # The Gaussian's own tail lies in empty space.
    assert (float(near), float(far)) == pytest.approx((0, 0), abs=1e-15)
    assert float(empty) < 1e-6
    published = swb_losses(edges, ideal, numbers(3), numbers(0.1), at_middles=True)
    assert float(published[1]) == pytest.approx(1.512251e-2, rel=1e-5)
    assert float(dsnerf_loss(edges, ideal, numbers(3), numbers(0.1))) == pytest.approx(0, abs=1e-15)
    near, empty = urf_losses(edges, ideal, numbers(3), numbers(0.3))
    assert (float(near), float(empty)) == pytest.approx((0, 0), abs=1e-5)
    assert float(rendered_depth(edges, ideal)) == pytest.approx(3, abs=1e-9)


def phi(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def slow_bounds(
    edges: Tensor, weights: Tensor, depth: Tensor, eps: Tensor, beta: float, limit: float
) -> list[float]:
    """Equation by equation, one interval at a time."""
    sums, counts = [0.0] * 3, [0] * 3
    for ray in range(len(edges)):
        opacity, d, e = 0.0, float(depth[ray]), float(eps[ray])
        for i, w in enumerate(weights[ray].tolist()):
            opacity += w
            right = float(edges[ray, i + 1])
            m = 0.5 * (right + float(edges[ray, i]))
            if m < d - (3 + beta) * e:
                region, value = 0, w * w
            elif m < d - beta * e:
                region, value = 1, max(opacity - phi((right - d + beta * e) / e), 0) ** 2
            elif d + beta * e < m <= d + limit * e:
                region, value = 2, max(phi((right - d - beta * e) / e) - opacity, 0) ** 2
            else:
                continue
            sums[region] += value
            counts[region] += 1
    return [total / max(count, 1) for total, count in zip(sums, counts, strict=True)]


@pytest.mark.parametrize("open_far", [True, False])
@pytest.mark.parametrize("beta", [0.0, 0.7, 2.0])
def test_bounds_are_those_of_a_loop(beta: float, open_far: bool) -> None:
    edges, weights, depth = random_rays(9, 30)
    epsilon = torch.linspace(0.02, 0.4, 9, dtype=torch.float64)
    found = swb_losses(edges, weights, depth, epsilon, beta=beta, open_far=open_far)
    limit = math.inf if open_far else 3 + beta
    slow = slow_bounds(edges, weights, depth, epsilon, beta, limit)
    assert [float(value) for value in found] == pytest.approx(slow, rel=1e-9)


def test_urf_is_that_of_a_loop() -> None:
    edges, weights, depth = random_rays(7, 40)
    near, empty, e = 0.0, 0.0, 0.3
    for ray in range(7):
        for i, w in enumerate(weights[ray].tolist()):
            left, right, d = float(edges[ray, i]), float(edges[ray, i + 1]), float(depth[ray])
            m = 0.5 * (left + right)
            if abs(m - d) <= e:
                near += (w - phi(3 * (right - d) / e) + phi(3 * (left - d) / e)) ** 2 / 7
            elif m < d:
                empty += w * w / 7
    found = urf_losses(edges, weights, depth, torch.full((7,), e, dtype=torch.float64))
    assert (float(found[0]), float(found[1])) == pytest.approx((near, empty), rel=1e-9)


def test_the_divergence_is_the_published_sum_but_for_a_constant() -> None:
    """Finely sampled, and with the Gaussian normalised: -sum_k log(w_k + c) g(m_k) d_k."""
    edges = torch.linspace(2, 4, 801, dtype=torch.float64)[None]
    middles, step = 0.5 * (edges[:, 1:] + edges[:, :-1]), 2 / 800
    sigma, depth = 0.1, 3.0
    gaussian = torch.exp(-((middles - depth) ** 2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))

    def published(weights: Tensor) -> float:
        return float(-(torch.log(weights + 1e-5) * gaussian * step).sum())

    def weights_about(place: float) -> Tensor:
        return surface_mass(edges, numbers(place), numbers(0.15))

    first, second = weights_about(2.9), weights_about(3.2)
    ours = [float(dsnerf_loss(edges, w, numbers(depth), numbers(sigma))) for w in (first, second)]
    assert ours[0] < ours[1]
    assert ours[1] - ours[0] == pytest.approx(published(second) - published(first), rel=1e-4)


def test_the_divergence_does_not_depend_on_sampling() -> None:
    def loss(intervals: int) -> float:
        edges = torch.linspace(2, 4, intervals + 1, dtype=torch.float64)[None]
        return float(
            dsnerf_loss(edges, surface_mass(edges, numbers(2.95), numbers(0.12)), numbers(3), numbers(0.1))
        )

    assert loss(100) == pytest.approx(loss(400), rel=0.02)


def test_rendered_depths_and_penalties() -> None:
    edges, weights = golden_ray()
    middles = 0.5 * (edges[:, 1:] + edges[:, :-1])
    assert float(rendered_depth(edges, weights)) == pytest.approx(float((weights * middles).sum()))
    assert 2.8 < float(rendered_depth(edges, weights, "median")) < 3.1
    error, scale, threshold = numbers(0.1, -0.5), numbers(2, 2), numbers(0.2, 0.2)
    assert float(penalty(error, scale, threshold, "squared")) == pytest.approx((0.05**2 + 0.25**2) / 2)
    assert float(penalty(error, scale, threshold, "absolute")) == pytest.approx(0.15)
    # Beyond 0.1: the tangent of the square.
    assert float(penalty(error, scale, threshold, "huber")) == pytest.approx(
        (0.05**2 + 0.1 * (0.5 - 0.1)) / 2
    )


def test_epsilon_is_given_in_units_of_the_capture() -> None:
    halved = torch.diag(torch.tensor([0.5, 0.5, 0.5, 1.0]))
    config = DepthLoss(depth_loss="swb", depth_epsilon=0.04)
    assert in_scene_units(config, halved).depth_epsilon == pytest.approx(0.02)
    part = replace(config, depth_relative=True)
    assert in_scene_units(part, halved) == part


def test_spread_anneals_and_grows_with_uncertainty() -> None:
    depth, sigma = numbers(2, 4), numbers(0.001, 0.5)
    swb = DepthLoss(depth_loss="swb", depth_epsilon=0.1, depth_anneal=3.0)
    assert spread(swb, depth, None, 0.0).tolist() == pytest.approx([0.3, 0.3])
    assert spread(swb, depth, None, 0.5).tolist() == pytest.approx([0.1 * 3**0.5] * 2)
    assert spread(swb, depth, sigma, 1.0).tolist() == pytest.approx([0.1, 0.5])
    urf = DepthLoss(depth_loss="urf", depth_epsilon=0.01, depth_relative=True)
    assert spread(urf, depth, None, 0.0).tolist() == pytest.approx([0.2, 0.4])
    assert spread(urf, depth, sigma, 1.0).tolist() == pytest.approx([0.02, 1.5])


@pytest.mark.parametrize("name", LOSSES)
def test_unknown_depths_and_padding_change_nothing(name: Any) -> None:
    edges, weights, depth = random_rays(6, 12)
    config = DepthLoss(depth_loss=name, depth_epsilon=0.1)
    alone = depth_terms(config, edges[:4], weights[:4], depth[:4])["depth"]
    with_unknown = depth.clone()
    with_unknown[4:] = torch.nan
    edges = torch.cat([edges, edges[:, -1:], edges[:, -1:]], 1)
    weights = torch.nn.functional.pad(weights, (0, 2)).requires_grad_()
    loss = depth_terms(config, edges, weights, with_unknown)["depth"]
    assert float(loss.detach()) == pytest.approx(float(alone), rel=1e-12)
    loss.backward()
    assert weights.grad is not None
    assert float(weights.grad[4:].abs().sum()) == 0
    assert float(weights.grad[:4].abs().sum()) > 0


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_known_is_zero_with_a_gradient(name: Any) -> None:
    edges, weights, depth = random_rays(3, 5)
    weights.requires_grad_()
    loss = depth_terms(DepthLoss(depth_loss=name), edges, weights, depth * torch.nan)["depth"]
    loss.backward()
    assert float(loss.detach()) == 0
    assert weights.grad is not None
    assert float(weights.grad.abs().sum()) == 0


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("where", [1e-3, 3.0, 1e6])
@pytest.mark.parametrize("density", [0.0, 1e-6, 1e6])
def test_extremes_are_finite(name: Any, where: float, density: float) -> None:
    edges = torch.linspace(2, 4, 33)[None].repeat(2, 1)
    field = torch.full((2, 32), density, requires_grad=True)
    weights = visible_weights(field, edges[:, 1:] - edges[:, :-1])
    for config in (
        DepthLoss(depth_loss=name, depth_epsilon=1e-6, depth_penalty="absolute"),
        DepthLoss(depth_loss=name, depth_epsilon=1e3, depth_statistic="median", depth_penalty="huber"),
    ):
        loss = depth_terms(config, edges, weights, torch.full((2,), where), progress=1.0)["depth"]
        (gradient,) = torch.autograd.grad(loss, field, retain_graph=True)
        assert bool(torch.isfinite(loss))
        assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize("name", LOSSES)
def test_descending_puts_the_surface_where_it_is(name: Any) -> None:
    edges = torch.linspace(2, 4, 65)[None]
    logarithm = torch.zeros(1, 64, requires_grad=True)
    optimiser = torch.optim.Adam([logarithm], lr=0.1)
    config = DepthLoss(depth_loss=name, depth_epsilon=0.1, depth_weight=1.0, depth_anneal=1.0)
    for _ in range(300):
        weights = visible_weights(logarithm.exp(), edges[:, 1:] - edges[:, :-1])
        optimiser.zero_grad()
        depth_terms(config, edges, weights, torch.tensor([3.2]))["depth"].backward()
        optimiser.step()
    weights = weights.detach()
    assert float(rendered_depth(edges, weights)) == pytest.approx(3.2, abs=0.1)
    if name != "l2":
        before = weights[0, edges[0, 1:] < 2.85].sum()
        assert float(before) < 0.05


def test_the_sky_is_empty() -> None:
    weights = torch.tensor([[0.5, 0.1], [0.2, 0.2], [1.0, 0.0]])
    assert float(sky_loss(weights, torch.tensor([True, True, False]))) == pytest.approx((0.26 + 0.08) / 2)
    assert float(sky_loss(weights, torch.zeros(3, dtype=torch.bool))) == 0
    config = DepthLoss(depth_sky_weight=2.0)
    edges, depth = torch.tensor([[1.0, 2, 3]]).repeat(3, 1), torch.full((3,), torch.nan)
    terms = depth_terms(config, edges, weights, depth, sky=torch.tensor([False, False, True]))
    assert {name: float(value) for name, value in terms.items()} == {"sky": 2.0}


def test_off_is_nothing() -> None:
    edges, weights, depth = random_rays(2, 3)
    assert depth_terms(DepthLoss(), edges, weights, depth) == {}
    assert not DepthLoss(depth_loss="swb", depth_weight=0.0).needs_depth
    assert depth_loss_of(NGPConfig(depth=DepthLoss(depth_loss="swb"))).needs_depth
    assert not depth_loss_of(NGPConfig()).needs_depth
    assert not depth_loss_of(object()).needs_depth


@pytest.mark.parametrize(
    "wrong", [{"depth_epsilon": 0.0}, {"depth_beta": -1.0}, {"depth_anneal": 0.5}, {"depth_weight": -1.0}]
)
def test_numbers_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DepthLoss(**wrong)  # pyright: ignore
