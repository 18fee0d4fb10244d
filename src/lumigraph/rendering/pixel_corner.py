"""Published networks that have learnt rays through the corners of pixels."""

from dataclasses import replace

from lumigraph.errors import LumigraphError
from lumigraph.geometry.cameras import Cameras


def through_corners(cameras: Cameras) -> Cameras:
    """Cameras whose rays go through the corners of the pixels of `cameras`: these go through pixel + 0.5, so that the
    principal point is shifted along."""
    return replace(cameras, principal=cameras.principal + 0.5)


def refuse_training() -> LumigraphError:
    """What to raise where such a network is to be trained on."""
    return LumigraphError(
        "a network that was trained with rays through the corners of pixels can only be rendered",
        todo="Train a new one without --pixel-corner",
    )
