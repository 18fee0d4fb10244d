"""What fine-tuning measures itself by."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lumigraph.distillation.finetuning import mean_psnr
from lumigraph.errors import LumigraphError
from lumigraph.geometry.cameras import Cameras
from lumigraph.rendering.renderer import Renderer, Rendering
from lumigraph.scenes.procedural import make_scene
from lumigraph.scenes.scene import Views
from lumigraph.training.validation import training_and_validation


class Grey(Renderer):
    """A level everywhere."""

    background = "opaque"

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level = level

    def view(self, camera: Cameras) -> Rendering:
        return Rendering(rgb=torch.full((16, 16, 3), self.level))


def views(masks: list[np.ndarray | None], **more) -> Views:
    """0.4 on the left, white on the right."""
    images = np.full((len(masks), 16, 16, 3), 102, np.uint8)
    images[:, :, 8:] = 255
    cameras = make_scene("still", len(masks), 0, 0, size=16).info.cameras["train"]
    return Views.from_arrays(cameras, [f"{i}.png" for i in range(len(masks))], images, masks=masks, **more)


def test_psnr_is_that_of_the_pixels_inside_the_masks() -> None:
    left, nothing = np.zeros((16, 16), bool), np.zeros((16, 16), bool)
    left[:, :8] = True
    assert mean_psnr(Grey(0.5), views([left, left])) == pytest.approx(20, abs=1e-4)
    assert mean_psnr(Grey(0.5), views([left, nothing])) == pytest.approx(20, abs=1e-4)
    assert mean_psnr(Grey(0.4), views([left])) == 100
    assert mean_psnr(Grey(0.4), views([None])) < 10
    with pytest.raises(LumigraphError, match="leave no pixel"):
        mean_psnr(Grey(0.4), views([nothing]))


def test_photos_held_out_keep_their_depth_and_masks_and_are_decoded_once() -> None:
    depths = [np.full((16, 16), float(i), np.float32) for i in range(12)]
    whole = views([np.full((16, 16), i % 2 == 0) for i in range(12)], depths=depths)
    scene = replace(make_scene("still", 1, 0, 0, size=16), views={"train": whole})
    train, held, from_training = training_and_validation(scene)
    assert from_training
    assert (len(train), held.names) == (11, ["5.png"])
    depth, mask = held.depth(0), held.mask(0)
    assert depth is not None
    assert mask is not None
    assert (depth == 5).all()
    assert not mask.any()
    kept = train.pixel_depths(*torch.tensor([[5, 4], [0, 0], [0, 0]]))
    assert kept is not None
    assert kept.tolist() == [6.0, 4.0]
    assert held.image(0).data_ptr() == whole.image(5).data_ptr()


def test_photos_are_held_out_at_all_their_sizes() -> None:
    scene = make_scene("still", 12, 0, 0, size=16)
    several = replace(scene, views={"train": scene.views["train"].with_scales(2)})
    train, held, from_training = training_and_validation(several)
    assert from_training
    assert held.cameras.size[:, 0].tolist() == [16, 8]
    assert len(train) == 22
    assert not set(train.cameras.ids.tolist()) & set(held.cameras.ids.tolist())


def test_views_that_are_evaluated_on_do_not_decide_when_to_stop() -> None:
    """Without test views `eval` judges by the validation views."""
    scene = make_scene("still", 12, 2, 2, size=8)
    assert training_and_validation(scene)[1] is scene.views["val"]
    judged = replace(scene, views={split: scene.views[split] for split in ("train", "val")})
    train, held, from_training = training_and_validation(judged)
    assert from_training
    assert (len(train), len(held)) == (11, 1)
    assert set(held.names) <= set(scene.views["train"].names)
