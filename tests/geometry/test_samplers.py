import dataclasses
import math

import pytest
import torch

from lumigraph.errors import LumigraphError
from lumigraph.geometry.conventions import opengl_to_opencv
from lumigraph.geometry.fitting import average_pose, fit_placement
from lumigraph.geometry.rotations import look_at
from lumigraph.geometry.samplers import (
    sample_between,
    sample_box,
    sample_fitted,
    sample_mobile,
    sample_r2l,
)

SAMPLERS = [sample_r2l, sample_mobile, sample_fitted, sample_box]


def spherical(sampled, cameras):
    placement = fit_placement(cameras)
    offsets = sampled.positions.double() - placement.focus
    radius = offsets.norm(dim=-1)
    azimuth = torch.atan2(offsets @ placement.north, offsets @ placement.east)
    return azimuth, torch.asin((offsets @ placement.up / radius).clamp(-1, 1)), radius


@pytest.mark.parametrize("sample", [*SAMPLERS, sample_between])
@pytest.mark.parametrize("scene", ["inward", "forward_facing"])
def test_samples_are_repeatable_and_do_not_depend_on_their_number(sample, scene, request):
    cameras = request.getfixturevalue(scene)
    few, many, other = sample(5, 7, cameras).check(), sample(50, 7, cameras).check(), sample(5, 8, cameras)
    assert torch.equal(few.camera_to_world, many[:5].camera_to_world)
    assert torch.equal(few.focal, many[:5].focal)
    assert not torch.equal(few.camera_to_world, other.camera_to_world)
    assert few.ids.tolist() == [-1] * 5
    assert torch.equal(few.size, cameras.size[:5])


def test_r2l_covers_the_upper_hemisphere_with_zoom(inward):
    sampled = sample_r2l(2000, 0, inward)
    azimuth, elevation, radius = spherical(sampled, inward)
    assert torch.allclose(radius, torch.full_like(radius, 4.0), atol=1e-4)
    assert -1e-4 < float(elevation.min()) < 0.02
    assert float(elevation.max()) > math.pi / 2 - 0.02
    assert float(elevation.mean()) == pytest.approx(math.pi / 4, abs=0.03)  # uniform in angle, not in area
    assert float(azimuth.mean()) == pytest.approx(0.0, abs=0.15)
    zoom = sampled.focal[:, 0] / 90.0
    assert 1.0 <= float(zoom.min()) < 1.01
    assert 1.99 < float(zoom.max()) <= 2.0
    xy, _ = sampled.project(fit_placement(inward).focus.float().expand(2000, 3), torch.arange(2000))
    assert torch.allclose(xy, inward.principal[:1].expand(2000, 2), atol=2e-3)


def test_r2l_pose_is_the_published_formula():
    # pose = F R_y(theta) R_x(phi) T_z(r), OpenGL; phi in [-90, 0] degrees.
    for theta, phi in ((0.3, -0.5), (-2.0, -1.4), (3.0, -0.01)):
        along = torch.eye(4, dtype=torch.float64)
        along[2, 3] = 4.0
        tilt, turn = torch.eye(4, dtype=torch.float64), torch.eye(4, dtype=torch.float64)
        c, s = math.cos(phi), math.sin(phi)
        tilt[1:3, 1:3] = torch.tensor([[c, -s], [s, c]])
        c, s = math.cos(theta), math.sin(theta)
        turn[0, 0], turn[0, 2], turn[2, 0], turn[2, 2] = c, -s, s, c
        flip = torch.tensor([[-1.0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]], dtype=torch.float64)
        published = opengl_to_opencv((flip @ turn @ tilt @ along)[:3])
        ours = look_at(published[:, 3], torch.zeros(3).double(), torch.tensor([0.0, 0.0, 1.0]).double())
        assert torch.allclose(ours, published, atol=1e-9)


def test_mobile_polar_angle_is_normal_with_a_uniform_redraw(inward):
    sampled = sample_mobile(4000, 1, inward)
    azimuth, elevation, _ = spherical(sampled, inward)
    polar = torch.rad2deg(math.pi / 2 - elevation)
    assert 0.99 < float(polar.min()) < 3
    assert 88 < float(polar.max()) < 90.01
    # 68.3 % of the normal draws lie inside; the rest is uniform: density at the middle against the ends.
    middle = float(((polar > 40.5) & (polar < 50.5)).double().mean())
    ends = float(((polar < 6) | (polar > 85)).double().mean())
    assert middle == pytest.approx(0.0896 + 0.3173 * 10 / 89, abs=0.02)
    assert ends == pytest.approx(2 * 0.0282 + 0.3173 * 10 / 89, abs=0.02)
    assert float(azimuth.abs().max()) <= math.radians(178) + 1e-6
    assert torch.equal(sampled.focal, inward.focal[:1].expand(4000, 2))
    _, captured, _ = spherical(sample_mobile(200, 1, inward, polar_degrees=None), inward)
    assert 0.3 - 1e-4 < float(captured.min()) < float(captured.max()) < 0.7 + 1e-4


def test_fitted_samples_stay_where_cameras_were(make_cameras, ring_poses):
    cameras = make_cameras(ring_poses(40, torch.ones(3), torch.tensor([0.0, 0.0, 1.0]), arc=2.0))
    stretched = cameras.camera_to_world.clone()
    stretched[::3, :, 3] = 1.0 + 1.5 * (stretched[::3, :, 3] - 1.0)
    cameras = dataclasses.replace(cameras, camera_to_world=stretched)
    seen = fit_placement(cameras)
    sampled = sample_fitted(500, 0, cameras)
    _, elevation, radius = spherical(sampled, cameras)
    shown = fit_placement(sampled)
    assert shown.azimuth[1] - shown.azimuth[0] <= seen.azimuth[1] - seen.azimuth[0] + 1e-3
    assert 4.0 - 1e-3 < float(radius.min()) < 4.1
    assert 5.9 < float(radius.max()) < 6.0 + 1e-3
    assert 0.3 - 1e-3 < float(elevation.min()) < float(elevation.max()) < 0.7 + 1e-3


def test_box_samples_stay_in_the_grown_boxes(forward_facing):
    sampled = sample_fitted(500, 0, forward_facing)
    assert 1.0 < float(sampled.positions[:, 0].abs().max()) <= 1.1 + 1e-5
    assert float(sampled.positions[:, 1].abs().max()) < 1e-5
    tilt = float(forward_facing.forwards[:, 0].abs().max())
    assert float(sampled.forwards[:, 0].abs().max()) <= 1.12 * tilt
    assert float(sampled.ups[:, 2].min()) > 0.9


def test_box_samples_have_the_published_distribution(side_by_side):
    """R2L and MobileR2L alike: in the frame of the average camera, positions and axes fill the captured boxes grown
    by a tenth, each evenly and for itself; the image is upright by the mean of the captured upward axes."""
    pose = average_pose(side_by_side)
    sampled = sample_box(4000, 0, side_by_side).check()
    assert torch.equal(sampled.focal, side_by_side.focal[:1].expand(4000, 2))

    def boxes(cameras):
        local = (cameras.positions.double() - pose[:, 3]) @ pose[:, :3]
        return local, cameras.forwards.double() @ pose[:, :3]

    captured, found = boxes(side_by_side), boxes(sampled)
    low, high = captured[0].amin(0), captured[0].amax(0)
    middle, half = (low + high) / 2, 0.55 * (high - low)
    scaled = (found[0] - middle) / half
    assert float(scaled.abs().max()) <= 1 + 1e-5
    torch.testing.assert_close(scaled.mean(0), torch.zeros(3).double(), atol=0.03, rtol=0)
    torch.testing.assert_close(scaled.var(0), torch.full((3,), 1 / 3).double(), atol=0.02, rtol=0)
    low, high = captured[1].amin(0), captured[1].amax(0)
    middle, half = (low + high) / 2, 0.55 * (high - low)
    for axis in (0, 1):  # drawn, then normalised: by at most this much
        reach = (middle.abs() + half)[axis] / (middle - half)[2]
        assert 0.9 * float(half[axis]) < float((found[1][:, axis] - middle[axis]).abs().max()) < float(reach)
    joint = torch.cat([scaled, found[1][:, :2]], 1)
    correlation = torch.corrcoef(joint.T) - torch.eye(5)
    assert float(correlation.abs().max()) < 0.06
    up = side_by_side.ups.double().mean(0)
    assert float((sampled.rights.double() @ up).abs().max()) < 1e-5
    assert float((sampled.ups.double() @ up).min()) > 0


def test_poses_between_two_cameras_lie_on_their_arc(inward):
    """Positions on the line between two captured ones, at the fraction of the arc at which the rotation is."""
    pair = inward[torch.tensor([2, 9])]
    sampled = sample_between(400, 0, pair).check()
    start, end = pair.positions
    along = (sampled.positions - start) @ (end - start) / (end - start).square().sum()
    torch.testing.assert_close(sampled.positions, torch.lerp(start, end, along[:, None]), atol=1e-5, rtol=0)
    assert 0 <= float(along.min()) < 0.02
    assert 0.98 < float(along.max()) <= 1

    def angle(first, second):
        turn = first.transpose(-1, -2) @ second
        return torch.acos(((turn.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2).clamp(-1, 1))

    rotations = pair.camera_to_world[:, :, :3].double()
    turned = angle(rotations[0], sampled.camera_to_world[:, :, :3].double())
    torch.testing.assert_close(turned, along.double() * angle(*rotations), atol=2e-3, rtol=0)
    assert torch.equal(sampled.near, pair.near.min().expand(400))
    with pytest.raises(LumigraphError, match="fewer than two"):
        sample_between(1, 0, inward[:1])


def test_all_pairs_are_drawn_and_none_is_one_camera_twice(inward):
    few = inward[:4]
    sampled = sample_between(2000, 1, few)
    distance = torch.cdist(sampled.positions, few.positions)
    # A pair of the same camera would put the pose exactly there.
    assert float((distance.amin(1) < 1e-6).float().mean()) < 0.01


@pytest.mark.parametrize("sample", SAMPLERS)
def test_single_cameras_and_templates_work(inward, sample):
    alone = sample(4, 0, inward[:1]).check()
    assert bool(torch.isfinite(alone.camera_to_world).all())
    template = inward[2].resized(20, 10)
    assert sample(3, 0, inward, template).size.tolist() == [[20, 10]] * 3
    with pytest.raises(LumigraphError, match="views"):
        sample(0, 0, inward)


def test_bad_ranges_are_refused(inward):
    with pytest.raises(LumigraphError, match="zoom"):
        sample_r2l(1, 0, inward, zoom=(0.0, 1.0))
    with pytest.raises(LumigraphError, match="polar"):
        sample_mobile(1, 0, inward, polar_degrees=(50.0, 20.0))
