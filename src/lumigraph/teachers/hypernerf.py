"""HyperNeRF (Park et al., SIGGRAPH Asia 2021, arXiv 2106.13228): a scene that moves, and changes its topology, as
slices of a template with more dimensions than space.

Points of a moment are warped to the template by a field of rigid motions (Nerfies); where a warp would have to tear,
moments differ in the ambient coordinates at which a slicing surface cuts the template.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lumigraph.configs.hypernerf import HyperNeRFConfig
from lumigraph.fields.slicing import BendySheet
from lumigraph.fields.time_codes import TimeCodes
from lumigraph.geometry.bounds import Bounds
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.background import Background
from lumigraph.rendering.conditions import check_captured_times
from lumigraph.rendering.volume.coarse_fine import Draws
from lumigraph.rendering.warped import Conditions, WarpedTeacher


class HyperNeRF(WarpedTeacher):
    """The teacher: rays -> samples -> warp and slice -> coarse and fine template -> composited colours."""

    def __init__(
        self,
        config: HyperNeRFConfig,
        background: Background,
        cameras: Cameras,
        bounds: Bounds,
        captured: Sequence[Cameras] = (),
    ) -> None:
        super().__init__(config, background, cameras, bounds, captured)
        self.config: HyperNeRFConfig = config
        self.sheet = self.plane = None
        dims = 0 if config.slicing == "none" else config.ambient_dims
        if config.slicing == "bendy_sheet":
            self.sheet = BendySheet(
                config.code_width,
                dims,
                octaves=config.sheet_octaves,
                depth=config.sheet_depth,
                width=config.sheet_width,
                skip=config.skip,
            )
        elif config.slicing == "axis_aligned_plane" and config.share_with_warp:
            dims = config.code_width
        elif config.slicing == "axis_aligned_plane":
            assert cameras.times is not None
            self.plane = TimeCodes(cameras.times, dims, config.code_choice)
        self.ambient_dims = dims
        self._build_template(dims)

    @classmethod
    def from_scene(cls, config: HyperNeRFConfig, info: Any) -> "HyperNeRF":
        """Raises LumigraphError where the scene has no times."""
        cameras: Cameras = info.cameras["train"]
        check_captured_times(info, "hypernerf", "ngp")
        return cls(config, info.background, cameras, info.bounds, tuple(info.cameras.values()))

    def _codes(self, cameras: Cameras) -> TimeCodes | None:
        config: HyperNeRFConfig = self.config
        by_code = config.warp != "none" or config.slicing == "bendy_sheet" or config.share_with_warp
        return super()._codes(cameras) if by_code else None

    def _conditions(self, rays: Rays, learning: bool) -> Conditions:
        conditions = super()._conditions(rays, learning)
        if self.plane is not None:
            conditions["plane"] = self.plane(rays.times)[:, None]
        elif self.config.share_with_warp:
            conditions["plane"] = conditions["code"]
        return conditions

    def _sliced(
        self, points: Tensor, moved: Tensor, conditions: Conditions, draws: Draws | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if self.sheet is not None:
            return self.sheet(points, conditions["code"]), {}
        if "plane" in conditions:
            return conditions["plane"].expand(*points.shape[:-1], -1), {}
        return torch.empty(*points.shape[:-1], 0, device=points.device), {}
