"""Steps, cascades, threshold and first weights of the preset "paper" against the published ones, in the units of a
scene whose core is the cube of side 1 (instant-ngp's and ngp_pl's `scale` is half the side of the largest cube)."""

import math
from dataclasses import replace

import pytest
import torch

from lumigraph.configs.ngp import PRESETS
from lumigraph.geometry.bounds import Bounds
from lumigraph.rendering.occupancy import DIAGONAL, OPAQUE_STEP
from lumigraph.rendering.volume import reference
from lumigraph.rendering.volume.samples import CoreRays
from lumigraph.teachers.ngp import NGP

HALF = 0.5
SHORTEST, THRESHOLD = 1.691456e-3, 5.91206676
"""sqrt(3) / 1024, and 0.01 over it."""


def paper(cascades: int, unbounded: bool) -> NGP:
    """Its networks are made small: sizes of steps do not depend on them."""
    config = replace(PRESETS["paper"], cascades=cascades, levels=2, log2_entries=8, finest_resolution=32)
    return NGP(config, Bounds(torch.full((3,), -HALF), torch.full((3,), HALF), unbounded), "white", 1)


def test_networks_begin_as_tiny_cuda_nns_do() -> None:
    """With Glorot's weights, whose bound between layers of 64 is sqrt(6 / 128); also when training starts over."""
    torch.manual_seed(0)
    renderer = paper(5, unbounded=False)
    for _ in range(2):
        largest = float(renderer.colour[2].weight.detach().abs().max())  # pyright: ignore
        assert largest == pytest.approx(math.sqrt(6 / 128), rel=0.02)
        assert renderer.recover(7)
    assert {PRESETS[name].first_weights for name in ("mobile-r2l", "mobile-r2l-llff")} == {"glorot"}


def test_a_bounded_scene_has_one_cascade_and_one_step() -> None:
    renderer = paper(5, unbounded=False)
    assert len(renderer.occupancy.occupied) == 1
    assert renderer.rule.shortest * HALF == pytest.approx(SHORTEST, rel=1e-6)
    assert renderer.rule.longest == renderer.rule.shortest
    assert renderer.rule.growth == 0
    # 1 - exp(-threshold * step) is about the part of the light that makes a cell count.
    assert renderer.occupancy.threshold / HALF == pytest.approx(THRESHOLD, rel=1e-8)
    assert renderer.occupancy.threshold * renderer.rule.shortest == pytest.approx(OPAQUE_STEP)


@pytest.mark.parametrize(
    ("scale", "cascades", "longest"),
    [(0.5, 1, 1.353165e-2), (4, 4, math.sqrt(3) * 8 / 128), (16, 6, 0.4330127), (64, 8, math.sqrt(3))],
)
def test_cascades_reach_the_scale_and_steps_stay_in_their_limits(
    scale: float, cascades: int, longest: float
) -> None:
    renderer = paper(cascades, unbounded=True)
    assert renderer.occupancy.occupied.shape == (cascades, 128, 128, 128)
    assert HALF * 2 ** (cascades - 1) == scale
    assert max(1 + math.ceil(math.log2(2 * scale)), 1) == cascades
    assert renderer.rule.shortest * HALF == pytest.approx(SHORTEST, rel=1e-6)
    assert renderer.rule.longest * HALF == pytest.approx(longest, rel=1e-6)
    assert renderer.rule.growth == 1 / 256
    assert renderer.occupancy.threshold / HALF == pytest.approx(THRESHOLD, rel=1e-8)


def test_marched_steps_follow_the_rule() -> None:
    """Along the diagonal of the core: 1024 equal steps where the scene is bounded; t / 256 beyond that elsewhere."""
    corner = torch.ones(1, 3)
    rays = CoreRays(
        -corner, corner / math.sqrt(3), torch.zeros(1), torch.full((1,), 1000.0), speed=torch.ones(1)
    )
    bounded = paper(1, unbounded=False)
    everything = torch.ones(1, 8, 8, 8, dtype=torch.uint8)
    _, t, dt, _ = reference.march(rays, everything, bounded.rule, False, torch.zeros(1))
    assert len(t) in (1024, 1025)
    torch.testing.assert_close(dt * HALF, torch.full_like(dt, SHORTEST))
    assert float(t[-1] + dt[-1]) == pytest.approx(DIAGONAL, rel=2e-3)
    wide = paper(6, unbounded=True)
    _, t, dt, _ = reference.march(
        rays, torch.ones(6, 8, 8, 8, dtype=torch.uint8), wide.rule, True, torch.zeros(1)
    )
    torch.testing.assert_close(dt * HALF, (t * HALF / 256).clamp(SHORTEST, 0.4330127))
    assert float(dt.max()) > 10 * float(dt.min())


@pytest.mark.parametrize(
    ("name", "rays", "steps", "scale", "growth"),
    [("mobile-r2l", 16_384, 30_000, 0.5, 1.3195079), ("mobile-r2l-llff", 8192, 20_000, 4, 1.5157166)],
)
def test_the_recipes_of_mobile_r2ls_teachers(
    name: str, rays: int, steps: int, scale: float, growth: float
) -> None:
    """Rays and steps, the learning rate and what it falls to by a cosine, and the growth of the grid's levels."""
    config = PRESETS[name]
    assert (config.first_rays, config.most_rays, config.training_steps) == (rays, rays, steps)
    assert (config.lr, config.network_lr, config.schedule, config.hold) == (0.02, 0.02, "cosine", 0)
    assert config.lr * config.final_lr == pytest.approx(0.02 / 30)
    assert config.opacity_weight == 1e-3
    found = (config.finest_resolution / config.base_resolution) ** (1 / (config.levels - 1))
    assert found == pytest.approx(growth, rel=1e-6)
    if scale > 0.5:  # else the scene is bounded, and has one cascade
        assert HALF * 2 ** (config.cascades - 1) == scale


def test_rays_may_come_from_one_photo() -> None:
    field = paper(1, unbounded=False)
    assert not field.pixel_sampling().same_image
    field.config = replace(field.config, same_image=True)
    assert field.pixel_sampling().same_image
