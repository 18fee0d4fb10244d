"""Instant-NGP (Mueller et al., SIGGRAPH 2022): the features of a point are those of a multi-resolution hash grid.

With cones a sample is a Gaussian as wide as the pixel sees there, for which levels fade whose cells are finer; it has
no extent along the ray, which the steps resolve. So pictures of any size that was trained on come out without aliasing.
"""

import logging
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from lumigraph.configs.ngp import NGPConfig
from lumigraph.fields.directions import spherical_harmonics
from lumigraph.fields.hashgrid import HashGrid
from lumigraph.geometry.bounds import Bounds, shrinkage, unit_cube
from lumigraph.geometry.cameras import Cameras, pixel_radii
from lumigraph.rendering.background import Background
from lumigraph.rendering.marched_field import ADAM, DIRECTION_DEGREE, MarchedField
from lumigraph.rendering.renderer import ParameterGroup
from lumigraph.rendering.volume.samples import CoreRays, Samples, StepRule, visible_samples

log = logging.getLogger("lumigraph")

SEVERAL_SIZES = 1.5
"""By how much the largest pixels differ from the smallest at least."""


class NGP(MarchedField):
    """The teacher: rays -> marched samples -> hash grid and networks -> composited colours."""

    def __init__(self, config: NGPConfig, bounds: Bounds, background: Background, cameras: int) -> None:
        """`cameras`: number of training cameras, for the refinement of their poses."""
        super().__init__(config, bounds, background, cameras)
        self.sees_cones = config.cones
        self.finest = 0.0
        """Of cones: size in core units of what the finest training pixel sees in the middle of the scene."""
        self.grid = HashGrid(self.layout)
        self.add_networks(self.layout.faded_width if config.cones else self.layout.width)

    @classmethod
    def from_scene(cls, config: NGPConfig, info: Any) -> "NGP":
        field = super().from_scene(config, info)
        assert isinstance(field, NGP)
        cameras: Cameras = info.cameras["train"]
        away = (cameras.camera_to_world[:, :, 3] - info.bounds.centre).norm(dim=1).median()
        field.finest = 0.5 * float(pixel_radii(cameras).min() * away) / field.half_side
        return field

    def read_for_training(self, info: Any) -> None:
        """Says so where cones cannot learn what they were asked for, which photos of one size do not show."""
        radii = pixel_radii(info.cameras["train"])
        if self.sees_cones and float(radii.max() / radii.min()) < SEVERAL_SIZES:
            log.warning(
                "all photos have pixels of one size, and cones know no other than they are trained on: --scales 4 "
                "teaches them larger ones"
            )

    def density(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """Density per unit of scene length, at points in scene units; with cones, as the finest training pixel sees
        them."""
        return self.core_density((points - self.centre) / self.half_side, None) / self.half_side

    def query(
        self, points: Float[Tensor, "n 3"], view_directions: Float[Tensor, "n 3"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 3"]]:
        """Density per unit of scene length and colour, at points in scene units seen along unit vectors."""
        encoded = self.features(unit_cube((points - self.centre) / self.half_side, self.unbounded), None)
        density, code = self.density_and_code(encoded)
        return density / self.half_side, self.colour_of(
            code, spherical_harmonics(view_directions, DIRECTION_DEGREE)
        )

    def features(
        self,
        points: Float[Tensor, "n 3"],
        standing: Float[Tensor, "n D"] | None,
        sizes: Float[Tensor, " n"] | None = None,
    ) -> Float[Tensor, "n width"]:
        if not self.sees_cones:
            return self.grid(points)
        return self.grid.faded(
            points, self.finest * shrinkage(points, self.unbounded) if sizes is None else sizes
        )

    def feature_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup("grid", [self.grid.table], self.config.lr, table=True, **ADAM)]

    def reset_features(self) -> None:
        self.grid.reset()

    def visible_samples(
        self,
        rays: CoreRays,
        standing: Float[Tensor, "R D"] | None,
        rule: StepRule,
        jitter: Float[Tensor, " R"],
        learning: bool = False,
    ) -> tuple[Samples, Int[Tensor, " S"]]:
        occupied = self.occupancy.occupied
        return visible_samples(rays, occupied, rule, self.unbounded, jitter, self.grid, self.geometry)
