"""What beside a ray decides its colour: what there is of it in a scene, asked where a method cannot learn without."""

from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from lumigraph.errors import LumigraphError
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.renderer import PixelSampling


def check_captured_times(info: Any, method: str, still: str) -> None:
    """Refuses the `SceneInfo` of a scene whose photos have no times; `still` is the method to take instead.

    Raises:
        LumigraphError: it has none.
    """
    if info.cameras["train"].times is None:
        raise LumigraphError(
            f"the photos have no times, and {method} learns a scene that moves",
            where=info.source,
            todo=f"Train {still} instead, or give every frame its time",
        )


def what_changes(info: Any) -> dict[str, Any]:
    """What a method is told of how the scene (a `SceneInfo`) stands: `attributes`, how many control it, and `timed`,
    whether it moves by itself."""
    cameras = info.cameras["train"]
    count = 0 if cameras.attributes is None else cameras.attributes.shape[1]
    return {"attributes": count, "timed": cameras.times is not None}


def conditions_for(attributes: int, timed: bool) -> tuple[str, ...]:
    """The `conditions` of a renderer of a scene that changes so."""
    return ("times",) * timed + ("attributes",) * bool(attributes)


def rays_with_attributes(rays: Rays, attributes: int) -> Bool[Tensor, " n"] | None:
    """Of which rays [n] the values of all attributes are known, where a method has some; None where that is all."""
    if not attributes or rays.attributes is None:
        return None
    known = torch.isfinite(rays.attributes).all(1)
    return None if bool(known.all()) else known


def sampling_of(attributes: int) -> PixelSampling:
    """Pixels of the photos that a method learns from which is told all attributes, where it has some."""
    return PixelSampling(annotated_share=1.0, annotated="all") if attributes else PixelSampling()
