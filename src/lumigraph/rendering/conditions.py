"""What beside a ray decides its colour, asked for where a method cannot do without: one message where it is missing."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from lumigraph.errors import LumigraphError
from lumigraph.geometry.rays import Rays


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


def times_of_rays(rays: Rays, method: str) -> Float[Tensor, "*shape"]:
    """The times of rays.

    Raises:
        LumigraphError: they have none.
    """
    if rays.times is None:
        raise LumigraphError(
            f"rays without times: {method} shows a scene that moves",
            todo="Say for which time, in 0..1: the first to the last moment of the capture",
        )
    return rays.times
