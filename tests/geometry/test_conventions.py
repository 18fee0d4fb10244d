import math

import pytest
import torch

from lumigraph.errors import LumigraphError
from lumigraph.geometry.conventions import (
    angle_from_focal,
    focal_from_angle,
    homogeneous,
    invert_similarity,
    llff_to_opencv,
    opencv_to_opengl,
    opengl_to_opencv,
    similarity,
    split_similarity,
    transform_points,
    transform_poses,
    transform_rays,
)
from lumigraph.geometry.rotations import so3_exp

ROTATION = so3_exp(torch.tensor([0.4, -0.2, 1.1], dtype=torch.float64))
POSES = torch.cat((ROTATION, torch.tensor([[1.0], [2.0], [3.0]])), -1)[None]


def test_blender_focal_lengths():
    # Golden values of the Blender scenes (camera_angle_x of lego).
    assert focal_from_angle(0.6911112070083618, 800) == pytest.approx(1111.1110312, abs=1e-6)
    assert focal_from_angle(0.6911112070083618, 400) == pytest.approx(555.5555156, abs=1e-6)
    assert angle_from_focal(1111.1110312, 800) == pytest.approx(0.6911112070083618)


@pytest.mark.parametrize("angle", [0.0, -1.0, math.pi, math.nan, math.inf])
def test_impossible_angles_are_refused(angle):
    with pytest.raises(LumigraphError, match="field of view"):
        focal_from_angle(angle, 800)


def test_conversions_are_their_own_inverses_and_stay_rotations():
    assert torch.equal(opencv_to_opengl(opengl_to_opencv(POSES)), POSES)
    for there in (opengl_to_opencv, llff_to_opencv):
        assert torch.equal(there(there(POSES)), POSES)
        assert torch.linalg.det(there(POSES)[0, :, :3]) == pytest.approx(1.0)
        assert torch.equal(there(POSES)[..., 3], POSES[..., 3])


def test_opengl_looks_along_minus_z_and_llff_columns_are_down_right_back():
    assert torch.equal(opengl_to_opencv(POSES)[0, :, 2], -POSES[0, :, 2])
    assert torch.equal(opengl_to_opencv(POSES)[0, :, 1], -POSES[0, :, 1])
    converted = llff_to_opencv(POSES)[0]
    assert torch.equal(converted[:, 0], POSES[0, :, 1])
    assert torch.equal(converted[:, 1], POSES[0, :, 0])
    assert torch.equal(converted[:, 2], -POSES[0, :, 2])


def test_similarities_split_and_invert():
    translation = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    matrix = similarity(0.33, ROTATION, translation)
    scale, rotation, moved = split_similarity(matrix)
    assert scale == pytest.approx(0.33)
    assert torch.allclose(rotation, ROTATION)
    assert torch.allclose(moved, translation)
    assert torch.allclose(invert_similarity(matrix) @ matrix, torch.eye(4, dtype=torch.float64))
    points = torch.randn(5, 3, dtype=torch.float64)
    there = transform_points(matrix, points)
    assert torch.allclose(transform_points(invert_similarity(matrix), there), points)


def test_rays_move_with_the_points_they_meet():
    matrix = similarity(0.5, ROTATION, torch.tensor([0.1, 2.0, -0.4], dtype=torch.float64))
    origins, directions = torch.randn(9, 3).double(), torch.randn(9, 3).double()
    moved, turned = transform_rays(matrix, origins, directions)
    # t counts the units of the world it is in: half as many where the world is half as large.
    assert torch.allclose(moved + 1.5 * turned, transform_points(matrix, origins + 3 * directions))
    back = transform_rays(invert_similarity(matrix), moved, turned)
    assert torch.allclose(back[0], origins)
    assert torch.allclose(back[1], directions)


def test_poses_move_with_the_points_they_see():
    matrix = similarity(2.0, ROTATION.T, torch.ones(3, dtype=torch.float64))
    local = torch.tensor([0.1, 0.2, 3.0, 1.0], dtype=torch.float64)
    seen = transform_points(matrix, (POSES[0] @ local)[None])[0]
    moved = homogeneous(transform_poses(matrix, POSES))[0]
    again = torch.linalg.inv(moved) @ torch.cat((seen, seen.new_ones(1)))
    assert torch.allclose(again[:3], 2.0 * local[:3])


@pytest.mark.parametrize(
    "matrix",
    [
        torch.zeros(4, 4),
        torch.full((4, 4), math.nan),
        torch.diag(torch.tensor([1.0, 1.0, -1.0, 1.0])),
        torch.diag(torch.tensor([1.0, 2.0, 1.0, 1.0])),
        torch.diag(torch.tensor([1.0, 1.0, 1.0, 2.0])),
    ],
)
def test_other_matrices_are_refused(matrix):
    with pytest.raises(LumigraphError, match="world transform"):
        split_similarity(matrix)
