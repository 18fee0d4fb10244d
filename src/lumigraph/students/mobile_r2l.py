"""MobileR2L: a picture in one pass of a network of convolutions (Cao et al., CVPR 2023, arXiv 2212.08057).

The rays through the centres of patches of 8x8 (12x12) pixels become K = 8 points each, these become sines and cosines,
and a residual network of 1x1 convolutions with batch norm turns them into features, of which three transposed
convolutions make the picture. It learns from whole pictures of a teacher. How it renders and learns is in
`rendering/picture_light_field.py`, the network in `fields/ray_grid_network.py`.

Numbers of the paper (28 blocks, batch norm folded): 312 inputs, 4,143,107 parameters, 8.3 MB in half precision; of its
code, which has 29 blocks: 4,274,691 parameters, 50.6 billion multiply-adds for 800x800 pixels.
"""

from jaxtyping import Float
from torch import Tensor

from lumigraph.configs.mobile_r2l import MobileR2LConfig
from lumigraph.fields.ray_code import points_rows
from lumigraph.rendering.described_rays import Description, Lines
from lumigraph.rendering.picture_light_field import PictureLightField


class MobileR2L(PictureLightField):
    """The student of still scenes that answers with whole pictures."""

    config: MobileR2LConfig

    def describe(self, lines: Lines, depths: Float[Tensor, "K N1"]) -> Description:
        return Description(points_rows(lines.origins, lines.directions, depths), {})
