"""A scene that moves, on hash grids: the features of a point depend on time (`fields/space_time.py`), and all else is
as in Instant-NGP. The occupancy grid holds what is occupied at any time."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lumigraph.configs.dynamic_ngp import DynamicNGPConfig
from lumigraph.fields.hashgrid import GridLayout
from lumigraph.fields.space_time import FactorisedFeatures, MovingFeatures, WarpedFeatures
from lumigraph.geometry.bounds import Bounds
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.background import Background
from lumigraph.rendering.conditions import check_captured_times
from lumigraph.rendering.marched_field import ADAM, MarchedField
from lumigraph.rendering.renderer import ParameterGroup


class DynamicNGP(MarchedField):
    """The teacher: rays with times -> marched samples -> features of points at their times -> composited colours."""

    conditions = ("times",)
    config: DynamicNGPConfig

    def __init__(
        self, config: DynamicNGPConfig, bounds: Bounds, background: Background, cameras: int
    ) -> None:
        """`cameras`: number of training cameras, for the refinement of their poses."""
        super().__init__(config, bounds, background, cameras)
        self.moving = _moving(config, self.layout)
        self.add_networks(self.moving.width)
        self.occupancy_looks = config.occupancy_times
        if config.random_backdrop and background != "opaque":
            self.backdrop = "random"

    @classmethod
    def from_scene(cls, config: Any, info: Any) -> MarchedField:
        """See `MarchedField.from_scene`.

        Raises:
            LumigraphError: the scene has no times.
        """
        check_captured_times(info, "dynamic-ngp", "ngp")
        return super().from_scene(config, info)

    def features(
        self, points: Float[Tensor, "n 3"], times: Float[Tensor, " n"] | None
    ) -> Float[Tensor, "n width"]:
        return self.moving(points, times)

    def feature_groups(self) -> list[ParameterGroup]:
        space_time = list(self.moving.space_time.parameters())
        groups = [
            ParameterGroup("grid", [self.moving.grid.table], self.config.lr, table=True, **ADAM),
            ParameterGroup("grids of time", space_time, self.config.time_lr, table=True, **ADAM),
        ]
        if self.moving.networks:
            groups.append(ParameterGroup("motion", self.moving.networks, self.config.time_lr, **ADAM))
        return groups

    def reset_features(self) -> None:
        self.moving.reset()

    def times_of(self, rays: Rays) -> Float[Tensor, " n"]:
        self.require_conditions(rays)
        assert rays.times is not None
        return rays.times

    def random_times(self, count: int, generator: torch.Generator) -> Float[Tensor, " count"]:
        """Any time, so that a cell is occupied if something is in it at some time."""
        return torch.rand(count, generator=generator, device=self.device)


def _moving(config: DynamicNGPConfig, space: GridLayout) -> MovingFeatures:
    space_time = GridLayout(
        config.time_levels,
        config.time_features,
        config.time_log2_entries,
        config.time_base_resolution,
        config.time_finest_resolution,
    )
    if config.motion == "warp":
        return WarpedFeatures(space, space_time, config.time_share, config.motion_hidden, config.ambient)
    return FactorisedFeatures(space, space_time, config.time_share)
