"""Normalised device coordinates: golden values, and points that stay where they are."""

import pytest
import torch

from lumigraph.errors import LumigraphError
from lumigraph.geometry.ndc import ForwardFrame, is_ahead, require_ahead
from lumigraph.geometry.rays import Rays
from lumigraph.geometry.rotations import so3_exp

IDENTITY = torch.eye(3, 4, dtype=torch.float64)


def make_rays(origins: torch.Tensor, directions: torch.Tensor) -> Rays:
    ones = torch.ones(len(origins), dtype=origins.dtype)
    return Rays(origins, directions, 0.001 * ones, ones, 1000 * ones)


def some_rays(count: int = 20) -> Rays:
    generator = torch.Generator().manual_seed(0)
    origins = 0.3 * torch.randn(count, 3, generator=generator, dtype=torch.float64)
    directions = 0.3 * torch.randn(count, 3, generator=generator, dtype=torch.float64)
    directions[:, 2] = 1
    return make_rays(origins, directions)


def test_golden_values() -> None:
    """W 504, H 378, focal length 400, near plane 1; axes of OpenGL become ours by turning y and z."""
    direction = torch.nn.functional.normalize(
        torch.tensor([[0.05, -0.02, -1.0]], dtype=torch.float64), dim=-1
    )
    turn = torch.tensor([1.0, -1.0, -1.0]).double()
    rays = make_rays(torch.tensor([[0.1, 0.2, 0.3]], dtype=torch.float64) * turn, direction * turn)
    found = ForwardFrame(IDENTITY, (252 / 400, 189 / 400), 1.0).rays(rays)
    wanted = torch.tensor(
        [[0.26190476, 0.36825397, -1.0], [-0.18253968, -0.41058201, 2.0]], dtype=torch.float64
    )
    torch.testing.assert_close(found.origins, wanted[:1], atol=1e-8, rtol=0)
    torch.testing.assert_close(found.directions, wanted[1:], atol=1e-8, rtol=0)


def test_points_on_a_ray_are_the_projected_points_of_the_scene() -> None:
    pose = torch.cat(
        [so3_exp(torch.tensor([0.1, -0.2, 0.05]).double()), torch.tensor([[0.2], [0.1], [-0.3]])], 1
    )
    frame = ForwardFrame(pose, (0.6, 0.4), 1.3)
    rays = some_rays()
    t = torch.linspace(0.05, 0.95, len(rays), dtype=torch.float64)
    depth = frame.depth(t, rays)
    torch.testing.assert_close(frame.ndc(depth, rays), t)
    points = rays.origins + depth[:, None] * rays.directions
    x, y, z = ((points - pose[:, 3]) @ pose[:, :3]).unbind(1)
    projected = torch.stack([x / z / 0.6, -y / z / 0.4, 1 - 2 * 1.3 / z], 1)
    ndc = frame.rays(rays)
    torch.testing.assert_close(ndc.origins + t[:, None] * ndc.directions, projected)


def test_neighbouring_rays_are_a_pixel_apart_on_the_near_plane() -> None:
    """The radius is that of Mip-NeRF: half the pixel's width times 2 / sqrt 3, of the rays' distance in the cube."""
    frame, focal = ForwardFrame(IDENTITY, (252 / 400, 189 / 400), 1.0), 400.0
    directions = torch.tensor(
        [[0.1, 0.05, 1.0], [0.1 + 1 / focal, 0.05, 1.0], [0.1, 0.05 + 1 / focal, 1.0]]
    ).double()
    rays = make_rays(torch.zeros(3, 3).double(), directions)
    rays = Rays(**{**vars(rays), "radii": torch.full((3,), 2 / 12**0.5 / focal).double()})
    ndc = frame.rays(rays)
    apart = 0.5 * ((ndc.origins[1] - ndc.origins[0]).norm() + (ndc.origins[2] - ndc.origins[0]).norm())
    torch.testing.assert_close(ndc.radii[0], apart * 2 / 12**0.5)


def test_lines_are_the_rays() -> None:
    frame, rays = ForwardFrame(IDENTITY, (0.6, 0.4), 1.3), some_rays()
    origins, directions = frame.lines(rays.origins, rays.directions)
    assert torch.equal(origins, frame.rays(rays).origins)
    assert torch.equal(directions, frame.rays(rays).directions)


def test_infinity_is_the_far_bound() -> None:
    rays = some_rays(3)
    frame = ForwardFrame(IDENTITY, (0.6, 0.4), 1.0)
    torch.testing.assert_close(frame.depth(torch.ones(3).double(), rays), rays.far)


def test_json_round_trip() -> None:
    frame = ForwardFrame(torch.eye(3, 4), (0.5, 0.25), 1.5)
    again = ForwardFrame.from_json(frame.to_json())
    assert (again.tangents, again.near) == (frame.tangents, frame.near)
    assert torch.equal(again.camera_to_world, frame.camera_to_world)
    with pytest.raises(ValueError, match="positive"):
        ForwardFrame.from_json({**frame.to_json(), "near": 0.0})


def test_cameras_that_look_back_are_refused() -> None:
    frame = ForwardFrame(torch.eye(3, 4), (0.5, 0.25), 1.0)
    ahead = make_rays(torch.zeros(1, 3), torch.tensor([[0.0, 0.0, 1.0]]))
    require_ahead(frame, ahead)
    assert is_ahead(frame, ahead)
    back = make_rays(torch.zeros(1, 3), torch.tensor([[0.0, 0.0, -1.0]]))
    beyond = make_rays(torch.tensor([[0.0, 0.0, 2.0]]), torch.tensor([[0.0, 0.0, 1.0]]))
    for rays in (back, beyond):
        with pytest.raises(LumigraphError, match="looks backwards"):
            require_ahead(frame, rays)
