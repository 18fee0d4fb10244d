"""What students share: a ray becomes a few numbers, its description, and a network answers for these.

What the numbers are is the method's: points along the ray, points along a ray that was moved, and so on. Where the
points lie and how the learning rate goes is the same for all. Students that answer for each ray are in
`light_field.py`, those that answer with a whole picture in `picture_light_field.py`.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lumigraph.configs.light_field import ScheduleConfig
from lumigraph.fields.ray_code import point_depths
from lumigraph.geometry.ndc import ForwardFrame
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.background import Background
from lumigraph.rendering.ray_extent import ray_extent
from lumigraph.rendering.renderer import Renderer
from lumigraph.rendering.schedules import student_schedule


class Lines(NamedTuple):
    """N rays where their points are taken: in the scene, or in normalised device coordinates."""

    origins: Float[Tensor, "N 3"]
    directions: Float[Tensor, "N 3"]
    times: Float[Tensor, " N"] | None
    attributes: Float[Tensor, "N A"] | None


class Description(NamedTuple):
    """What stands for N rays: `rows` [S, N], the numbers that are encoded, and further per-ray tensors [N, ...] that a
    rendering tells as its extras."""

    rows: Float[Tensor, "S N"]
    extras: dict[str, Tensor]


class DescribedRays(Renderer):
    """A renderer that sees the description of a ray. Colours are those on the scene's display background."""

    config: Any  # a ScheduleConfig; of rays that are described by points, a StudentConfig
    knows_bfloat16 = True

    def __init__(
        self,
        config: ScheduleConfig,
        near: float,
        far: float,
        background: Background,
        frame: ForwardFrame | None = None,
    ):
        """`near`, `far`: depths of the first and the last point, scene units; where a `frame` is given, in its
        normalised device coordinates."""
        super().__init__()
        self.config = config
        self.background = background
        self.near, self.far = near, far
        self.frame = frame

    @classmethod
    def from_scene(cls, config: Any, info: Any) -> "DescribedRays":
        near, far, frame = ray_extent(config, info)
        return cls(config, near, far, info.background, frame, **cls.scene_options(info))

    @classmethod
    def scene_options(cls, info: Any) -> dict[str, Any]:
        """What the constructor takes beside the config, the extent of rays and the background."""
        return {}

    def describe(self, lines: Lines, depths: Float[Tensor, "K N1"]) -> Description:
        """The numbers that stand for rays, with gradients; `depths`: where their points are taken."""
        raise NotImplementedError

    def _depths(self, jitter: Tensor | None) -> Tensor:
        near = torch.tensor(self.near, device=self.device)
        far = torch.tensor(self.far, device=self.device)
        return point_depths(self.config.points, near, far, jitter)

    def lines(
        self,
        origins: Float[Tensor, "N 3"],
        directions: Float[Tensor, "N 3"],
        times: Float[Tensor, " N"] | None = None,
        attributes: Float[Tensor, "N A"] | None = None,
    ) -> Lines:
        """Rays where their points are taken."""
        if self.frame is not None:
            origins, directions = self.frame.lines(origins, directions)
        return Lines(origins, directions, times, attributes)

    def lines_of(self, rays: Rays) -> Lines:
        """Flat rays where their points are taken.

        Raises:
            LumigraphError: the rays lack something that decides their colour.
        """
        self.require_conditions(rays)
        return self.lines(rays.origins, rays.directions, rays.times, rays.attributes)

    def lr_scale(self, step: int, progress: float) -> float:
        """See `student_schedule`."""
        return student_schedule(self.config, step, progress)
