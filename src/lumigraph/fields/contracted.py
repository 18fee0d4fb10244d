"""Gaussians of unbounded space: contraction, and an encoding that keeps their shape (mip-NeRF 360, Barron et al., CVPR
2022, section 2 and supplement).

A Gaussian that is contracted by f becomes N(f(mean), J covariance J^T), with J the Jacobian of f at the mean: what is
far away, and long, lands as something small. It then leans in any direction, which the diagonal of its covariance does
not tell; so it is looked at along many directions, not the three axes alone.
"""

from itertools import combinations
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lumigraph.fields.conical import integrated_encoding

Solid = Literal["octahedron", "icosahedron"]


def contract_gaussians(
    means: Float[Tensor, "*s 3"], covariances: Float[Tensor, "*s 3 3"]
) -> tuple[Float[Tensor, "*s 3"], Float[Tensor, "*s 3 3"]]:
    """Means and covariances of Gaussians after contraction into the ball of radius 2, the identity within radius 1
    (mip-NeRF 360, equations 8 to 10).

    Where r = |x| > 1, contraction scales lengths by 1 / r^2 along x and by (2 - 1/r) / r across it.
    """
    largest = means.abs().amax(-1, keepdim=True).clamp(min=1)
    # Divided first, so that nothing overflows when squared.
    r = (largest * torch.linalg.vector_norm(means / largest, dim=-1, keepdim=True)).clamp(min=1)
    across = (2 - 1 / r) / r
    along = 1 / r.square()
    towards = means / r
    # (across (I - n n^T) + along n n^T) with |n| = 1 wherever along and across differ.
    jacobian = (along - across)[..., None] * (towards[..., :, None] * towards[..., None, :])
    jacobian = jacobian + across[..., None] * torch.eye(3, dtype=means.dtype, device=means.device)
    return means * across, jacobian @ covariances @ jacobian.transpose(-1, -2)


def directions_of(solid: Solid, subdivisions: int) -> Float[Tensor, "n 3"]:
    """Unit vectors, one of each pair of opposite vertices of a solid whose faces were cut into subdivisions^2 triangles
    and blown up to the sphere: 3 of the octahedron (the axes), 21 of the icosahedron cut in 2 (mip-NeRF 360,
    supplement)."""
    corners = _corners(solid)
    distances = torch.cdist(corners, corners)
    edge = float(distances[distances > 1e-6].min())
    near = (distances - edge).abs() < 1e-6
    points = []
    for a, b, c in combinations(range(len(corners)), 3):
        if near[a, b] and near[b, c] and near[a, c]:
            for i in range(subdivisions + 1):
                for j in range(subdivisions + 1 - i):
                    k = subdivisions - i - j
                    points.append((i * corners[a] + j * corners[b] + k * corners[c]) / subdivisions)
    unit = torch.nn.functional.normalize(torch.stack(points), dim=1)
    # Of opposite vertices the one whose last coordinate that is not 0 is positive.
    signs = torch.where(unit.abs() < 1e-6, 0, unit.sign())
    leading = torch.where(
        signs[:, 2] != 0, signs[:, 2], torch.where(signs[:, 1] != 0, signs[:, 1], signs[:, 0])
    )
    # Adding 0 makes -0 of a rounded number 0.
    return torch.unique((unit * leading[:, None] * 1e6).round() + 0.0, dim=0).flip(0).mul(1e-6).float()


def _corners(solid: Solid) -> Float[Tensor, "n 3"]:
    if solid == "octahedron":
        axes = torch.eye(3, dtype=torch.float64)
        return torch.cat([axes, -axes])
    golden = 0.5 * (1 + 5**0.5)
    points = []
    for first in (-1.0, 1.0):
        for second in (-golden, golden):
            points += [(0.0, first, second), (first, second, 0.0), (second, 0.0, first)]
    return torch.tensor(points, dtype=torch.float64)


class DirectionalEncoding(nn.Module):
    """The integrated encoding of Gaussians along the directions of a solid: 2 * octaves * directions numbers."""

    directions: Float[Tensor, "n 3"]

    def __init__(self, solid: Solid, subdivisions: int, octaves: int) -> None:
        super().__init__()
        self.octaves = octaves
        self.register_buffer("directions", directions_of(solid, subdivisions), persistent=False)

    @property
    def width(self) -> int:
        """Numbers per encoded Gaussian."""
        return 2 * self.octaves * len(self.directions)

    def forward(
        self, means: Float[Tensor, "*s 3"], covariances: Float[Tensor, "*s 3 3"]
    ) -> Float[Tensor, "*s F"]:
        """Encodes x along each direction u: mean u.x, variance u^T covariance u."""
        along = means @ self.directions.T
        variances = ((covariances @ self.directions.T) * self.directions.T).sum(-2)
        return integrated_encoding(along, variances, self.octaves)
