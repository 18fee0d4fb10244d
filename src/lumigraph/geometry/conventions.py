"""Camera conventions of other programs, and similarity transforms of the world.

Poses are camera-to-world [3, 4] (rotation columns, then position). lumigraph's camera frame is OpenCV's: x right,
y down, z forward. OpenGL and Blender: x right, y up, z backward. LLFF (``poses_bounds.npy``): columns down, right,
backward.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from lumigraph.errors import LumigraphError

Poses = Float[Tensor, "*shape 3 4"]


def opengl_to_opencv(poses: Poses) -> Poses:
    """Flip the camera's y and z axes; also correct for Blender, instant-ngp and nerfstudio files."""
    return poses * poses.new_tensor([1.0, -1.0, -1.0, 1.0])


def opencv_to_opengl(poses: Poses) -> Poses:
    """Inverse of `opengl_to_opencv` (the map is its own inverse)."""
    return opengl_to_opencv(poses)


def llff_to_opencv(poses: Poses) -> Poses:
    """Columns (down, right, backward, position) to (right, down, forward, position)."""
    return torch.stack((poses[..., 1], poses[..., 0], -poses[..., 2], poses[..., 3]), dim=-1)


def focal_from_angle(angle: float, side: float | int) -> float:
    """Focal length in pixels from the field of view in radians over ``side`` pixels: 0.5 side / tan(angle / 2)."""
    if not 0.0 < angle < math.pi:
        raise LumigraphError(f"a field of view of {angle} radians is not between 0 and pi")
    return 0.5 * side / math.tan(0.5 * angle)


def angle_from_focal(focal: float, side: float | int) -> float:
    """Inverse of `focal_from_angle`."""
    return 2.0 * math.atan2(0.5 * side, focal)


def homogeneous(poses: Poses) -> Float[Tensor, "*shape 4 4"]:
    """Append the row (0, 0, 0, 1)."""
    row = poses.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*poses.shape[:-2], 1, 4)
    return torch.cat((poses, row), dim=-2)


def similarity(
    scale: float | int = 1.0,
    rotation: Float[Tensor, "3 3"] | None = None,
    translation: Float[Tensor, "3"] | None = None,
) -> Float[Tensor, "4 4"]:
    """The float64 matrix of x -> scale * rotation @ x + translation."""
    matrix = torch.eye(4, dtype=torch.float64)
    if rotation is not None:
        matrix[:3, :3] = rotation
    matrix[:3, :3] *= scale
    if translation is not None:
        matrix[:3, 3] = translation
    return matrix


def split_similarity(
    matrix: Float[Tensor, "4 4"], tolerance: float = 1e-3
) -> tuple[float, Float[Tensor, "3 3"], Float[Tensor, "3"]]:
    """Scale, rotation (float64) and translation (float64) of a similarity transform.

    Raises LumigraphError where the matrix shears, reflects, scales its axes differently, is singular or not finite.
    """
    matrix = matrix.double()
    linear = matrix[:3, :3]
    determinant = float(torch.linalg.det(linear)) if bool(torch.isfinite(matrix).all()) else math.nan
    if not determinant > 0.0:
        raise LumigraphError("a world transform must be finite, invertible and free of reflection")
    scale = determinant ** (1.0 / 3.0)
    rotation = linear / scale
    error = rotation @ rotation.T - torch.eye(3, dtype=torch.float64, device=matrix.device)
    last_row = matrix[3] - matrix.new_tensor([0.0, 0.0, 0.0, 1.0])
    if float(error.abs().max()) > tolerance or float(last_row.abs().max()) > tolerance:
        raise LumigraphError("a world transform must be a similarity: rotation, one scale, translation")
    return scale, rotation, matrix[:3, 3]


def invert_similarity(matrix: Float[Tensor, "4 4"]) -> Float[Tensor, "4 4"]:
    """The inverse similarity, float64."""
    scale, rotation, translation = split_similarity(matrix)
    return similarity(1.0 / scale, rotation.T, -(rotation.T @ translation) / scale)


def transform_rays(
    matrix: Float[Tensor, "4 4"], origins: Float[Tensor, "*s 3"], directions: Float[Tensor, "*s 3"]
) -> tuple[Float[Tensor, "*s 3"], Float[Tensor, "*s 3"]]:
    """Origins and directions of rays after the world was moved by a similarity. Directions are only turned: t stays
    depth along the camera's axis, in the new units."""
    scale, rotation, translation = split_similarity(matrix)
    rotation, translation = rotation.to(origins.device), translation.to(origins.device)
    moved = scale * (origins.double() @ rotation.T) + translation
    return moved.to(origins.dtype), (directions.double() @ rotation.T).to(directions.dtype)


def transform_poses(matrix: Float[Tensor, "4 4"], poses: Poses) -> Poses:
    """Poses after the world was moved by a similarity: rotations stay rotations, positions are scaled as well."""
    scale, rotation, translation = split_similarity(matrix)
    exact = poses.double()
    rotation, translation = rotation.to(poses.device), translation.to(poses.device)
    turned = rotation @ exact[..., :3]
    positions = scale * (rotation @ exact[..., 3:]) + translation[:, None]
    return torch.cat((turned, positions), dim=-1).to(poses.dtype)


def transform_points(
    matrix: Float[Tensor, "4 4"], points: Float[Tensor, "*shape 3"]
) -> Float[Tensor, "*shape 3"]:
    """Points moved by a similarity (or any affine map)."""
    exact = matrix.to(points.device, torch.float64)
    return (points.double() @ exact[:3, :3].T + exact[:3, 3]).to(points.dtype)
