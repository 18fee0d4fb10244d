"""Codes of cameras: which is learnt, and which is shown."""

from dataclasses import replace

import pytest
import torch

from lumigraph.errors import LumigraphError
from lumigraph.fields.camera_codes import CameraCodes, DeviceCodes
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.rays import Rays


def some_cameras(*ids: int) -> Cameras:
    count = len(ids)
    poses = torch.eye(3, 4).repeat(count, 1, 1)
    poses[:, 0, 3] = torch.arange(count)
    return Cameras(
        camera_to_world=poses,
        focal=torch.full((count, 2), 30.0),
        principal=torch.full((count, 2), 8.0),
        size=torch.full((count, 2), 16),
        near=torch.ones(count),
        far=torch.full((count,), 2.0),
        distortion=torch.zeros(count, 6),
        ids=torch.tensor(ids),
    )


@pytest.fixture
def codes() -> CameraCodes:
    module = CameraCodes(some_cameras(1, 2, 5), 2)
    torch.nn.init.normal_(module.table, generator=torch.Generator().manual_seed(0))
    return module


def test_codes_are_zero_at_first() -> None:
    assert not CameraCodes(some_cameras(0, 1), 4).table.any()


def test_each_photo_learns_its_own_code(codes: CameraCodes) -> None:
    learnt = codes.learnt(torch.tensor([5, 1, 1]))
    assert torch.equal(learnt, codes.table[[2, 0, 0]])
    learnt[1:].sum().backward()
    assert codes.table.grad is not None
    assert codes.table.grad[0].tolist() == [2, 2]
    assert not codes.table.grad[1:].any()


def test_the_sizes_of_a_photo_share_its_code() -> None:
    codes = CameraCodes(some_cameras(4, 4, 4, 2, 2, 2), 3, "nearest")
    assert codes.table.shape == (2, 3)
    with torch.no_grad():
        codes.table.copy_(torch.tensor([[1.0] * 3, [2.0] * 3]))
    assert torch.equal(codes.learnt(torch.tensor([2, 4]))[:, 0], torch.tensor([1.0, 2.0]))
    assert torch.equal(codes.shown(torch.tensor([[0.1, 0, 0], [3.2, 0, 0]]))[:, 0], torch.tensor([2.0, 1.0]))


def test_photos_that_were_not_trained_on_have_the_mean(codes: CameraCodes) -> None:
    learnt = codes.learnt(torch.tensor([-1, 0, 3, 99]))
    torch.testing.assert_close(learnt, codes.table.mean(0).expand(4, -1))


def test_what_is_shown(codes: CameraCodes) -> None:
    origins = torch.tensor([[0.2, 0.0, 0.0], [1.9, 3.0, 0.0], [0.2, 0.0, 0.0]])
    torch.testing.assert_close(codes.shown(origins), codes.table.mean(0).expand(3, -1))
    codes.choice = "zero"
    assert not codes.shown(origins).any()
    codes.choice = "nearest"
    assert torch.equal(codes.shown(origins), codes.table[[0, 2, 0]])


def test_a_fitted_code_is_the_best_one_and_is_then_forgotten(codes: CameraCodes) -> None:
    wanted, origins = torch.tensor([0.5, -0.25]), torch.zeros(4, 3)

    def error() -> torch.Tensor:
        return (codes.shown(origins) - wanted).square().mean()

    with torch.no_grad(), codes.fitted(error, 0.0):
        torch.testing.assert_close(codes.shown(origins), wanted.expand(4, -1), atol=0.02, rtol=0)
        assert not codes.shown(origins).requires_grad
    torch.testing.assert_close(codes.shown(origins), codes.table.mean(0).expand(4, -1))
    assert codes.table.grad is None


def rays_of(*ids: int) -> Rays:
    count, ones = len(ids), torch.ones(len(ids))
    return Rays(
        torch.zeros(count, 3), torch.ones(count, 3), ones, ones, 2 * ones, camera_ids=torch.tensor(ids)
    )


def test_photos_of_one_camera_of_a_rig_share_its_code() -> None:
    """Also those that were held out; a camera that took no training photo, and invented ones, have the mean."""
    trained = replace(some_cameras(0, 2, 3, 5), devices=torch.tensor([7, 7, 1, 1]))
    held_out = replace(some_cameras(1, 4, 6), devices=torch.tensor([1, 7, 2]))
    codes = DeviceCodes(trained, [trained, held_out], 3)
    assert not codes.table.any()
    with torch.no_grad():
        codes.table.copy_(torch.tensor([[1.0, 1, 1], [7, 7, 7]]))
    found = codes(rays_of(0, 2, 3, 5, 1, 4, 6, -1, 99))
    assert found[:, 0].tolist() == [7, 7, 1, 1, 1, 7, 4, 4, 4]
    assert codes(replace(rays_of(0, 3), camera_ids=None))[:, 0].tolist() == [4, 4]
    codes(rays_of(5, 5, 0)).sum().backward()
    assert codes.table.grad is not None
    assert codes.table.grad[:, 0].tolist() == [2, 1]


def test_one_camera_has_no_code_to_be_told_by() -> None:
    with pytest.raises(LumigraphError, match="photos are of one camera.*--appearance photo"):
        DeviceCodes(some_cameras(0, 1), [], 3)
