"""Looking twice along rays: where samples go, that parts are the whole, and what is seen of a known field."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lumigraph.geometry.rays import Rays
from lumigraph.rendering.volume.coarse_fine import CoarseFine, Draws, FieldSamples, Seen, rendered

SAMPLING = CoarseFine(samples=16, importance=24, activation=torch.relu)


def some_rays(count: int = 7) -> Rays:
    generator = torch.Generator().manual_seed(0)
    origins = torch.zeros(count, 3)
    slopes = 0.2 * torch.randn(count, 2, generator=generator)
    one = torch.ones(count)
    return Rays(origins, torch.cat([slopes, one[:, None]], 1), 0.01 * one, 2 * one, 6 * one)


class Wall:
    """Empty before depth 4, opaque red behind it; counts the samples it was asked for."""

    def __init__(self, rays: Rays) -> None:
        self.rays, self.asked = rays, 0

    def __call__(self, part: slice, t: Tensor) -> FieldSamples:
        self.asked += t.numel()
        depth = self.rays[part].points(t)[..., 2]
        red = torch.tensor([1.0, 0, 0]).expand(*t.shape, 3)
        return FieldSamples(1e3 * (depth > 4), red, {"depth": depth[..., None]})

    def density(self, part: slice, t: Tensor) -> Tensor:
        return self(part, t).density


def traced(sampling: CoarseFine, rays: Rays, draws: Draws | None, learn: bool) -> tuple[Seen | None, Seen]:
    wall = Wall(rays)
    return sampling.trace(rays, wall, wall.density, wall if learn else None, draws)


def test_the_second_look_goes_where_the_first_has_found_something() -> None:
    first, seen = traced(SAMPLING, some_rays(), None, learn=True)
    assert first is not None
    assert seen.t.shape == (7, 40)
    assert (seen.t.diff(dim=1) >= 0).all()
    even = torch.linspace(2, 6, 16)
    assert all((seen.t - t).abs().min(1).values.max() < 1e-6 for t in even)
    assert ((seen.t > 3.7) & (seen.t < 4.5)).float().mean() > 0.6
    torch.testing.assert_close(seen.rgb, torch.tensor([1.0, 0, 0]).expand(7, 3))
    torch.testing.assert_close(seen.mean_along("depth")[:, 0], torch.full((7,), 4.0), atol=0.05, rtol=0)
    shown = rendered(seen, some_rays(), some_rays(), "white")
    assert shown.depth is not None
    torch.testing.assert_close(shown.depth, torch.full((7,), 4.0), atol=0.05, rtol=0)


def test_a_guide_leads_to_the_same_samples() -> None:
    _, learnt = traced(SAMPLING, some_rays(), None, learn=True)
    first, guided = traced(SAMPLING, some_rays(), None, learn=False)
    assert first is None
    assert torch.equal(guided.t, learnt.t)


def test_a_single_look() -> None:
    first, seen = traced(replace(SAMPLING, importance=0), some_rays(), None, learn=True)
    assert first is None
    torch.testing.assert_close(seen.t, torch.linspace(2, 6, 16).expand(7, 16))


def test_parts_are_the_whole() -> None:
    """Without gradients rays go through the field some at a time, and nothing else changes."""
    rays = some_rays(700)
    _, whole = traced(SAMPLING, rays, None, learn=False)
    with torch.no_grad():
        wall = Wall(rays)
        _, parts = SAMPLING.trace(rays, wall, wall.density, None, None)
    assert wall.asked == 700 * (16 + 40)
    for name in ("t", "weights", "rgb", "opacity"):
        assert torch.equal(getattr(parts, name), getattr(whole, name)), name
    assert torch.equal(parts.extras["depth"], whole.extras["depth"])


def test_what_lies_behind_the_last_sample() -> None:
    """Density 1 between 2 and 6: opaque with an endless last interval, 1 - exp(-length) with one like the others."""

    def fog(part: slice, t: Tensor) -> FieldSamples:
        return FieldSamples(torch.ones_like(t), torch.ones(*t.shape, 3))

    rays = some_rays()
    endless = SAMPLING.look(fog, rays, SAMPLING.even(rays, None), None)
    torch.testing.assert_close(endless.opacity, torch.ones(7))
    bounded = replace(SAMPLING, beyond=None)
    seen = bounded.look(fog, rays, bounded.even(rays, None), None)
    length = rays.directions.norm(dim=1) * 4 * 16 / 15
    torch.testing.assert_close(seen.opacity, 1 - torch.exp(-length))


@pytest.mark.parametrize("perturb", [0.0, 1.0])
def test_draws_move_samples_within_their_bins(perturb: float) -> None:
    rays = some_rays()

    def depths(seed: int) -> Tensor:
        return traced(SAMPLING, rays, Draws(torch.Generator().manual_seed(seed), perturb), False)[1].t

    assert torch.equal(depths(1), depths(1))
    assert torch.equal(depths(1), depths(2)) == (perturb == 0)
    half = 0.5 * 4 / 15
    moved = SAMPLING.even(rays, Draws(torch.Generator().manual_seed(1), perturb))
    assert (moved - torch.linspace(2, 6, 16)).abs().max() <= perturb * half + 1e-6


def test_noise_is_added_before_the_activation() -> None:
    rays = some_rays()
    t = SAMPLING.even(rays, None)
    draws = Draws(torch.Generator().manual_seed(0), perturb=0.0, noise=1.0)

    def empty(part: slice, t: Tensor) -> FieldSamples:
        return FieldSamples(torch.zeros_like(t), torch.ones(*t.shape, 3))

    assert SAMPLING.look(empty, rays, t, None).opacity.max() == 0
    assert SAMPLING.look(empty, rays, t, draws).opacity.min() > 0.5
