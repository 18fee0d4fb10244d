"""A scene that moves, or that attributes control, on hash grids: the features of a point depend on time and attributes
(`fields/space_time.py`), and all else is as in Instant-NGP. The occupancy grid holds what is occupied however the scene
stands."""

import logging
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lumigraph.configs.dynamic_ngp import DynamicNGPConfig
from lumigraph.errors import LumigraphError
from lumigraph.fields.first_weights import reset_he
from lumigraph.fields.hashgrid import GridLayout
from lumigraph.fields.small_mlp import small_mlp
from lumigraph.fields.space_time import FactorisedFeatures, MovingFeatures, WarpedFeatures
from lumigraph.geometry.bounds import Bounds
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.attribute_masks import mask_cross_entropy
from lumigraph.rendering.background import Background
from lumigraph.rendering.conditions import (
    check_captured_times,
    conditions_for,
    rays_with_attributes,
    sampling_of,
    what_changes,
)
from lumigraph.rendering.marched_field import ADAM, MarchedField
from lumigraph.rendering.renderer import Batch, Losses, ParameterGroup, PixelSampling
from lumigraph.rendering.volume.composite import composite_shares
from lumigraph.rendering.volume.samples import Samples

log = logging.getLogger("lumigraph")


class DynamicNGP(MarchedField):
    """The teacher: rays with times and attributes -> marched samples -> features of points as the scene stands ->
    composited colours.

    Attributes that are not known (NaN) are drawn as 0, and rays without a known value are not learnt from. Where photos
    have times and some lack values, attributes are left aside: time tells all that changes.
    """

    conditions = ("times", "attributes")
    config: DynamicNGPConfig

    def __init__(
        self,
        config: DynamicNGPConfig,
        bounds: Bounds,
        background: Background,
        cameras: int,
        attributes: int = 0,
        timed: bool = True,
    ) -> None:
        """`cameras`: number of training cameras, for the refinement of their poses; `attributes`: how many there are;
        `timed`: whether the scene moves by itself."""
        super().__init__(config, bounds, background, cameras)
        self.attributes = attributes
        self.conditions = conditions_for(attributes, timed)
        self.moving = _moving(config, self.layout, timed + attributes)
        self.add_networks(self.moving.width)
        self.masks = None
        self.wants_attribute_masks = bool(attributes and config.mask_weight)
        if self.wants_attribute_masks:
            self.masks = _Masks(self.width, config.hidden, attributes)
        self.occupancy_looks = config.occupancy_times
        if config.random_backdrop and background != "opaque":
            self.backdrop = "random"

    @classmethod
    def from_scene(cls, config: Any, info: Any) -> MarchedField:
        """See `MarchedField.from_scene`.

        Raises:
            LumigraphError: the scene has neither times nor attributes, or there are attributes and no photo of which
                all are known.
        """
        values, times = info.cameras["train"].attributes, info.cameras["train"].times
        if values is None:
            check_captured_times(info, "dynamic-ngp", "ngp")
        elif times is None and not bool(torch.isfinite(values).all(1).any()):
            raise LumigraphError(
                "photos without times need the values of all attributes, and none has them",
                where=info.source,
                todo="Annotate some photos, or give every frame its time",
            )
        return super().from_scene(config, info)

    @classmethod
    def scene_options(cls, info: Any) -> dict[str, Any]:
        options = what_changes(info)
        values = info.cameras["train"].attributes
        if options["timed"] and options["attributes"] and bool(values.isnan().any()):
            log.warning(
                "some photos lack values of attributes: dynamic-ngp goes by the time alone; conerf learns attributes "
                "from few photos"
            )
            options["attributes"] = 0
        return options

    def features(
        self,
        points: Float[Tensor, "n 3"],
        standing: Float[Tensor, "n D"] | None,
        sizes: Float[Tensor, " n"] | None = None,
    ) -> Float[Tensor, "n width"]:
        return self.moving(points, standing)

    def feature_groups(self) -> list[ParameterGroup]:
        space_time = list(self.moving.space_time.parameters())
        groups = [
            ParameterGroup("grid", [self.moving.grid.table], self.config.lr, table=True, **ADAM),
            ParameterGroup("grids of time", space_time, self.config.time_lr, table=True, **ADAM),
        ]
        if self.moving.networks:
            groups.append(ParameterGroup("motion", self.moving.networks, self.config.time_lr, **ADAM))
        if self.masks is not None:
            masks = list(self.masks.parameters())
            groups.append(ParameterGroup("masks", masks, self.config.network_lr, **ADAM))
        return groups

    def reset_features(self) -> None:
        self.moving.reset()
        if self.masks is not None:
            reset_he(self.masks)

    def standing_of(self, rays: Rays) -> Float[Tensor, "n D"]:
        """The time where the scene moves by itself, then the attributes, of which -1 to 1 becomes 0 to 1."""
        self.require_conditions(rays)
        numbers = [rays.times[:, None]] if "times" in self.conditions and rays.times is not None else []
        if self.attributes and rays.attributes is not None:
            numbers.append(0.5 + 0.5 * rays.attributes.nan_to_num(0.0))
        return torch.cat(numbers, 1)

    def random_standing(self, count: int, generator: torch.Generator) -> Float[Tensor, "count D"]:
        """Anyhow, so that a cell is occupied if something is in it at some time and with some attributes."""
        return torch.rand(
            count, len(self.moving.space_time.grids) // 3, generator=generator, device=self.device
        )

    def losses(self, batch: Batch, step: int, seed: int) -> Losses:
        wanted = batch.attribute_masks
        if self.masks is not None and wanted is not None and not self.masks.told:
            self.masks.told.fill_(bool(torch.isfinite(wanted).any()))
        return super().losses(batch, step, seed)

    def seen_besides(
        self, features: Float[Tensor, "S width"], density: Float[Tensor, " S"], samples: Samples
    ) -> dict[str, Float[Tensor, "R *channels"]]:
        if self.masks is None or not self.masks.told:
            return {}
        packed = samples.t, samples.dt, samples.offsets
        return {"attribute_masks": composite_shares(density.detach(), self.masks(features), *packed)}

    def further_terms(self, batch: Batch, besides: dict[str, Tensor]) -> dict[str, Tensor]:
        """`masks`: their cross entropy with what photos say, times `mask_weight`."""
        if batch.attribute_masks is None or "attribute_masks" not in besides:
            return {}
        entropy = mask_cross_entropy(
            besides["attribute_masks"], batch.attribute_masks, self.known(batch.rays)
        )
        return {"masks": self.config.mask_weight * entropy}

    def known(self, rays: Rays) -> Bool[Tensor, " n"] | None:
        return rays_with_attributes(rays, self.attributes)

    def pixel_sampling(self) -> PixelSampling:
        return sampling_of(self.attributes)


class _Masks(nn.Module):
    """Features of a point -> the share of it that each attribute moves. `told`: whether photos have said any; until
    they do, no masks are drawn."""

    told: Tensor

    def __init__(self, width: int, hidden: int, attributes: int) -> None:
        super().__init__()
        self.network = small_mlp(width, hidden, 1, attributes)
        self.register_buffer("told", torch.tensor(False))

    def forward(self, features: Float[Tensor, "n width"]) -> Float[Tensor, "n A"]:
        return torch.sigmoid(self.network(features))


def _moving(config: DynamicNGPConfig, space: GridLayout, numbers: int) -> MovingFeatures:
    space_time = GridLayout(
        config.time_levels,
        config.time_features,
        config.time_log2_entries,
        config.time_base_resolution,
        config.time_finest_resolution,
    )
    if config.motion == "warp":
        return WarpedFeatures(
            space,
            space_time,
            config.time_share,
            numbers,
            hidden=config.motion_hidden,
            ambient=config.ambient,
        )
    return FactorisedFeatures(space, space_time, config.time_share, numbers)
