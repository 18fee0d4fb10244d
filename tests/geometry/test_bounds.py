import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lumigraph.errors import LumigraphError
from lumigraph.geometry.bounds import Bounds, contract, ngp_bounds, shrinkage, uncontract, unit_cube

BOX = Bounds(torch.tensor([-1.0, -2.0, 0.0]), torch.tensor([3.0, 2.0, 1.0]))
NORMS = ["linf", "l2"]


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


def test_the_unit_cube_shrinks_lengths_across():
    """Distances across the direction from the centre shrink as that from the centre does."""
    points = torch.tensor([[0.2, 0.4, -0.1], [0.9, 0, 0], [3.0, 1.0, -2.0], [-400.0, 20, 7]])
    for unbounded in (False, True):
        inside = points if unbounded else points[:2]
        cubed = unit_cube(inside, unbounded)
        shrunk = (cubed - 0.5).norm(dim=1) / inside.norm(dim=1)
        torch.testing.assert_close(shrinkage(cubed, unbounded), shrunk, rtol=1e-3, atol=0)
