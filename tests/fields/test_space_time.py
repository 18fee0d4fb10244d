"""Features of points that move: golden values, what they are where nothing moves, and gradients."""

import pytest
import torch
from torch import nn

from lumigraph.fields.hashgrid import GridLayout
from lumigraph.fields.space_time import PAIRS, FactorisedFeatures, SpaceTimeGrids, WarpedFeatures

SPACE, SPACE_TIME = GridLayout(3, 2, 10, 4, 16), GridLayout(2, 2, 8, 4, 8)


def points(count: int, numbers: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 3, generator=generator), torch.rand(count, numbers, generator=generator)


def warped(ambient: int = 3) -> WarpedFeatures:
    torch.manual_seed(0)
    features = WarpedFeatures(SPACE, SPACE_TIME, 0.5, hidden=8, ambient=ambient)
    for grid in (features.grid, *features.space_time.grids):
        nn.init.normal_(grid.table)
    return features


@torch.no_grad()
def test_grids_look_along_two_axes_of_space_and_time() -> None:
    """Each is that hash grid at (first axis, second axis, number times its share), three for each number."""
    grids = SpaceTimeGrids(SPACE_TIME, 0.25, numbers=2)
    for grid in grids.grids:
        nn.init.normal_(grid.table)
    where, standing = points(9, 2)
    looks = [(number, *pair) for number in (0, 1) for pair in PAIRS]
    for found, grid, (number, first, second) in zip(grids(where, standing), grids.grids, looks, strict=True):
        place = torch.stack([where[:, first], where[:, second], 0.25 * standing[:, number]], 1)
        assert torch.equal(found, grid(place))


@torch.no_grad()
@pytest.mark.parametrize("kind", [WarpedFeatures, FactorisedFeatures])
def test_a_number_whose_grids_are_empty_changes_nothing(kind: type) -> None:
    torch.manual_seed(1)
    more = {"hidden": 8, "ambient": 2} if kind is WarpedFeatures else {}
    features = kind(SPACE, SPACE_TIME, 0.5, 2, **more)
    for grid in (features.grid, *features.space_time.grids[:3]):
        nn.init.normal_(grid.table)
    for grid in features.space_time.grids[3:]:
        nn.init.zeros_(grid.table)
    where, standing = points(6, 2)
    found = features(where, standing)
    assert found.shape == (6, features.width)
    other = torch.stack([standing[:, 0], standing[:, 1].flip(0)], 1)
    assert torch.equal(features(where, other), found)
    assert not torch.equal(features(where, standing.flip(1)), found)


@torch.no_grad()
def test_products_count_from_one() -> None:
    features = FactorisedFeatures(SPACE, SPACE_TIME, 0.5)
    where, times = points(5)
    for grid, value in zip(features.space_time.grids, (0.5, 1.0, -0.5), strict=True):
        nn.init.constant_(grid.table, value)
    torch.testing.assert_close(features(where, times)[:, SPACE.width :], torch.full((5, 4), 0.5))
    nn.init.constant_(features.space_time.grids[1].table, 0.0)
    nn.init.constant_(features.space_time.grids[0].table, 0.0)
    nn.init.constant_(features.space_time.grids[2].table, 0.0)
    still = features(where, times)
    assert torch.equal(still[:, : SPACE.width], features.grid(where))
    assert not still[:, SPACE.width :].any()


@torch.no_grad()
def test_a_warp_asks_the_grid_of_space_elsewhere() -> None:
    """Motion is in halves of the cube, and a warp of zero weights leaves points where they are."""
    features = warped()
    where, times = points(7)
    moved = features.motion(torch.cat(features.space_time(where, times), 1))
    found = features(where, times)
    torch.testing.assert_close(found[:, :-3], features.grid(where + 0.5 * moved[:, :3]))
    assert torch.equal(found[:, -3:], moved[:, 3:])
    nn.init.zeros_(features.motion[-1].weight)
    assert torch.equal(features(where, times)[:, :-3], features.grid(where))


def test_width_is_that_of_the_features() -> None:
    where, times = points(4)
    for features in (warped(0), warped(3), FactorisedFeatures(SPACE, SPACE_TIME, 0.5)):
        assert features(where, times).shape == (4, features.width)


@pytest.mark.parametrize("kind", [WarpedFeatures, FactorisedFeatures])
def test_gradients_reach_every_parameter(kind: type) -> None:
    torch.manual_seed(1)
    more = {"hidden": 8, "ambient": 2} if kind is WarpedFeatures else {}
    features = kind(SPACE, SPACE_TIME, 0.5, **more)
    for grid in (features.grid, *features.space_time.grids):
        nn.init.normal_(grid.table)
    where, times = points(50)
    features(where, times).square().sum().backward()
    known = {features.grid.table, *features.space_time.parameters(), *features.networks}
    assert known == set(features.parameters())
    for parameter in known:
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()
        assert parameter.grad.any()


def test_reset_forgets() -> None:
    features = warped()
    before = [parameter.detach().clone() for parameter in features.parameters()]
    features.reset()
    assert not any(torch.equal(old, new) for old, new in zip(before, features.parameters(), strict=True))
    assert features.space_time.grids[0].table.abs().max() < 1e-3
