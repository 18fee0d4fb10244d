import dataclasses
import math

import pytest
import torch

from lumigraph.errors import LumigraphError
from lumigraph.geometry.fitting import fit_placement
from lumigraph.geometry.trajectories import cameras_path, orbit, spiral


def heights(path, cameras):
    placement = fit_placement(cameras)
    offsets = path.positions.double() - placement.focus
    return torch.asin((offsets @ placement.up) / offsets.norm(dim=-1)), offsets.norm(dim=-1)


def test_orbit_is_a_turn_table_that_looks_at_the_focus(inward):
    path = orbit(inward, 12, elevation=30.0).check()
    elevation, radius = heights(path, inward)
    assert torch.allclose(elevation, torch.full((12,), math.pi / 6).double(), atol=1e-5)
    assert torch.allclose(radius, torch.full((12,), 4.0).double(), atol=1e-4)
    xy, _ = path.project(fit_placement(inward).focus.float().expand(12, 3), torch.arange(12))
    assert torch.allclose(xy, inward.principal[:1].expand(12, 2), atol=1e-3)
    steps = (path.positions - path.positions.roll(1, 0)).norm(dim=-1)
    assert torch.allclose(steps, steps[:1].expand(12), rtol=1e-4)
    assert path.ids.tolist() == [-1] * 12
    assert torch.equal(path.focal, inward.focal[:12])


def test_orbit_stays_within_a_partial_capture(make_cameras, ring_poses):
    cameras = make_cameras(ring_poses(20, torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]), arc=2.0))
    seen, shown = fit_placement(cameras), fit_placement(orbit(cameras, 40))
    assert shown.azimuth[1] - shown.azimuth[0] < seen.azimuth[1] - seen.azimuth[0]
    assert shown.azimuth[1] - shown.azimuth[0] > 1.5


def test_spiral_rises_and_sinks_within_the_captured_heights(inward):
    path = spiral(inward, 40).check()
    elevation, _ = heights(path, inward)
    assert 0.3 <= float(elevation.min()) < 0.4
    assert 0.6 < float(elevation.max()) <= 0.7


@pytest.mark.parametrize("make", [orbit, spiral])
def test_forward_facing_paths_sway_and_look_ahead(forward_facing, make):
    path = make(forward_facing, 24).check()
    assert float(path.forwards[:, 1].min()) > 0.8
    assert 0.5 < float(path.positions[:, 0].max()) <= 1.1
    wide = orbit(forward_facing, 8, radius=7.0)
    _, radius = heights(wide, forward_facing)
    assert torch.allclose(radius, torch.full((8,), 7.0).double(), atol=1e-4)


@pytest.mark.parametrize("make", [orbit, spiral, cameras_path])
def test_one_camera_is_enough(inward, make):
    path = make(inward[:1], 5).check()
    assert len(path) == 5


@pytest.mark.parametrize("loop", [False, True])
def test_path_through_cameras_meets_them(inward, loop):
    timed = dataclasses.replace(inward[:5], times=torch.linspace(0, 1, 5), attributes=torch.rand(5, 2))
    frames = 5 * 4 if loop else 4 * 4 + 1
    path = cameras_path(timed, frames, loop=loop).check()
    kept = path[torch.arange(0, frames, 4)]
    assert torch.allclose(kept.camera_to_world, timed.camera_to_world, atol=1e-5)
    assert torch.allclose(kept.times, timed.times, atol=1e-6)
    assert torch.allclose(kept.attributes, timed.attributes, atol=1e-6)
    steps = (path.positions[1:] - path.positions[:-1]).norm(dim=-1)
    assert float(steps.max()) < 4.0 * float(steps.median())


def test_path_through_cameras_of_two_sizes_keeps_the_field_of_view(inward):
    mixed = dataclasses.replace(
        inward[:2],
        size=torch.tensor([[64, 48], [128, 96]]),
        focal=torch.tensor([[90.0, 80.0], [180.0, 160.0]]),
    )
    path = cameras_path(mixed, 3)
    assert torch.allclose(path.focal, torch.tensor([[90.0, 80.0]]).expand(3, 2))
    assert path.size.tolist() == [[64, 48]] * 3


@pytest.mark.parametrize("make", [orbit, spiral, cameras_path])
def test_empty_paths_are_refused(inward, make):
    with pytest.raises(LumigraphError, match="empty"):
        make(inward, 0)
    with pytest.raises(LumigraphError, match="camera"):
        make(inward[:0], 3)
