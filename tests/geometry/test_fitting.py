import json
import math

import pytest
import torch

from lumigraph.geometry.conventions import opengl_to_opencv
from lumigraph.geometry.fitting import fit_focus, fit_placement, fit_up
from lumigraph.geometry.rotations import look_at

FOCUS = torch.tensor([1.0, -2.0, 0.5])
UP = torch.nn.functional.normalize(torch.tensor([0.2, 0.1, 1.0]).double(), dim=0)


def test_focus_and_up_of_inward_cameras_are_exact(inward):
    focus, is_inward = fit_focus(inward)
    assert is_inward
    assert focus.tolist() == pytest.approx(FOCUS.tolist(), abs=1e-5)
    assert torch.allclose(fit_up(inward), UP, atol=1e-5)


def test_placement_measures_the_ring(inward):
    placement = fit_placement(inward)
    assert placement.full_circle
    assert placement.radius == pytest.approx((4.0, 4.0), abs=1e-4)
    assert placement.elevation == pytest.approx((0.3, 0.7), abs=1e-4)
    frame = torch.stack((placement.east, placement.north, placement.up), -1)
    assert torch.allclose(frame @ frame.T, torch.eye(3, dtype=torch.float64), atol=1e-12)
    assert float(torch.linalg.det(frame)) == pytest.approx(1.0)
    assert float(placement.aim_spread.max()) < 1e-4


def test_arc_across_the_seam_is_measured_as_one_piece(make_cameras, ring_poses):
    for shift in range(6):
        poses = ring_poses(20, torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]), arc=2.0)
        angle = torch.tensor(shift * math.pi / 3)
        turn = torch.tensor(
            [[angle.cos(), -angle.sin(), 0], [angle.sin(), angle.cos(), 0], [0, 0, 1]]
        ).double()
        placement = fit_placement(make_cameras(turn @ poses))
        assert placement.azimuth[1] - placement.azimuth[0] == pytest.approx(2.0 * 19 / 20, abs=1e-3)
        assert not placement.full_circle


def test_positions_invert_the_measurement(inward):
    placement = fit_placement(inward)
    point = placement.position(*(torch.tensor([value]).double() for value in (0.4, 0.2, 3.0)))[0]
    offset = point - placement.focus
    assert float(offset.norm()) == pytest.approx(3.0)
    assert float(offset @ placement.up) == pytest.approx(3.0 * math.sin(0.2))


def test_forward_facing_cameras_are_recognised(forward_facing):
    focus, is_inward = fit_focus(forward_facing)
    assert not is_inward
    # One over the mean disparity of near 2 and far 6, three quarters far.
    assert focus.tolist() == pytest.approx([0.0, 1 / (0.25 / 2 + 0.75 / 6), 0.0], abs=1e-4)
    assert fit_up(forward_facing).tolist() == pytest.approx([0, 0, 1], abs=1e-5)


def test_outward_cameras_are_not_inward(make_cameras, ring_poses):
    poses = ring_poses(16, torch.zeros(3), torch.tensor([0.0, 0.0, 1.0])).clone()
    poses[:, :, [0, 2]] *= -1  # turn every camera about its vertical axis
    assert not fit_placement(make_cameras(poses)).inward


def degenerate(kind: str) -> torch.Tensor:
    z = torch.tensor([0.0, 0.0, 1.0]).double()
    one = look_at(torch.tensor([0.0, -4.0, 1.0]).double(), torch.zeros(3).double(), z)
    parallel = one.repeat(5, 1, 1)
    parallel[:, 0, 3] += torch.arange(5)
    above = look_at(torch.tensor([[0.0, 0.0, 4.0]] * 3).double(), torch.zeros(3).double(), z)
    opposite = torch.stack((one, one.clone()))
    opposite[1, :, [0, 2]] *= -1
    return {
        "single": one[None],
        "coinciding": one.repeat(4, 1, 1),
        "parallel": parallel,
        "straight down": above,
        "opposite": opposite,
        "far away": parallel + torch.tensor([0, 0, 0, 1e6]).double(),
    }[kind]


@pytest.mark.parametrize(
    "kind", ["single", "coinciding", "parallel", "straight down", "opposite", "far away"]
)
def test_degenerate_cameras_give_finite_fits(make_cameras, kind):
    cameras = make_cameras(degenerate(kind))
    placement = fit_placement(cameras)
    assert bool(torch.isfinite(placement.focus).all() and torch.isfinite(placement.up).all())
    assert float(placement.up.norm()) == pytest.approx(1.0)
    assert all(
        math.isfinite(value) for value in (*placement.azimuth, *placement.elevation, *placement.radius)
    )


def real_cameras(make_cameras, path, **changed):
    frames = json.loads(path.read_text("utf-8"))["frames"]
    poses = opengl_to_opencv(torch.tensor([frame["transform_matrix"] for frame in frames])[:, :3])
    return make_cameras(poses, **{key: value.expand(len(poses), 2) for key, value in changed.items()})


def test_lego_is_an_exact_turn_table(shared_data, make_cameras):
    cameras = real_cameras(make_cameras, shared_data / "nerf_synthetic" / "lego" / "transforms_train.json")
    placement = fit_placement(cameras)
    assert placement.inward
    assert placement.full_circle
    assert placement.focus.tolist() == pytest.approx([0, 0, 0], abs=1e-4)
    assert placement.up.tolist() == pytest.approx([0, 0, 1], abs=1e-4)
    assert placement.mean_radius == pytest.approx(4.0311, abs=1e-3)


def test_fox_is_looked_at_from_one_side(shared_data, make_cameras):
    cameras = real_cameras(
        make_cameras,
        shared_data / "fox" / "transforms.json",
        focal=torch.tensor([[1375.52, 1374.49]]),
        size=torch.tensor([[1080, 1920]]),
    )
    placement = fit_placement(cameras)
    assert placement.inward
    assert not placement.full_circle
    assert float(placement.focus.norm()) < 0.2
    assert float(placement.up[2]) > 0.99
