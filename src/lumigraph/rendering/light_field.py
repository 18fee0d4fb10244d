"""Light fields: renderers that answer with one evaluation of a residual MLP per ray.

A ray becomes a few numbers, its description; these become sines and cosines, and the MLP turns them into a colour. What
the numbers are is the method's: points along the ray (R2L, Wang et al., ECCV 2022, arXiv 2203.17261), points along
a ray that was moved (DyLiN). All else, from the schedule to the fused training step, is here.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lumigraph.configs.light_field import LightFieldConfig
from lumigraph.errors import LumigraphError
from lumigraph.fields.ray_code import code_size, positional_encoding
from lumigraph.fields.residual_mlp import (
    FusedError,
    PackedMLP,
    ResidualMLP,
    Workspace,
    fused_forward,
    fusible_parameters,
    plain_forward,
    squared_error,
)
from lumigraph.geometry.ndc import ForwardFrame
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.background import Background, display_target
from lumigraph.rendering.described_rays import DescribedRays, Lines
from lumigraph.rendering.randomness import step_generator
from lumigraph.rendering.renderer import Batch, Losses, ParameterGroup, Rendering

FUSED_CHUNK = 3072
"""Rays that go through the network together on a CPU: large enough for the matrix products, small for the caches."""
_STREAM = 0xD1342543DE82EF95
"""Odd 64-bit constant that keeps the jitter of different seeds apart."""


class LightField(DescribedRays):
    """Description of a ray -> encoding -> residual MLP -> colour (and, if configured, depth). Colours are those on the
    scene's display background."""

    config: LightFieldConfig
    chunk = 1 << 16

    def __init__(
        self,
        config: LightFieldConfig,
        near: float,
        far: float,
        background: Background,
        frame: ForwardFrame | None,
        scalars: int,
    ):
        """`near`, `far`: depths of the first and the last point, scene units; where a `frame` is given, in its
        normalised device coordinates. `scalars`: numbers of a description."""
        super().__init__(config, near, far, background, frame)
        self.network = ResidualMLP(
            code_size(scalars, config.octaves),
            4 if config.learn_depth else 3,
            config.width,
            config.depth,
            layers_per_block=config.layers_per_block,
            residual=config.residual,
            global_skip=config.global_skip,
            residual_scale=config.residual_scale,
            activation=config.activation,
            inner_activation=config.inner_activation,
            outer_activation=config.outer_activation,
        )
        self.scalars = scalars
        self._work = Workspace()
        self._packed: tuple[Any, PackedMLP] | None = None

    # ------------------------------------------------------------------ what a method says

    @property
    def has_points(self) -> bool:
        """Whether rays are described by points along them, which jitter can move."""
        return True

    def known(self, rays: Rays) -> Bool[Tensor, " B"] | None:
        """Which rays have all that the colour depends on; None for all. The others are not learnt from."""
        return None

    def further_terms(self, batch: Batch, extras: dict[str, Tensor]) -> dict[str, Tensor]:
        """Loss terms beside those of colour and depth."""
        return {}

    # ------------------------------------------------------------------ the code of a ray

    def lines(
        self,
        origins: Float[Tensor, "N 3"],
        directions: Float[Tensor, "N 3"],
        times: Float[Tensor, " N"] | None = None,
        attributes: Float[Tensor, "N A"] | None = None,
    ) -> Lines:
        """Rays where their points are taken."""
        if self.config.unit_directions:
            directions = directions / directions.norm(dim=-1, keepdim=True)
        return super().lines(origins, directions, times, attributes)

    def outputs(self, rows: Float[Tensor, "S N"]) -> Float[Tensor, "N C"]:
        """The network on rays that `rows` describe, in plain torch: red, green, blue, and depth where it is learnt."""
        code = positional_encoding(rows.T, self.config.octaves)
        return plain_forward(self.network, code, self.compute_dtype)

    def ray_codes(
        self,
        origins: Float[Tensor, "N 3"],
        directions: Float[Tensor, "N 3"],
        times: Float[Tensor, " N"] | None = None,
        attributes: Float[Tensor, "N A"] | None = None,
    ) -> Float[Tensor, "N E"]:
        """What the network sees of rays, without jitter: a graph of standard operators, for export. Which of `times`
        and `attributes` it wants, `conditions` says."""
        lines = self.lines(origins, directions, times, attributes)
        return positional_encoding(self.describe(lines, self._depths(None)).rows.T, self.config.octaves)

    # ------------------------------------------------------------------ rendering

    @property
    def fused(self) -> bool:
        """Whether the fused network of `fields.residual_mlp` is used: on a CPU, for the published structure."""
        return self.device.type == "cpu" and self.network.fusible

    @torch.no_grad()
    def render(self, rays: Rays) -> Rendering:
        flat = rays.flatten()
        rows, extras = self.describe(self.lines_of(flat), self._depths(None))
        if self.fused:
            outputs = fused_forward(self._pack(), rows, FUSED_CHUNK, self._work)
        else:
            outputs = self.outputs(rows)
        depth = None
        if self.config.learn_depth:
            depth = self._to_depth(self.near + (self.far - self.near) * outputs[:, 3], flat)
        return Rendering(rgb=outputs[:, :3], depth=depth, extras=extras).reshape(*rays.shape)

    def _to_depth(self, along: Tensor, rays: Rays) -> Tensor:
        """Depth in the scene of what lies at these parameters of the lines."""
        if self.frame is not None:
            return self.frame.depth(along, rays)
        return along / rays.directions.norm(dim=-1) if self.config.unit_directions else along

    def _from_depth(self, depth: Tensor, rays: Rays) -> Tensor:
        """The inverse of `_to_depth`."""
        if self.frame is not None:
            return self.frame.ndc(depth, rays)
        return depth * rays.directions.norm(dim=-1) if self.config.unit_directions else depth

    def _pack(self) -> PackedMLP:
        """The weights as the fused network wants them; kept as long as they do not change."""
        parameters = fusible_parameters(self.network)
        key = (self.compute_dtype, [(parameter.data_ptr(), parameter._version) for parameter in parameters])
        if self._packed is None or self._packed[0] != key:
            packed = PackedMLP(
                list(parameters), self.compute_dtype, self.config.octaves, self.config.global_skip
            )
            self._packed = (key, packed)
        return self._packed[1]

    # ------------------------------------------------------------------ training

    @property
    def rays_per_step(self) -> int:
        return self.config.rays

    def losses(self, batch: Batch, step: int, seed: int) -> Losses:
        """Mean squared error of the colours, `depth_weight` times that of the depth where the batch has it, and what
        the method adds."""
        rays = batch.rays
        rows, extras = self.describe(self.lines_of(rays), self._depths(self._jitter(len(rays), step, seed)))
        known = self.known(rays)
        targets, weights = self._targets(batch, known)
        if self.fused:
            parameters = fusible_parameters(self.network)
            total, error = FusedError.apply(
                rows, targets, weights, self._pack(), FUSED_CHUNK, self._work, *parameters
            )  # type: ignore[misc]
        else:
            error = squared_error(self.outputs(rows), targets)
            total, error = (error * weights).sum(), error.detach()
        terms = {"rgb": total}
        if targets.shape[1] == 4:
            # The value of one term; the gradient of both is in the other.
            terms["depth"] = (error[:, 3] * weights[:, 3]).sum()
            terms["rgb"] = total - terms["depth"]
        terms |= self.further_terms(batch, extras)
        seen = error[:, :3].mean(1)
        # What is not learnt from is not hard: a pool of hard rays would fill up with it.
        return Losses(terms=terms, squared_error=seen if known is None else seen * known)

    def _jitter(self, rays: int, step: int, seed: int) -> Tensor | None:
        if not self.config.perturb or not self.has_points:
            return None
        generator = step_generator(_STREAM, seed, step, self.device)
        return torch.rand(self.config.points, rays, generator=generator, device=self.device)

    def _targets(self, batch: Batch, known: Tensor | None) -> tuple[Tensor, Tensor]:
        """What each output should be [B, C], and the weight of its squared error [B, C]."""
        colours = display_target(batch.rgba, self.background)
        weights = torch.full_like(colours, 1 / colours.numel())
        if known is not None:
            share = known.float().mean().clamp(min=1 / len(known))
            weights = weights * (known / share).unsqueeze(1)
        if not self.config.learn_depth:
            return colours, weights
        depth, of_depth = self._depth_targets(batch, known)
        return torch.cat([colours, depth.unsqueeze(1)], 1), torch.cat([weights, of_depth.unsqueeze(1)], 1)

    def _depth_targets(self, batch: Batch, known: Tensor | None) -> tuple[Tensor, Tensor]:
        """Depth [B] scaled to 0..1, and the weight of its squared error."""
        if batch.depth is None:
            raise LumigraphError(
                "depth is to be learnt, and the labels have none",
                todo="Bake with --depth, distil live, or leave --learn-depth out",
            )
        depth = self._from_depth(batch.depth, batch.rays)
        scaled = ((depth - self.near) / (self.far - self.near)).clamp(0, 1)
        told = torch.isfinite(scaled) if known is None else torch.isfinite(scaled) & known
        share = self.config.depth_weight / told.sum().clamp(min=1)
        return torch.where(told, scaled, 0), told * share

    def optimisers(self) -> list[ParameterGroup]:
        return [ParameterGroup("network", list(self.network.parameters()), self.config.lr)]

    def memory_estimate(self, rays: int) -> int:
        """Weights, gradients and moments; the batch; and the activations of a chunk (of all rays when not fused)."""
        layers = self.config.depth + 4
        inputs = code_size(self.scalars, self.config.octaves)
        at_once = min(rays, FUSED_CHUNK) if self.fused else rays
        hard = int(max(self.config.hard_ratio) * rays)
        per_ray = 4 * (
            (3 if self.fused else 5) * inputs + (1 if self.fused else 3) * layers * self.config.width
        )
        described = 4 * (64 + 2 * self.scalars) * (rays + hard)
        return super().memory_estimate(rays) + at_once * per_ray + described
