"""Options of HyperNeRF. Imports no torch."""

from dataclasses import dataclass
from typing import Any, Literal

from lumigraph.configs.warped import PUBLISHED_SIZES, WarpedConfig


@dataclass(frozen=True, kw_only=True)
class HyperNeRFConfig(WarpedConfig):
    """A moving scene as slices of a template with more dimensions than space, and a warp (HyperNeRF, 2021).

    The defaults are small enough for a laptop. Presets: "vrig" (validation rigs), "interp" (held-out moments of one
    camera) and "test_local" as published; "paper" is "vrig". Published figures are of photos at half their size.
    """

    slicing: Literal["bendy_sheet", "axis_aligned_plane", "none"] = "bendy_sheet"
    """What moments have for ambient coordinates: a surface over space, by place and code; one place for all of
    space, learnt for each moment; or none, which leaves the warp alone (Nerfies)."""
    share_with_warp: bool = False
    """Take the code of the warp for the place of an axis-aligned plane, as the published code does; ambient_dims then
    has no say."""

    def __post_init__(self) -> None:
        """Raises ValueError for numbers of which no field can be made."""
        super().__post_init__()
        if self.share_with_warp and self.slicing != "axis_aligned_plane":
            raise ValueError("share_with_warp is about --slicing axis_aligned_plane")
        if self.ambient_weight and self.slicing == "none":
            raise ValueError("there are no ambient coordinates that ambient_weight could act on")


def _published(**changes: Any) -> HyperNeRFConfig:
    return HyperNeRFConfig(**{**PUBLISHED_SIZES, "rays": 6144, **changes})


_VRIG = _published(background_weight=1.0, background_points=16_384)

PRESETS = {
    "cpu": HyperNeRFConfig(),
    "paper": _VRIG,
    "vrig": _VRIG,
    "interp": _published(),
    # For trying things out: few samples and rays, twice the ambient coordinates, a warp that sees less and is held.
    "test_local": _published(
        rays=512,
        samples=64,
        importance=64,
        ambient_dims=4,
        warp_octaves=4,
        warp_alpha_steps=50_000,
        warp_weight=1e-3,
        final_lr=1e-5,
    ),
}
