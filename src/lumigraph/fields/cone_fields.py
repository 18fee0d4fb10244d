"""Fields that are asked about Gaussians instead of points: the network of Mip-NeRF, and a hash grid that knows scale.

B rays with K Gaussians each.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lumigraph.fields.conical import RayMoments, gaussian_means, gaussian_variances, integrated_encoding
from lumigraph.fields.directions import spherical_harmonics
from lumigraph.fields.first_weights import reset_he
from lumigraph.fields.hashgrid import GridLayout, HashGrid
from lumigraph.fields.nerf_mlp import NeRFMLP
from lumigraph.fields.small_mlp import small_mlp

DIRECTION_DEGREE = 4


class Gaussians(NamedTuple):
    """Where a field is asked: `means` [B, K, 3]; `variances` [B, K, 3] along the axes; `sizes` [B, K], the standard
    deviations of the round Gaussians of the same volume."""

    means: Tensor
    variances: Tensor
    sizes: Tensor

    @classmethod
    def of_points(cls, points: Float[Tensor, "n 3"]) -> "Gaussians":
        """Points as Gaussians without extent, one a ray."""
        points = points[:, None]
        return cls(points, torch.zeros_like(points), torch.zeros_like(points[..., 0]))

    @classmethod
    def along_rays(
        cls, moments: RayMoments, origins: Float[Tensor, "B 3"], directions: Float[Tensor, "B 3"]
    ) -> "Gaussians":
        """Those of intervals of rays. Their volume is that of deviations sqrt(t_var) |d| and twice sqrt(r_var)."""
        along = moments.t_var * directions.square().sum(-1, keepdim=True)
        sizes = (along * moments.r_var.square()).clamp(min=0).pow(1 / 6)
        means = gaussian_means(moments, origins, directions)
        return cls(means, gaussian_variances(moments, directions), sizes)

    def without_extent(self) -> "Gaussians":
        """Their means, as points."""
        return Gaussians(self.means, torch.zeros_like(self.variances), torch.zeros_like(self.sizes))


class ConeField(nn.Module):
    """What a teacher asks: raw densities (without activation), and colours in (0, 1)."""

    def forward(
        self, where: Gaussians, view_directions: Float[Tensor, "B 3"], dtype: torch.dtype
    ) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K 3"]]:
        """Raw density and colour of Gaussians seen along unit vectors. `dtype`: of large matrix products."""
        raise NotImplementedError

    def raw_density(self, where: Gaussians, dtype: torch.dtype) -> Float[Tensor, "B K"]:
        """Raw density alone."""
        raise NotImplementedError

    def reset(self) -> None:
        """Other first weights, which torch's random state decides."""
        raise NotImplementedError


class GaussianMLP(ConeField):
    """Mip-NeRF's network: NeRF's MLP on the integrated encoding (612,740 parameters with the published sizes). Weights
    start uniform as Glorot and Bengio (2010) have it, biases at zero."""

    def __init__(
        self, octaves: int, view_octaves: int, *, depth: int, width: int, skip: int | None, view_width: int
    ) -> None:
        super().__init__()
        self.octaves, self.view_octaves = octaves, view_octaves
        self.network = NeRFMLP(
            6 * octaves,
            3 + 6 * view_octaves,
            depth=depth,
            width=width,
            skip=skip,
            view_width=view_width,
            glorot=True,
        )

    def reset(self) -> None:
        self.network.reset()

    def forward(self, where: Gaussians, view_directions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        still = torch.zeros_like(view_directions)
        views = [view_directions, integrated_encoding(view_directions, still, self.view_octaves)]
        return self.network(self._encoded(where), torch.cat(views, -1)[:, None], dtype)

    def raw_density(self, where: Gaussians, dtype: torch.dtype) -> Tensor:
        return self.network.raw_density(self._encoded(where), dtype)

    def _encoded(self, where: Gaussians) -> Tensor:
        return integrated_encoding(where.means, where.variances, self.octaves)


class GaussianGrid(ConeField):
    """A hash grid whose levels fade where their cells are smaller than the Gaussian (see `HashGrid.faded`), with
    Instant-NGP's networks.

    Space is in core coordinates, in which the scene's box is [-1, 1]^3; outside of it, space is contracted (mip-NeRF
    360, equation 10, maximum norm) when the scene is unbounded.
    """

    def __init__(
        self, layout: GridLayout, unbounded: bool, *, hidden: int, geometry_features: int, colour_layers: int
    ) -> None:
        super().__init__()
        self.unbounded = unbounded
        self.grid = HashGrid(layout)
        self.geometry = small_mlp(layout.faded_width, hidden, 1, geometry_features)
        self.colour = small_mlp(DIRECTION_DEGREE**2 + geometry_features, hidden, colour_layers, 3)

    def reset(self) -> None:
        self.grid.reset()
        reset_he(self.geometry, self.colour)

    def forward(self, where: Gaussians, view_directions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Computes in float32 whatever `dtype` says: its networks are small."""
        code = self.geometry(self._encoded(where))
        rays, samples = where.sizes.shape
        seen = spherical_harmonics(view_directions, DIRECTION_DEGREE).repeat_interleave(samples, 0)
        rgb = torch.sigmoid(self.colour(torch.cat([seen, code], -1)))
        return code[:, 0].view(rays, samples), rgb.view(rays, samples, 3)

    def raw_density(self, where: Gaussians, dtype: torch.dtype) -> Tensor:
        hidden = self.geometry[:-1](self._encoded(where))
        return (hidden @ self.geometry[-1].weight[0]).view(where.sizes.shape)  # pyright: ignore

    def _encoded(self, where: Gaussians) -> Float[Tensor, "n width"]:
        points, sizes = self._in_unit_cube(where.means.flatten(0, 1), where.sizes.flatten())
        return self.grid.faded(points.contiguous(), sizes)

    def _in_unit_cube(self, points: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Points [n, 3] in the cube [0, 1]^3 of the grid, and sizes [n] in its units."""
        if not self.unbounded:
            return 0.5 * points + 0.5, 0.5 * sizes
        reach = points.abs().amax(1).clamp(min=1)
        across = (2 - 1 / reach) / reach
        # Contraction by `across` in two directions and 1 / reach^2 in the third: lengths shrink by its cube root.
        shrink = (across / reach).square().pow(1 / 3)
        return 0.25 * across[:, None] * points + 0.5, 0.25 * shrink * sizes
