"""Pieces of cones as Gaussians, and what an encoding is on average over them (Mip-NeRF, Barron et al., ICCV 2021).

A pixel sees a cone. The piece of it between two depths is a conical frustum, which Mip-NeRF describes by a Gaussian
of the same mean and covariance; its encoding is the expected positional encoding of that Gaussian, in which the
frequencies finer than the Gaussian fade.

Letters: `o`, `d` origin and direction (not normalised), `t` depth along the ray, K number of intervals, L number of
octaves. A ray's radius is that of its pixel's footprint at t = 1, times the 2 / sqrt(12) of Mip-NeRF section 3.1.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

_SMALL = 1e-10
"""Least squared length of a direction, below which it is taken to have none."""


class RayMoments(NamedTuple):
    """Gaussians around a ray, in the ray's own terms, each [*s, K]: `t_mean` and `t_var` are mean and variance of t,
    `r_var` is the variance along each axis that is perpendicular to the ray, in squared units of space."""

    t_mean: Tensor
    t_var: Tensor
    r_var: Tensor


# ------------------------------------------------------------------ intervals of rays


def conical_moments(edges: Float[Tensor, "*s K1"], radii: Float[Tensor, "*s"]) -> RayMoments:
    """Gaussians of the conical frustums between neighbouring `edges` of t, for cones of `radii` at t = 1 (Mip-NeRF,
    equation 7, which is exact).

    With middle m and half length h of an interval and q = h^2 / (3 m^2 + h^2) in [0, 1], which nothing divides:
    mean m (1 + 2 q), variance h^2 (1/3 - 4/15 q (4 - 5 q)), and across r^2 (m^2 / 4 + h^2 (5/12 - 4/15 q)).
    """
    middle, half = _middles(edges)
    squared = half.square()
    q = squared / (3 * middle.square() + squared).clamp(min=torch.finfo(edges.dtype).tiny)
    across = 0.25 * middle.square() + squared * (5 / 12 - 4 / 15 * q)
    return RayMoments(
        t_mean=middle * (1 + 2 * q),
        t_var=squared * (1 / 3 - 4 / 15 * q * (4 - 5 * q)),
        r_var=radii[..., None].square() * across,
    )


def cylindrical_moments(edges: Float[Tensor, "*s K1"], radii: Float[Tensor, "*s"]) -> RayMoments:
    """Gaussians of the cylinders of `radii` between neighbouring `edges` of t: for rays in normalised device
    coordinates, in which a pixel's footprint does not grow with t (Mip-NeRF, supplement)."""
    middle, half = _middles(edges)
    return RayMoments(
        t_mean=middle,
        t_var=half.square() / 3,
        r_var=(0.25 * radii.square())[..., None].expand_as(middle),
    )


def _middles(edges: Tensor) -> tuple[Tensor, Tensor]:
    """Middles and half lengths of the intervals, [*s, K]."""
    return 0.5 * (edges[..., 1:] + edges[..., :-1]), 0.5 * (edges[..., 1:] - edges[..., :-1])


# ------------------------------------------------------------------ Gaussians in space


def gaussian_means(
    moments: RayMoments, origins: Float[Tensor, "*s 3"], directions: Float[Tensor, "*s 3"]
) -> Float[Tensor, "*s K 3"]:
    """Means o + t_mean d of Gaussians around rays."""
    return origins[..., None, :] + moments.t_mean[..., None] * directions[..., None, :]


def gaussian_variances(moments: RayMoments, directions: Float[Tensor, "*s 3"]) -> Float[Tensor, "*s K 3"]:
    """Diagonals of the covariances, t_var d*d + r_var (1 - d*d / |d|^2) (Mip-NeRF, equation 16)."""
    outer = directions.square()
    across = 1 - outer / outer.sum(-1, keepdim=True).clamp(min=_SMALL)
    along = moments.t_var[..., None] * outer[..., None, :]
    return along + moments.r_var[..., None] * across[..., None, :]


def gaussian_covariances(moments: RayMoments, directions: Float[Tensor, "*s 3"]) -> Float[Tensor, "*s K 3 3"]:
    """Covariances t_var d d^T + r_var (I - d d^T / |d|^2) (Mip-NeRF, equation 8)."""
    outer = directions[..., :, None] * directions[..., None, :]
    length = directions.square().sum(-1).clamp(min=_SMALL)
    across = torch.eye(3, dtype=outer.dtype, device=outer.device) - outer / length[..., None, None]
    along = moments.t_var[..., None, None] * outer[..., None, :, :]
    return along + moments.r_var[..., None, None] * across[..., None, :, :]


# ------------------------------------------------------------------ encoding


def integrated_encoding(
    means: Float[Tensor, "*s D"], variances: Float[Tensor, "*s D"], octaves: int
) -> Float[Tensor, "*s F"]:
    """Expected sines and cosines of 2^l x, l = 0 .. octaves - 1, for x from axis-aligned Gaussians (Mip-NeRF, equations
    13 and 14): sin(2^l mean) exp(-4^l variance / 2), then the same of the cosine; F = 2 L D.

    All sines come first, octave by octave with the axes inside. With variances of zero this is NeRF's encoding of the
    means (without pi, and without the coordinates themselves).
    """
    scales = 2.0 ** torch.arange(octaves, dtype=means.dtype, device=means.device)
    phase = (means[..., None, :] * scales[:, None]).flatten(-2)
    faded = torch.exp(-0.5 * (variances[..., None, :] * scales.square()[:, None]).flatten(-2))
    return torch.cat([torch.sin(phase) * faded, torch.cos(phase) * faded], -1)
