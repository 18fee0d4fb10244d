"""What watches training counts the pixels inside the masks, and no others."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lumigraph.errors import LumigraphError
from lumigraph.geometry.cameras import Cameras
from lumigraph.rendering.renderer import Renderer, Rendering
from lumigraph.scenes.procedural import make_scene
from lumigraph.scenes.scene import Views
from lumigraph.training.validation import Probe, mask_of, write_preview


class Grey(Renderer):
    """0.4 everywhere."""

    background = "opaque"

    def view(self, camera: Cameras) -> Rendering:
        width, height = camera.size[0].tolist()
        return Rendering(rgb=torch.full((height, width, 3), 0.4))


def half_views(*masks: np.ndarray | None) -> Views:
    """0.4 on the left, white on the right."""
    images = np.full((len(masks), 16, 16, 3), 102, np.uint8)
    images[:, :, 8:] = 255
    cameras = make_scene("still", len(masks), 0, 0, size=16).info.cameras["train"]
    names = [f"{i}.png" for i in range(len(masks))]
    return Views.from_arrays(cameras, names, images, masks=masks)


def left() -> np.ndarray:
    mask = np.zeros((16, 16), bool)
    mask[:, :8] = True
    return mask


def test_probe_pixels_are_inside_the_masks() -> None:
    probe = Probe.of_views(half_views(left(), left(), np.zeros((16, 16), bool)), "opaque", count=300)
    assert len(probe.truth) == 200  # nothing of the third view
    assert torch.allclose(probe.truth, torch.tensor(0.4))
    assert len(torch.unique(probe.rays.directions[:100], dim=0)) > 50
    # A view without a mask counts as a whole.
    probe = Probe.of_views(half_views(None, left()), "opaque", count=400)
    assert 60 < int((probe.truth[:200, 0] == 1).sum()) < 140
    assert torch.allclose(probe.truth[200:], torch.tensor(0.4))


def test_masks_that_leave_nothing_are_one_message() -> None:
    with pytest.raises(LumigraphError, match="leave no pixel"):
        Probe.of_views(half_views(np.zeros((16, 16), bool)), "opaque")


def test_views_need_no_masks() -> None:
    class Plain:
        cameras = make_scene("still", 1, 0, 0, size=16).info.cameras["train"]

        def __len__(self) -> int:
            return 1

        def image(self, index: int, /) -> torch.Tensor:
            return torch.full((16, 16, 3), 51, dtype=torch.uint8)

    assert mask_of(Plain(), 0) is None
    assert torch.allclose(Probe.of_views(Plain(), "opaque", count=50).truth, torch.tensor(0.2))


@pytest.mark.parametrize(("most_rays", "size"), [(1000.0, 16), (64.0, 8)])
def test_preview_is_grey_outside_the_mask(tmp_path: Path, most_rays: float, size: int) -> None:
    write_preview(tmp_path / "p.png", Grey(), half_views(left()), "opaque", most_rays)
    picture = np.asarray(Image.open(tmp_path / "p.png"))
    assert picture.shape == (size, 2 * size, 3)
    for start in (0, size):
        assert (picture[:, start : start + size // 2] == 102).all()
        assert (picture[:, start + size // 2 : start + size] == 128).all()
