"""The networks of fields that are sampled with proposals: an encoding of intervals of rays, a trunk that gives density,
and layers that colour.

Space is in core coordinates: the scene's box is [-1, 1]^3, and where the scene is unbounded, what lies beyond is
contracted. B rays with K intervals between K + 1 edges of t.
"""

import math
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lumigraph.fields.activations import truncated_exp
from lumigraph.fields.conical import (
    conical_moments,
    cylindrical_moments,
    gaussian_covariances,
    gaussian_means,
    integrated_encoding,
)
from lumigraph.fields.contracted import DirectionalEncoding, Solid, contract_gaussians
from lumigraph.fields.hashgrid import GridLayout, HashGrid
from lumigraph.geometry.bounds import unit_cube

DENSITY_BIAS = -1.0
RGB_PADDING = 0.001
"""Colours may leave [0, 1] by this much, so that black and white are reached (Mip-NeRF)."""


class Cones(NamedTuple):
    """Rays in core coordinates: `origins` and `directions` [B, 3], `radii` [B] at t = 1. t is depth in scene units;
    where these are rays in normalised device coordinates, t is theirs, and they are `cylinders` of these radii."""

    origins: Tensor
    directions: Tensor
    radii: Tensor
    cylinders: bool = False


class Encoder(Protocol):
    """Numbers for intervals of rays, and for points."""

    width: int

    def along(self, cones: Cones, edges: Float[Tensor, "B K1"]) -> tuple[Tensor, Tensor | None]:
        """Where each interval is looked at: points [n, 3], and covariances [n, 3, 3] where they count; n = B K."""
        ...

    def __call__(self, points: Float[Tensor, "n 3"], covariances: Tensor | None) -> Float[Tensor, "n width"]:
        """Encodes them; without covariances, as points."""
        ...


class GaussianEncoder(nn.Module):
    """Intervals of cones as Gaussians, contracted where space is unbounded, encoded along directions of a solid."""

    def __init__(self, unbounded: bool, solid: Solid, subdivisions: int, octaves: int) -> None:
        super().__init__()
        self.unbounded = unbounded
        self.encoding = DirectionalEncoding(solid, subdivisions, octaves)
        self.width = self.encoding.width

    def along(self, cones: Cones, edges: Float[Tensor, "B K1"]) -> tuple[Tensor, Tensor]:
        """Means and covariances of the pieces of cones, or cylinders, between edges."""
        moments = (cylindrical_moments if cones.cylinders else conical_moments)(edges, cones.radii)
        means = gaussian_means(moments, cones.origins, cones.directions)
        return means.flatten(0, 1), gaussian_covariances(moments, cones.directions).flatten(0, 1)

    def forward(self, points: Float[Tensor, "n 3"], covariances: Tensor | None) -> Float[Tensor, "n width"]:
        if covariances is None:
            covariances = points.new_zeros(len(points), 3, 3)
        if self.unbounded:
            points, covariances = contract_gaussians(points, covariances)
        return self.encoding(points, covariances)


class GridEncoder(nn.Module):
    """Middles of intervals in a hash grid; unbounded space is contracted in the maximum norm, which fills its cube."""

    def __init__(self, unbounded: bool, layout: GridLayout) -> None:
        super().__init__()
        self.unbounded = unbounded
        self.grid = HashGrid(layout)
        self.width = layout.width

    def along(self, cones: Cones, edges: Float[Tensor, "B K1"]) -> tuple[Tensor, None]:
        """Points in the middle of intervals."""
        middles = 0.5 * (edges[:, 1:] + edges[:, :-1])
        points = cones.origins[:, None] + middles[..., None] * cones.directions[:, None]
        return points.flatten(0, 1), None

    def forward(self, points: Float[Tensor, "n 3"], covariances: Tensor | None) -> Float[Tensor, "n width"]:
        return self.grid(unit_cube(points, self.unbounded))


class DensityField(nn.Module):
    """Encoding -> trunk -> density per unit of core length. The trunk's sixth layer sees the encoding again. Densities
    are softplus(x - 1) of Gaussians (Mip-NeRF), exp(x) on a grid (Instant-NGP)."""

    SKIP = 5

    def __init__(self, encoder: nn.Module, depth: int, width: int) -> None:
        super().__init__()
        self.encoder: Encoder = encoder  # pyright: ignore[reportAttributeAccessIssue]
        self.on_grid = isinstance(encoder, GridEncoder)
        # Without bias, as Instant-NGP: one that all of space shares lets density vanish everywhere at once, where most
        # of the photos is background.
        self.bias = not self.on_grid
        inputs = self.encoder.width
        widths = [inputs, *[width] * (depth - 1)]
        self.trunk = nn.ModuleList(
            nn.Linear(before + (inputs if place == self.SKIP else 0), width, bias=self.bias)
            for place, before in enumerate(widths)
        )
        self.density = nn.Linear(width, 1, bias=self.bias)

    def reset(self) -> None:
        """New random weights, uniform as He et al. (2015); biases are zero."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                _initialise(layer, layer.in_features)
            elif isinstance(layer, HashGrid):
                layer.reset()

    def hidden(self, points: Tensor, covariances: Tensor | None) -> Float[Tensor, "n W"]:
        """What the trunk makes of Gaussians or points."""
        encoded = x = self.encoder(points, covariances)
        for place, layer in enumerate(self.trunk):
            x = functional.relu(layer(torch.cat([x, encoded], 1) if place == self.SKIP else x), inplace=True)
        return x

    def density_of(self, hidden: Float[Tensor, "n W"], noise: Tensor | float = 0.0) -> Float[Tensor, " n"]:
        """Densities; `noise` is added before the activation."""
        raw = self.density(hidden)[:, 0] + noise
        return truncated_exp(raw) if self.on_grid else functional.softplus(raw + DENSITY_BIAS)


class RadianceField(DensityField):
    """A density field that also has colours, which depend on view direction and camera."""

    def __init__(
        self,
        encoder: nn.Module,
        depth: int,
        width: int,
        *,
        bottleneck: int,
        view_layers: int,
        view_width: int,
        view_octaves: int,
        codes: int,
        normals: bool = False,
    ) -> None:
        """`normals`: whether it predicts them."""
        super().__init__(encoder, depth, width)
        self.view_octaves = view_octaves
        ray_width = (3 + 6 * view_octaves if view_octaves else 0) + codes
        self.bottleneck = nn.Linear(width, bottleneck, bias=self.bias)
        # The first layer that colours, in two parts: what differs between samples, and what a ray has in common, which
        # is computed once for all of its samples.
        self.sample_layer = nn.Linear(bottleneck, view_width, bias=self.bias)
        self.ray_layer = nn.Linear(ray_width, view_width, bias=False) if ray_width else None
        self.view = nn.ModuleList(
            nn.Linear(view_width, view_width, bias=self.bias) for _ in range(view_layers - 1)
        )
        self.rgb = nn.Linear(view_width, 3, bias=self.bias)
        self.normal = nn.Linear(width, 3, bias=self.bias) if normals else None
        self.reset()

    def reset(self) -> None:
        super().reset()
        if self.ray_layer is not None:
            inputs = self.ray_layer.in_features + self.sample_layer.in_features
            _initialise(self.sample_layer, inputs)
            _initialise(self.ray_layer, inputs)

    def predicted_normals(self, hidden: Float[Tensor, "n W"]) -> Float[Tensor, "n 3"] | None:
        """Unit normals as the field predicts them (Ref-NeRF, section 4.2), None where it does not."""
        if self.normal is None:
            return None
        return -functional.normalize(self.normal(hidden), dim=1, eps=1e-6)

    def rays_part(
        self, view_directions: Float[Tensor, "B 3"], codes: Tensor | None
    ) -> Float[Tensor, "B V"] | None:
        """What view direction and code of each ray add to the first layer that colours."""
        if self.ray_layer is None:
            return None
        parts = [] if codes is None else [codes]
        if self.view_octaves:
            zero = torch.zeros_like(view_directions)
            parts = [view_directions, integrated_encoding(view_directions, zero, self.view_octaves), *parts]
        return self.ray_layer(torch.cat(parts, 1))

    def colours(self, bottleneck: Float[Tensor, "n b"], rays_part: Tensor | None) -> Float[Tensor, "n 3"]:
        """Colours of samples; `rays_part` [n, V] is that of the ray of each."""
        x = self.sample_layer(bottleneck)
        x = functional.relu(x if rays_part is None else x + rays_part)
        for layer in self.view:
            x = functional.relu(layer(x))
        return torch.sigmoid(self.rgb(x)) * (1 + 2 * RGB_PADDING) - RGB_PADDING


def _initialise(layer: nn.Linear, inputs: int) -> None:
    bound = math.sqrt(6 / inputs)
    nn.init.uniform_(layer.weight, -bound, bound)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
