import dataclasses
import math

import numpy as np
import pytest
import torch

from lumigraph.errors import LumigraphError
from lumigraph.geometry.conventions import opencv_to_opengl
from lumigraph.geometry.fitting import average_pose, fit_placement
from lumigraph.geometry.ndc import ForwardFrame
from lumigraph.geometry.rotations import look_at
from lumigraph.geometry.trajectories import (
    cameras_path,
    ellipse,
    llff_spiral,
    nerf_pl_spherical,
    nerf_pl_spiral,
    orbit,
    spiral,
)


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


# ---------------------------------------------------------------- published paths, by their formulas in numpy


def opengl(cameras):
    """Homogeneous poses with axes right, up, back, in the frame of their average, as the published code has them."""
    poses = opencv_to_opengl(cameras.camera_to_world.double()).numpy()
    last = np.broadcast_to([0.0, 0.0, 0.0, 1.0], (len(poses), 1, 4))
    poses = np.concatenate([poses, last], 1)
    average = np.eye(4)
    average[:3] = view_matrix(poses[:, :3, 2].sum(0), poses[:, :3, 1].sum(0), poses[:, :3, 3].mean(0))
    return np.linalg.inv(average) @ poses, average


def normalise(vector):
    return vector / np.linalg.norm(vector)


def view_matrix(back, up, position):
    back = normalise(back)
    right = normalise(np.cross(up, back))
    return np.stack([right, np.cross(back, right), back, position], 1)


def placed(average, poses):
    """Back from the frame of the average camera."""
    return np.stack([(average @ np.concatenate([pose, [[0, 0, 0, 1]]]))[:3] for pose in poses])


def published_spiral(poses, near, far, count, flat):
    up, centre = normalise(poses[:, :3, 1].sum(0)), np.eye(4)[:3]
    focus = 1.0 / (0.25 / near + 0.75 / (5.0 * far))
    radii, turns = np.percentile(np.abs(poses[:, :3, 3]), 90, 0), 2
    if flat:
        centre[:, 3] += -0.1 * near * centre[:, 2]
        radii[2], turns = 0.0, 1
    path = []
    for angle in np.linspace(0.0, 2 * np.pi * turns, count + 1)[:-1]:
        offset = np.array([np.cos(angle), -np.sin(angle), -np.sin(0.5 * angle)]) * radii
        position = centre @ [*offset, 1.0]
        path.append(view_matrix(position - centre @ [0, 0, -focus, 1.0], up, position))
    return path


@pytest.mark.parametrize("flat", [False, True])
def test_llff_spiral_is_the_published_formula(side_by_side, flat):
    poses, average = opengl(side_by_side)
    wanted = placed(average, published_spiral(poses, 2.0, 6.0, 24, flat))
    path = llff_spiral(side_by_side, 24, turns=1 if flat else 2, flat=flat).check()
    np.testing.assert_allclose(opencv_to_opengl(path.camera_to_world).numpy(), wanted, atol=2e-5)
    # Closed: the step from the last pose to the first is like the others.
    steps = (path.positions - path.positions.roll(1, 0)).norm(dim=-1)
    assert float(steps[0]) < 1.5 * float(steps.max())
    assert float((path.forwards @ side_by_side.forwards.mean(0)).min()) > 0.8
    if not flat:
        assert torch.equal(path.camera_to_world, spiral(side_by_side, 24).camera_to_world)


def test_nerf_pl_spiral_is_the_published_formula(side_by_side):
    poses, average = opengl(side_by_side)
    radii, wanted = np.percentile(np.abs(poses[:, :3, 3]), 90, axis=0), []
    for t in np.linspace(0, 4 * np.pi, 31)[:-1]:
        centre = np.array([np.cos(t), -np.sin(t), -np.sin(0.5 * t)]) * radii
        wanted.append(view_matrix(centre - [0, 0, -3.5], np.array([0.0, 1.0, 0.0]), centre))
    frame = ForwardFrame(average_pose(side_by_side).float(), (0.5, 0.5), 1.0)
    path = nerf_pl_spiral(side_by_side, frame, 30).check()
    np.testing.assert_allclose(
        opencv_to_opengl(path.camera_to_world).numpy(), placed(average, wanted), atol=2e-5
    )


def test_nerf_pl_spherical_path_is_the_published_formula(make_cameras, ring_poses):
    # Not quite all round: where all cancels, it is rounding that says which way the average camera is turned.
    poses = ring_poses(30, torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.2, 0.1, 1.0]), arc=5.5)
    inward = make_cameras(poses)
    _, average = opengl(inward)
    radius, phi, wanted = 1.1 * 2.0, -np.pi / 5, []
    for theta in np.linspace(0, 2 * np.pi, 13)[:-1]:
        shift = np.eye(4)
        shift[1:3, 3] = -0.9 * radius, radius
        tilt = np.eye(4)
        tilt[1:3, 1:3] = [[np.cos(phi), -np.sin(phi)], [np.sin(phi), np.cos(phi)]]
        turn = np.eye(4)
        turn[[0, 0, 2, 2], [0, 2, 0, 2]] = np.cos(theta), -np.sin(theta), np.sin(theta), np.cos(theta)
        swap = np.array([[-1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
        wanted.append((swap @ turn @ tilt @ shift)[:3])
    path = nerf_pl_spherical(inward, 12).check()
    np.testing.assert_allclose(
        opencv_to_opengl(path.camera_to_world).numpy(), placed(average, wanted), atol=2e-5
    )
    # All look down, by as much; the axis of the average camera is up here, since cameras stand all round.
    down = path.forwards.double() @ average_pose(inward)[:, 2]
    assert down.numpy() == pytest.approx(math.sin(math.pi / 5), abs=1e-5)
    assert float(fit_placement(inward).up @ average_pose(inward)[:, 2]) < -0.9


def test_ellipse_holds_the_height_and_the_extent_of_the_capture(inward, make_cameras):
    wide = inward.camera_to_world.clone()
    placement = fit_placement(inward)
    offsets = wide[:, :, 3] - placement.focus.float()
    wide[:, :, 3] += (offsets @ placement.east.float())[:, None] * placement.east.float()
    eyes = wide[:, :, 3].double()
    cameras = make_cameras(look_at(eyes, placement.focus, placement.up))
    path = ellipse(cameras, 40).check()
    local = path.positions.double() - eyes.mean(0)
    normal = path.ups.double().mean(0)
    normal = normal / normal.norm()
    steps = (path.positions - path.positions.roll(1, 0)).norm(dim=-1)
    assert torch.allclose(steps, steps.mean().expand(40), rtol=0.02)  # chords of equal arcs
    along = local @ placement.east
    spread = ((eyes - placement.focus) @ placement.east).abs()
    assert float(along.max()) == pytest.approx(float(torch.quantile(spread, 0.9)), rel=0.1)
    xy, depth = path.project(placement.focus.float().expand(40, 3), torch.arange(40))
    assert torch.allclose(xy, cameras.principal[:1].expand(40, 2), atol=1e-2)
    assert float(depth.min()) > 0
    assert float((path.ups.double() @ placement.up).min()) > 0.5


def test_paths_that_need_another_capture_are_refused(inward, forward_facing, make_cameras, ring_poses):
    with pytest.raises(LumigraphError, match="spiral"):
        ellipse(forward_facing, 4)
    poses = ring_poses(40, torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]))
    level = poses[::2].clone()
    level[:, 2, 3] = 0.0
    level = look_at(level[:, :, 3], torch.zeros(3).double(), torch.tensor([0.0, 0.0, 1.0]).double())
    with pytest.raises(LumigraphError, match="evenly all round"):
        nerf_pl_spherical(make_cameras(level), 4)


@pytest.mark.parametrize("make", [llff_spiral, nerf_pl_spherical])
def test_published_paths_of_few_cameras(inward, make):
    assert len(make(inward[:1], 5).check()) == 5
    with pytest.raises(LumigraphError, match="empty"):
        make(inward, 0)
