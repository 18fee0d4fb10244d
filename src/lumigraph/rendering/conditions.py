"""What beside a ray decides its colour, asked of the photos where a method cannot learn without."""

from typing import Any

from lumigraph.errors import LumigraphError


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
