"""DyLiN: a light field of a moving scene (Yu et al., CVPR 2023, arXiv 2303.14243).

    e = PE(o, d, t)        (o', d') = (o, d) + OffsetMLP(e)        w = HyperMLP(e)
    x_1..x_K = points along (o', d')        rgb = R2L_MLP(PE(x_1..x_K, w))

Differences from the published code: the heads of both small networks begin at zero (option `zero_heads`), so that the
scene begins still; the rest is in `rendering/moving_light_field.py` and `rendering/light_field.py`.

Numbers of the paper: 5,960,195 + 137,606 + 40,200 = 6,138,001 parameters.
"""

from lumigraph.configs.dylin import DyLiNConfig
from lumigraph.geometry.ndc import ForwardFrame
from lumigraph.rendering.background import Background
from lumigraph.rendering.moving_light_field import MovingLightField


class DyLiN(MovingLightField):
    """The student of moving scenes: a ray and its time to a colour."""

    config: DyLiNConfig
    conditions = ("times",)
    needs = ("times",)

    def __init__(
        self,
        config: DyLiNConfig,
        near: float,
        far: float,
        background: Background,
        frame: ForwardFrame | None = None,
    ):
        """See `LightField`."""
        super().__init__(config, near, far, background, frame, config.hyper_dims)
