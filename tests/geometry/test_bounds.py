import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lumigraph.errors import LumigraphError
from lumigraph.geometry.bounds import Bounds, contract, fit_bounds, fit_near_far, ngp_bounds, uncontract
from lumigraph.geometry.rays import Rays

BOX = Bounds(torch.tensor([-1.0, -2.0, 0.0]), torch.tensor([3.0, 2.0, 1.0]))
NORMS = ["linf", "l2"]


def make_rays(origins, directions, near=0.0, far=100.0) -> Rays:
    origins, directions = torch.tensor(origins), torch.tensor(directions)
    count = len(origins)
    return Rays(
        origins, directions, torch.zeros(count), torch.full((count,), near), torch.full((count,), far)
    )


@pytest.mark.parametrize("norm", NORMS)
def test_contraction_follows_the_paper(norm):
    inside = torch.tensor([[0.1, -0.5, 0.3], [0.0, 0.0, 0.0]])
    assert torch.equal(contract(inside, norm), inside)
    outside = torch.tensor([[0.0, 4.0, 0.0], [-10.0, 0.0, 0.0]])
    expected = torch.tensor([[0.0, 1.75, 0.0], [-1.9, 0.0, 0.0]])
    assert torch.allclose(contract(outside, norm), expected)
    slanted = contract(torch.tensor([[3.0, 4.0, 0.0]]), norm)[0]
    reached = {"linf": [0.75 * 1.75, 1.75, 0.0], "l2": [0.6 * 1.8, 0.8 * 1.8, 0.0]}[norm]
    assert slanted.tolist() == pytest.approx(reached)


@pytest.mark.parametrize("norm", NORMS)
@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=3))
def test_uncontract_inverts_contract(norm, point):
    point = torch.tensor([point], dtype=torch.float64)
    assert torch.allclose(uncontract(contract(point, norm), norm), point, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("norm", NORMS)
def test_contraction_is_finite_with_finite_gradient_at_extremes(norm):
    values = [0.0, 1e-38, 1.0, 1.0 + 1e-7, 1e10, 1e20, 3e38, math.inf]
    points = torch.tensor([[a, -b, a] for a in values for b in values], requires_grad=True)
    contracted = contract(points, norm)
    contracted.sum().backward()
    assert bool(torch.isfinite(contracted).all())
    assert bool(torch.isfinite(points.grad).all())
    assert float(contracted.detach().abs().max()) <= 2.0
    assert bool(torch.isfinite(uncontract(torch.full((1, 3), 2.0), norm)).all())


@pytest.mark.parametrize("norm", NORMS)
def test_bounds_contract_about_their_box(norm):
    core = Bounds(BOX.lower, BOX.upper, unbounded=True)
    assert torch.allclose(core.contract(core.upper[None], "linf"), torch.ones(1, 3))
    points = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * 10
    assert torch.allclose(core.uncontract(core.contract(points, norm), norm), points, atol=1e-3)
    assert torch.allclose(core.denormalise(core.normalise(points)), points, atol=1e-5)


def test_intersection_with_the_box():
    rays = make_rays(
        [[-5.0, 0.0, 0.5], [0.0, 0.0, 0.5], [-5.0, 9.0, 0.5], [0.0, 0.0, -1.0], [9.0, 0.0, 0.5]],
        [[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.5], [1.0, 0.0, 0.0]],
    )
    near, far = BOX.intersect(rays)
    assert near[[0, 1, 3]].tolist() == pytest.approx([2.0, 0.0, 2.0])
    assert far[[0, 1, 3]].tolist() == pytest.approx([4.0, 2.0, 4.0])
    assert torch.equal(near[[2, 4]], far[[2, 4]])
    near, far = BOX.intersect(make_rays([[-5.0, 0.0, 0.5]], [[2.0, 0.0, 0.0]], near=2.5, far=3.0))
    assert (float(near), float(far)) == (2.5, 3.0)
    unbounded = Bounds(BOX.lower, BOX.upper, unbounded=True)
    assert torch.equal(unbounded.intersect(rays)[1], rays.far)


def test_intersection_agrees_with_sampling():
    generator = torch.Generator().manual_seed(1)
    origins = torch.randn(300, 3, generator=generator) * 4
    directions = torch.randn(300, 3, generator=generator)
    directions[::7, 0] = 0.0
    rays = make_rays(origins.tolist(), directions.tolist(), far=20.0)
    near, far = BOX.intersect(rays)
    assert bool(torch.isfinite(near).all() and torch.isfinite(far).all() and (far >= near).all())
    t = torch.linspace(0, 20, 4001)
    points = rays.points(t.expand(300, -1))
    inside = ((points >= BOX.lower) & (points <= BOX.upper)).all(-1)
    within = (t >= near[:, None] - 1e-4) & (t <= far[:, None] + 1e-4)
    assert bool((~inside | within).all())
    core = (t >= near[:, None] + 1e-4) & (t <= far[:, None] - 1e-4)
    assert bool((~core | inside).all())


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=6, max_size=6))
def test_intersection_is_always_finite(values):
    near, far = BOX.intersect(make_rays([values[:3]], [values[3:]]))
    assert bool(torch.isfinite(near).all() and torch.isfinite(far).all())
    assert float(far) >= float(near)


def test_instant_ngp_box():
    box = ngp_bounds(4)
    assert box.half_extent.tolist() == pytest.approx([2 / 0.33] * 3)
    assert box.centre.tolist() == [0.0] * 3
    moved = ngp_bounds(1, scale=0.5, offset=(0.25, 0.5, 0.5))
    assert moved.centre.tolist() == pytest.approx([0.5, 0.0, 0.0])
    for bad in ((0.0, 0.33), (math.nan, 0.33), (4, 0.0)):
        with pytest.raises(LumigraphError, match="positive"):
            ngp_bounds(*bad)


def test_json_round_trip_and_refusals():
    again = Bounds.from_json(json.loads(json.dumps(BOX.to_json())))
    assert torch.equal(again.lower, BOX.lower)
    assert torch.equal(again.upper, BOX.upper)
    good = BOX.to_json()
    bad = [
        None,
        {},
        {**good, "lower": [1, 2]},
        {**good, "upper": "x"},
        {**good, "unbounded": 1},
        {**good, "upper": good["lower"]},
        {**good, "upper": [math.nan, 1, 1]},
    ]
    for data in bad:
        with pytest.raises(LumigraphError, match=r"scene\.json"):
            Bounds.from_json(data, where="scene.json")


def test_fitted_bounds_hold_the_focus_and_what_is_seen(inward, forward_facing):
    core = fit_bounds(inward)
    assert core.unbounded
    assert core.centre.tolist() == pytest.approx([1.0, -2.0, 0.5], abs=1e-4)
    assert float(core.half_extent[0]) == pytest.approx(4 * math.sqrt(32 / 90 * 24 / 80), rel=1e-3)
    box = fit_bounds(inward, unbounded=False)
    assert not box.unbounded
    assert bool((box.half_extent > core.half_extent).all())
    ahead = fit_bounds(forward_facing)
    assert float(ahead.centre[1]) > 2.0


def test_fitted_depths_enclose_the_box(inward):
    box = fit_bounds(inward, unbounded=False)
    near, far = fit_near_far(inward, box)
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3) * box.half_extent + box.centre
    for i in range(0, 30, 7):
        _, depth = inward.project(corners, torch.full((8,), i))
        assert float(far[i]) == pytest.approx(float(depth.max()), rel=1e-4)
        assert float(near[i]) <= max(float(depth.min()), 0.05 * 4.0) + 1e-4
    near, far = fit_near_far(inward, fit_bounds(inward))
    assert bool((near > 0).all() and (far > 50).all())


def test_no_camera_is_refused(inward):
    with pytest.raises(LumigraphError, match="without cameras"):
        fit_bounds(inward[:0])
