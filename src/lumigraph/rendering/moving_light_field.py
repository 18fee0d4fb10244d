"""Light fields of scenes that change: `moved_rays.py` moves a ray and makes its hyper code, then the light field
answers for both (DyLiN, Yu et al., CVPR 2023, arXiv 2303.14243)."""

from lumigraph.configs.light_field import MovingLightFieldConfig
from lumigraph.geometry.ndc import ForwardFrame
from lumigraph.rendering.background import Background
from lumigraph.rendering.light_field import LightField
from lumigraph.rendering.moved_rays import MovedRays


class MovingLightField(MovedRays, LightField):
    """A light field of moved rays and a hyper code [N, H]."""

    config: MovingLightFieldConfig

    def __init__(
        self,
        config: MovingLightFieldConfig,
        near: float,
        far: float,
        background: Background,
        frame: ForwardFrame | None,
        channels: int,
    ):
        """`channels`: numbers of the hyper code (H); see `LightField` for the others."""
        times_told = config.points if config.hyper_per_point else 1
        super().__init__(config, near, far, background, frame, 3 * config.points + times_told * channels)
        self.add_motion(channels)

    def memory_estimate(self, rays: int) -> int:
        """What a light field takes, and the activations of the small networks."""
        hard = int(max(self.config.hard_ratio) * rays)
        return super().memory_estimate(rays) + self.motion_memory(rays + hard)
