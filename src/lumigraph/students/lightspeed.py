"""LightSpeed: a picture in one pass, from grids over the coordinates of rays (Gupta et al., NeurIPS 2023,
arXiv 2310.16832; its code was never published, so this is a reconstruction).

    features of a ray = what bilinear interpolation finds in the grids of all pairs of its coordinates, side by side
    picture = ConvNet(features of the ray of each patch)

In a forward-facing scene the coordinates are those of a light slab, where a ray crosses two planes: those of normalised
device coordinates at its near end and at infinity, four coordinates, six pairs, as published. Around an object no two
planes are crossed by all rays, and the paper divides such scenes into parts with a slab and grids each. Here one
network does: a ray is told by its point nearest to the scene's centre and by its direction, six coordinates,
fifteen pairs. These are Plücker coordinates (d, m), with d x m in the place of m; they are the same wherever on the ray
the camera stands, and nowhere singular.

The network is MobileR2L's (`fields/ray_grid_network.py`), how it renders and learns is in
`rendering/picture_light_field.py`.
"""

from itertools import product
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lumigraph.configs.lightspeed import LightSpeedConfig
from lumigraph.fields.plane_grids import PlaneGrids, plane_count
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.ndc import ForwardFrame
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.background import Background
from lumigraph.rendering.picture_light_field import PictureLightField
from lumigraph.rendering.ray_extent import ray_frame
from lumigraph.rendering.renderer import ParameterGroup

_MARGIN = 1.1
"""How much further than the training cameras see the slab's grids reach."""


class LightSpeed(PictureLightField):
    """The student of still scenes that looks features of rays up in grids."""

    config: LightSpeedConfig

    def __init__(
        self,
        config: LightSpeedConfig,
        background: Background,
        frame: ForwardFrame | None = None,
        centre: tuple[float, float, float] = (0.0, 0.0, 0.0),
        radius: float = 1.0,
        reach: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0),
    ):
        """`centre`, `radius`: of the ball within the scene's box, scene units. `reach`: where there is a `frame`, how
        far the grids go in each of the four coordinates."""
        dimensions = 6 if frame is None else 4
        inputs = config.inputs_of(plane_count(dimensions))
        super().__init__(config, 0.0, 1.0, background, frame, inputs)
        self.grids = PlaneGrids(dimensions, config.features, config.resolutions)
        self.centre, self.radius, self.reach = centre, radius, reach

    @classmethod
    def from_scene(cls, config: Any, info: Any) -> "LightSpeed":
        frame = ray_frame(config, info)
        if frame is not None:
            return cls(config, info.background, frame, reach=slab_reach(frame, info.cameras["train"]))
        x, y, z = info.bounds.centre.tolist()
        return cls(config, info.background, None, (x, y, z), float(info.bounds.half_extent.max()))

    # ------------------------------------------------------------------ the code of a ray

    def coordinates(
        self, origins: Float[Tensor, "N 3"], directions: Float[Tensor, "N 3"]
    ) -> Float[Tensor, "N D"]:
        """Of rays in the scene; in [-1, 1] for all that the training cameras see, or that meets the ball."""
        if self.frame is not None:
            return slab(self.frame, origins, directions) / origins.new_tensor(self.reach)
        directions = directions / directions.norm(dim=-1, keepdim=True)
        origins = (origins - origins.new_tensor(self.centre)) / self.radius
        nearest = origins - (origins * directions).sum(-1, keepdim=True) * directions
        return torch.cat([nearest, directions], -1)

    def codes(self, rays: Rays, jitter: Float[Tensor, "K N"] | None = None) -> Float[Tensor, "B E h w"]:
        """The features of the rays [B, h, w] of a grid, in float32."""
        flat = rays.flatten()
        code = self.grids(self.coordinates(flat.origins, flat.directions))
        return code.reshape(*rays.shape, -1).permute(0, 3, 1, 2)

    # ------------------------------------------------------------------ training

    def _jitter(self, rays: int, step: int, seed: int) -> None:
        """There are no points to move."""

    def optimisers(self) -> list[ParameterGroup]:
        grids = list(self.grids.parameters())
        return [
            *super().optimisers(),
            ParameterGroup("grids", grids, self.config.grid_lr, optimiser="adamw", weight_decay=0.0),
        ]


def slab(
    frame: ForwardFrame, origins: Float[Tensor, "N 3"], directions: Float[Tensor, "N 3"]
) -> Float[Tensor, "N 4"]:
    """x and y of rays in the first and in the last plane of normalised device coordinates."""
    starts, along = frame.lines(origins, directions)
    return torch.cat([starts[:, :2], (starts + along)[:, :2]], -1)


def slab_reach(frame: ForwardFrame, cameras: Cameras) -> tuple[float, ...]:
    """How far the rays of the corners of all pictures lie from the middle of the planes, with some room."""
    width, height = cameras.size.unbind(1)
    index = torch.arange(len(cameras))
    corners = [cameras.rays(index, x * (width - 1), y * (height - 1)) for x, y in product((0, 1), repeat=2)]
    found = torch.cat([slab(frame, rays.origins, rays.directions) for rays in corners])
    return tuple((_MARGIN * found.abs().amax(0)).tolist())
