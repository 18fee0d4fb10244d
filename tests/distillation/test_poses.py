"""Which sampler serves which scene."""

from dataclasses import replace

import pytest
import torch

from lumigraph.distillation.poses import sample_poses
from lumigraph.geometry.samplers import sample_between, sample_box, sample_r2l
from lumigraph.scenes.procedural import make_scene


@pytest.mark.parametrize("poses", ["fitted", "r2l", "mobile"])
def test_forward_facing_scenes_are_sampled_in_boxes_by_every_name(poses) -> None:
    cameras = make_scene("still", 6, 0, 0, size=8).info.cameras["train"]
    found = sample_poses(poses, 5, 3, cameras, forward=True)
    assert torch.equal(found.camera_to_world, sample_box(5, 3, cameras).camera_to_world)
    assert torch.equal(found.focal, cameras.focal[:1].expand(5, 2))


def test_scenes_that_change_get_times_and_attributes_of_their_own() -> None:
    cameras = replace(
        make_scene("moving", 6, 0, 0, size=8).info.cameras["train"], attributes=torch.zeros(6, 1)
    )
    found = sample_poses("fitted", 40, 3, cameras, times="frames")
    assert set(found.times.tolist()) <= set(cameras.times.tolist())
    assert len(found.times.unique()) == 6
    assert len(found.attributes.unique()) > 30
    still = replace(cameras, times=None, attributes=None)
    assert torch.equal(found.camera_to_world, sample_poses("fitted", 40, 3, still).camera_to_world)
    between = sample_poses("between", 5, 3, cameras, forward=True)
    assert torch.equal(between.camera_to_world, sample_between(5, 3, cameras).camera_to_world)


def test_inward_scenes_are_not() -> None:
    cameras = make_scene("still", 6, 0, 0, size=8).info.cameras["train"]
    found = sample_poses("r2l", 5, 3, cameras)
    assert torch.equal(found.camera_to_world, sample_r2l(5, 3, cameras).camera_to_world)
