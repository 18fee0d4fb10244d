"""NeRF (Mildenhall et al., ECCV 2020, arXiv 2003.08934), as nerf_pl and nerf-pytorch compute it.

A coarse network looks at evenly spread samples of a ray, a fine one at these and at samples drawn where the coarse one
has found something; both learn the colour of the ray. Forward-facing captures are sampled in normalised device
coordinates. View directions are those of the scene, whatever the samples are in.

Letters: B rays, K samples along each.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from lumigraph.configs.nerf import NeRFConfig
from lumigraph.fields.activations import DENSITY_ACTIVATIONS
from lumigraph.fields.encodings import frequency_encoding, frequency_size
from lumigraph.fields.nerf_mlp import NeRFMLP
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.ndc import (
    ForwardFrame,
    chosen_frame,
    require_ahead,
    require_cameras_ahead,
    require_inverse_depth,
    require_scene_lengths,
)
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.accumulation import accumulated
from lumigraph.rendering.background import Background
from lumigraph.rendering.colour_error import ColourTarget
from lumigraph.rendering.pixel_corner import refuse_training, through_corners
from lumigraph.rendering.randomness import step_generator
from lumigraph.rendering.renderer import (
    Batch,
    Losses,
    ParameterGroup,
    PixelSampling,
    Renderer,
    Rendering,
)
from lumigraph.rendering.volume.coarse_fine import (
    BEYOND,
    FIELD_CHUNK,
    CoarseFine,
    Draws,
    Field,
    FieldSamples,
    Seen,
    rendered,
)

_STREAM = 0xDA942042E4DD58B5
"""Odd 64-bit constant that keeps what different seeds draw apart."""


class NeRF(Renderer):
    """The teacher: rays -> samples -> coarse and fine MLP -> composited colours."""

    knows_bfloat16 = True

    def __init__(
        self,
        config: NeRFConfig,
        background: Background,
        frame: ForwardFrame | None = None,
        steps_per_epoch: int = 1,
        spread_far: bool = False,
    ) -> None:
        """`frame`: in whose normalised device coordinates rays are sampled. `steps_per_epoch`: steps that see as many
        rays as there are pixels to train on. `spread_far`: whether samples are
        even in inverse depth where the config leaves it open and there is no frame."""
        super().__init__()
        self.config = config
        self.background = background
        self.frame = frame
        self.steps_per_epoch = steps_per_epoch
        self.disparity = spread_far and frame is None if config.disparity is None else config.disparity
        # The published order of initialisation: coarse, then fine. Alone, the coarse one has the size of the fine one.
        coarse = (config.coarse_depth, config.coarse_width) if config.importance else (None, None)
        self.coarse = _network(config, coarse[0] or config.depth, coarse[1] or config.width)
        if config.importance:
            self.fine = _network(config, config.depth, config.width)
        self.sampling = CoarseFine(
            config.samples,
            config.importance,
            DENSITY_ACTIVATIONS[config.density],
            self.disparity,
            # softplus is nowhere zero.
            beyond=BEYOND if config.density == "relu" else None,
        )
        self.chunk = self.sampling.picture_rays

    @classmethod
    def from_scene(cls, config: NeRFConfig, info: Any) -> "NeRF":
        """Raises LumigraphError where the config and the scene's rays do not fit together."""
        cameras: Cameras = info.cameras["train"]
        frame = chosen_frame(config.ndc, info.forward, info.source)
        pixels = int(cameras.size.prod(1).sum())
        steps_per_epoch = max(1, math.ceil(pixels / config.rays))
        # From a near plane at 0, inverse depth has no beginning.
        far_off = info.bounds.unbounded and bool((cameras.near > 0).all())
        renderer = cls(config, info.background, frame, steps_per_epoch, far_off)
        if renderer.disparity:
            require_inverse_depth(cameras.near, frame, info.source, "Pass --disparity False")
        if frame is not None:
            require_cameras_ahead(frame, cameras)
        return renderer

    # ------------------------------------------------------------------ the field

    @property
    def finest(self) -> NeRFMLP:
        """The network that pictures are rendered with."""
        return self.fine if self.config.importance else self.coarse

    def density(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """Density per unit of scene length, at points in scene units."""
        require_scene_lengths(self.frame)
        parts = points.split(FIELD_CHUNK)
        raw = [self.finest.raw_density(self._encoded(part), self.compute_dtype) for part in parts]
        return self.sampling.activation(torch.cat(raw))

    def query(
        self, points: Float[Tensor, "n 3"], view_directions: Float[Tensor, "n 3"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 3"]]:
        """Density per unit of scene length and colour, at points in scene units seen along unit vectors."""
        require_scene_lengths(self.frame)
        raw, rgb = self.finest(
            self._encoded(points), self._encoded_views(view_directions), self.compute_dtype
        )
        return self.sampling.activation(raw), rgb

    def _encoded(self, points: Tensor) -> Tensor:
        return frequency_encoding(points, self.config.position_octaves, linear=self.config.linear_octaves)

    def _encoded_views(self, directions: Tensor) -> Tensor | None:
        if self.config.view_width == 0:
            return None
        return frequency_encoding(
            directions, self.config.direction_octaves, linear=self.config.linear_octaves
        )

    # ------------------------------------------------------------------ along rays

    def _sampled(self, rays: Rays) -> Rays:
        """The rays that samples are taken on: in normalised device coordinates, or the rays of the scene."""
        if self.frame is not None:
            return self.frame.rays(rays)
        if self.config.ray_length == "distance":
            # Of t, which counts depth: a distance over the length of the direction.
            length = rays.directions.norm(dim=-1)
            return replace(rays, near=rays.near / length, far=rays.far / length)
        return rays

    def _views(self, rays: Rays, sampled: Rays) -> Tensor | None:
        directions = sampled.directions if self.config.view_frame == "ndc" else rays.directions
        encoded = self._encoded_views(normalize(directions, dim=-1))
        return None if encoded is None else encoded[:, None]

    def _trace(self, rays: Rays, draws: Draws | None) -> tuple[Seen | None, Seen]:
        """(what the coarse network saw beside the fine one, in training; what the finest saw)."""
        sampled = self._sampled(rays)
        views = self._views(rays, sampled)

        def field(network: NeRFMLP) -> Field:
            def asked(part: slice, t: Tensor) -> FieldSamples:
                points = self._encoded(sampled[part].points(t))
                seen_from = None if views is None else views[part]
                return FieldSamples(*network(points, seen_from, self.compute_dtype))

            return asked

        def guide(part: slice, t: Tensor) -> Tensor:
            return self.coarse.raw_density(self._encoded(sampled[part].points(t)), self.compute_dtype)

        coarse = None if draws is None else field(self.coarse)
        return self.sampling.trace(sampled, field(self.finest), guide, coarse, draws)

    @torch.no_grad()
    def render(self, rays: Rays) -> Rendering:
        flat = rays.flatten()
        if self.frame is not None:
            require_ahead(self.frame, flat)
        _, seen = self._trace(flat, None)
        return rendered(seen, flat, self._sampled(flat), self.background, self.frame).reshape(*rays.shape)

    def seen_through(self, cameras: Cameras) -> Cameras:
        return through_corners(cameras) if self.config.pixel_corner else cameras

    # ------------------------------------------------------------------ training

    @property
    def rays_per_step(self) -> int:
        return self.config.rays

    def pixel_sampling(self) -> PixelSampling:
        config = self.config
        return PixelSampling(config.crop_steps, config.crop_share, config.foreground_share, config.same_image)

    def losses(self, batch: Batch, step: int, seed: int) -> Losses:
        """Errors of the coarse and the fine colours; `squared_error` is the fine one's."""
        config, rays = self.config, batch.rays
        draws = Draws(step_generator(_STREAM, seed, step, self.device), config.perturb, config.density_noise)
        target = ColourTarget(batch, self.background, seed=seed, step=step, loss=config.loss)

        def terms(first: int, end: int) -> list[Tensor]:
            part = slice(first, end)
            coarse, fine = self._trace(rays[part], draws)
            errors = [target.final_error(fine.rgb, fine.opacity, part)]
            if coarse is not None:
                errors.append(target.error(coarse.rgb, coarse.opacity, part))
            return errors

        networks = [self.fine, self.coarse] if config.importance else [self.coarse]
        learnt = [list(network.parameters()) for network in networks]
        values = accumulated(terms, len(rays), self.sampling.kept_rays(self.device), learnt)
        return Losses(dict(zip(("rgb", "coarse"), values, strict=False)), target.squared_error)

    def optimisers(self) -> list[ParameterGroup]:
        """One group with everything.

        Raises:
            LumigraphError: the network was imported, and has learnt other rays than those of pixel centres.
        """
        config = self.config
        if config.pixel_corner:
            raise refuse_training()
        return [
            ParameterGroup(
                "networks",
                list(self.parameters()),
                config.lr,
                optimiser=config.optimiser,
                weight_decay=config.weight_decay,
                momentum=config.momentum,
            )
        ]

    def lr_scale(self, step: int, progress: float) -> float:
        """Rise, then the schedule; both go by `progress`, which follows the clock where that ends training."""
        config = self.config
        # Rounded: a step that was divided and multiplied again is to be the same number.
        position, end = round(progress * config.training_steps, 3), float(config.training_steps)
        if config.schedule_unit == "epoch":
            position, end = position // self.steps_per_epoch, end / self.steps_per_epoch
        if position < config.warmup:
            return 1 + (config.warmup_multiplier - 1) * position / config.warmup
        length = max(end - config.warmup, 1e-9)
        return config.warmup_multiplier * _SCHEDULES[config.schedule](
            config, position - config.warmup, length
        )

    def memory_estimate(self, rays: int) -> int:
        """Weights, gradients and moments; the activations of the rays that are trained on at a time, and what a chunk
        of a picture takes."""
        config = self.config
        width = max(config.width, 2 * frequency_size(3, config.position_octaves))
        units = (config.depth + 6) * width
        return super().memory_estimate(rays) + self.sampling.memory(units, rays, self.device)

    def start_over(self) -> bool:
        for network in self.children():
            assert isinstance(network, NeRFMLP)
            network.reset()
        return True


def _network(config: NeRFConfig, depth: int, width: int) -> NeRFMLP:
    viewed = config.view_width != 0
    return NeRFMLP(
        frequency_size(3, config.position_octaves),
        frequency_size(3, config.direction_octaves) if viewed else 0,
        depth=depth,
        width=width,
        skip=config.skip,
        view_width=config.view_width,
        glorot=config.first_weights == "glorot",
    )


def _steps(config: NeRFConfig, position: float, length: float) -> float:
    return config.decay_gamma ** sum(position >= milestone for milestone in config.decay_steps)


def _cosine(config: NeRFConfig, position: float, length: float) -> float:
    least = min(1.0, 1e-8 / config.lr)
    return least + (1 - least) * 0.5 * (1 + math.cos(math.pi * min(1.0, position / length)))


def _poly(config: NeRFConfig, position: float, length: float) -> float:
    return max(0.0, 1 - position / length) ** config.poly_exponent


def _exponential(config: NeRFConfig, position: float, length: float) -> float:
    return config.decay_gamma ** (position / (config.decay_steps or (length,))[0])


_SCHEDULES: dict[str, Callable[[NeRFConfig, float, float], float]] = {
    "steplr": _steps,
    "cosine": _cosine,
    "poly": _poly,
    "exponential": _exponential,
    "constant": lambda config, position, length: 1.0,
}
"""Factor on the learning rate after the rise, `position` into the `length` that is left, both in schedule units."""
