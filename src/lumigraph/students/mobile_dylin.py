"""MobileDyLiN: a light field of a scene that changes which answers with a whole picture. It is DyLiN's motion (Yu et
al., CVPR 2023, arXiv 2303.14243) before MobileR2L's network (Cao et al., CVPR 2023, arXiv 2212.08057); none such was
published.

    e = PE(o, d, t, a_1..a_A)       (o', d') = (o, d) + OffsetMLP(e)       w = (HyperMLP(e), t, a_1..a_A)
    x_1..x_K = points along (o', d')       picture = ConvNet(PE(x_1..x_K, w) of the ray of each patch)

Time and attributes are told to the large network as well: what a small one makes of them comes late, for all rays of a
picture have the same.

There is one method for scenes that move and for those that attributes control, a_i in [-1, 1]: what is told of a ray
is one number more for both small networks. CoDyLiN has a network for each attribute, and masks that are learnt from
the masks of pixels; a ray that stands for a patch has no such mask. Without motion it is MobileR2L.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lumigraph.configs.mobile_dylin import MobileDyLiNConfig
from lumigraph.fields.ray_code import code_size
from lumigraph.geometry.ndc import ForwardFrame
from lumigraph.rendering.background import Background
from lumigraph.rendering.conditions import conditions_for, sampling_of, what_changes
from lumigraph.rendering.described_rays import Lines
from lumigraph.rendering.moved_rays import MovedRays
from lumigraph.rendering.picture_light_field import PictureLightField
from lumigraph.rendering.renderer import PixelSampling


class MobileDyLiN(MovedRays, PictureLightField):
    """The student of changing scenes that answers with whole pictures.

    Attributes that are not known (NaN) are drawn as 0, and pictures without a known value are not learnt from.
    """

    config: MobileDyLiNConfig
    conditions = ("times", "attributes")

    def __init__(
        self,
        config: MobileDyLiNConfig,
        near: float,
        far: float,
        background: Background,
        frame: ForwardFrame | None = None,
        attributes: int = 0,
        timed: bool = True,
    ):
        """`attributes`: how many there are; `timed`: whether the scene moves by itself. See `DescribedRays` for the
        others."""
        numbers = timed + attributes
        inputs = code_size(config.scalars_of(numbers), config.octaves)
        super().__init__(config, near, far, background, frame, inputs)
        self.attributes = attributes
        self.conditions = conditions_for(attributes, timed)
        self.add_motion(config.channels(numbers), numbers)

    @classmethod
    def scene_options(cls, info: Any) -> dict[str, Any]:
        return what_changes(info)

    def how_it_stands(self, lines: Lines) -> list[Float[Tensor, " N"]]:
        """The time where the scene moves by itself, then the attributes."""
        times = [lines.times] if "times" in self.conditions and lines.times is not None else []
        if not self.attributes or lines.attributes is None:
            return times
        return [*times, *lines.attributes.nan_to_num(0.0).unbind(1)]

    def hyper_codes(
        self, lines: Lines, moved: Lines, seen: Float[Tensor, "N E"]
    ) -> tuple[Float[Tensor, "N H"], dict[str, Tensor]]:
        """That of the small network, and how the scene stands."""
        code, extras = super().hyper_codes(lines, moved, seen)
        if not self.channels:
            return code, extras
        return torch.cat([code, torch.stack(self.how_it_stands(lines), 1)], 1), extras

    def pixel_sampling(self) -> PixelSampling:
        return sampling_of(self.attributes)

    def memory_estimate(self, rays: int) -> int:
        """What a light field of whole pictures takes, and the activations of the small networks."""
        return super().memory_estimate(rays) + self.motion_memory(rays // self.config.patch**2)
