"""CoDyLiN: a light field of a moving scene with attributes that are set when it is drawn (Yu et al., CVPR 2023,
arXiv 2303.14243). Its code was never published; this is a reconstruction:

    (o', d') = (o, d) + OffsetMLP(PE(o, d, t))
    w_0 = HyperMLP_0(PE(o, d, t))        w_i = HyperMLP_i(PE(o, d, a_i)), i = 1..A
    m = sigmoid(MaskMLP(PE(o', d')))     m_0 = 1 - clip(sum m, 0, 1)
    rgb = R2L_MLP(PE(x_1..x_K, m_0 w_0, m_1 w_1, .., m_A w_A))
    loss = MSE(rgb) + mask_weight BCE(m, masks of the teacher)

a_i is the value of attribute i, in [-1, 1]. What an attribute moves is elsewhere in the picture when its value changes,
which masks of the ray alone cannot follow; so they may see the attributes too (option `mask_sees_attributes`). Without
attributes it is DyLiN.
"""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lumigraph.configs.codylin import CoDyLiNConfig
from lumigraph.errors import LumigraphError
from lumigraph.fields.skip_mlp import SkipMLP
from lumigraph.geometry.ndc import ForwardFrame
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.attribute_masks import mask_cross_entropy
from lumigraph.rendering.background import Background
from lumigraph.rendering.conditions import conditions_for, rays_with_attributes, sampling_of, what_changes
from lumigraph.rendering.described_rays import Lines
from lumigraph.rendering.moved_rays import RAY
from lumigraph.rendering.moving_light_field import MovingLightField
from lumigraph.rendering.renderer import Batch, PixelSampling


class CoDyLiN(MovingLightField):
    """The student of controllable scenes: a ray, its time where the scene moves by itself, and attributes to a colour
    and masks.

    Values that are not known (NaN) are drawn as 0, and rays without a known value are not learnt from.
    """

    config: CoDyLiNConfig
    conditions = ("times", "attributes")
    needs = ("attributes",)
    wants_attribute_masks = True

    def __init__(
        self,
        config: CoDyLiNConfig,
        near: float,
        far: float,
        background: Background,
        frame: ForwardFrame | None = None,
        attributes: int = 0,
        timed: bool = True,
    ):
        """`attributes`: how many there are; `timed`: whether the scene moves by itself. See `LightField` for the
        others."""
        super().__init__(config, near, far, background, frame, (1 + attributes) * config.hyper_dims)
        self.attributes = attributes
        self.conditions = conditions_for(attributes, timed)
        networks = attributes if config.hyper_dims else 0
        self.attribute_hypers = nn.ModuleList(self.new_hyper() for _ in range(networks))
        self.mask = self._new_mask() if attributes else None

    @classmethod
    def scene_options(cls, info: Any) -> dict[str, Any]:
        return what_changes(info)

    def _new_mask(self) -> SkipMLP:
        config = self.config
        extra = self.attributes if config.mask_sees_attributes else 0
        network = self.small_network(
            RAY + extra,
            self.attributes,
            depth=config.mask_layers,
            width=config.mask_width,
            skip=config.mask_skip,
            zero=True,
        )
        # At first what moves by itself and each attribute have equal shares.
        nn.init.constant_(network.output.bias, -math.log(self.attributes))
        return network

    @property
    def copies(self) -> int:
        return 1 + self.attributes

    # ------------------------------------------------------------------ the code of a ray

    def hyper_codes(
        self, lines: Lines, moved: Lines, seen: Float[Tensor, "N E"]
    ) -> tuple[Float[Tensor, "N H"], dict[str, Tensor]]:
        code, extras = super().hyper_codes(lines, moved, seen)
        if self.mask is None or lines.attributes is None:
            return code, extras
        values = lines.attributes.nan_to_num(0.0).unbind(1)
        masks = self.mask(
            self.encoded(moved, *(values if self.config.mask_sees_attributes else ()))
        ).sigmoid()
        own = 1 - masks.sum(1, keepdim=True).clamp(0, 1)
        parts = [own * code]
        for number, network in enumerate(self.attribute_hypers):
            parts.append(masks[:, number, None] * network(self.encoded(lines, values[number])))
        return torch.cat(parts, 1), {"attribute_masks": masks}

    # ------------------------------------------------------------------ training

    def pixel_sampling(self) -> PixelSampling:
        return sampling_of(self.attributes)

    def known(self, rays: Rays) -> Bool[Tensor, " B"] | None:
        known = rays_with_attributes(rays, self.attributes)
        if known is not None and not bool(known.any()):
            raise LumigraphError(
                "no ray of the batch has known attributes: there is nothing to learn from",
                todo="Use photos, or a teacher, whose frames have values for all attributes",
            )
        return known

    def further_terms(self, batch: Batch, extras: dict[str, Tensor]) -> dict[str, Tensor]:
        """`masks`: the mean cross entropy with the masks that the batch knows, times `mask_weight`."""
        wanted = batch.attribute_masks
        if wanted is None or "attribute_masks" not in extras or not self.config.mask_weight:
            return {}
        entropy = mask_cross_entropy(extras["attribute_masks"], wanted, self.known(batch.rays))
        return {"masks": self.config.mask_weight * entropy}
