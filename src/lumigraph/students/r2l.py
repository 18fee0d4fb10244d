"""R2L: one evaluation of a deep residual MLP per ray (Wang et al., ECCV 2022, arXiv 2203.17261).

A ray becomes K points between near and far (both ends included), these become sines and cosines, and 88 linear layers
with residual blocks turn them into a colour. There is no density and nothing to integrate, so it is learnt from the
pictures of a teacher. How it renders and learns is in `rendering/light_field.py`.

Numbers of the paper (W256 D88, K16, 10 octaves): 1008 inputs, 5,917,187 parameters, 5,894,912 multiply-adds per ray.
"""

from jaxtyping import Float
from torch import Tensor

from lumigraph.configs.r2l import R2LConfig
from lumigraph.fields.ray_code import plucker_rows, points_rows
from lumigraph.geometry.ndc import ForwardFrame
from lumigraph.rendering.background import Background
from lumigraph.rendering.described_rays import Description, Lines
from lumigraph.rendering.light_field import LightField


class R2L(LightField):
    """The student of still scenes: points along a ray, or its Plücker coordinates, to its colour."""

    config: R2LConfig

    def __init__(
        self,
        config: R2LConfig,
        near: float,
        far: float,
        background: Background,
        frame: ForwardFrame | None = None,
    ):
        """See `LightField`."""
        scalars = 3 * config.points if config.code == "points" else 6
        super().__init__(config, near, far, background, frame, scalars)

    @property
    def has_points(self) -> bool:
        return self.config.code == "points"

    def describe(self, lines: Lines, depths: Float[Tensor, "K N1"]) -> Description:
        if self.has_points:
            return Description(points_rows(lines.origins, lines.directions, depths), {})
        return Description(plucker_rows(lines.origins, lines.directions), {})
