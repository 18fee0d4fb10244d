"""NeRF (Mildenhall et al., ECCV 2020, arXiv 2003.08934), as nerf_pl and nerf-pytorch compute it.

A coarse network looks at evenly spread samples of a ray, a fine one at these and at samples drawn where the coarse one
has found something; both learn the colour of the ray. Forward-facing captures are sampled in normalised device
coordinates. View directions are those of the scene, whatever the samples are in.

Letters: B rays, K samples along each.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import huber_loss, normalize, softplus

from lumigraph.configs.nerf import NeRFConfig
from lumigraph.errors import LumigraphError
from lumigraph.fields.encodings import frequency_encoding, frequency_size
from lumigraph.fields.nerf_mlp import NeRFMLP
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.ndc import ForwardFrame, chosen_frame, require_ahead, require_inverse_depth
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.accumulation import accumulated
from lumigraph.rendering.background import Background, background_rgb, over, training_target
from lumigraph.rendering.randomness import step_generator
from lumigraph.rendering.renderer import (
    Batch,
    Losses,
    ParameterGroup,
    PixelSampling,
    Renderer,
    Rendering,
)
from lumigraph.rendering.volume.histogram import (
    drawn_from,
    jittered,
    median_depth,
    ray_depths,
    spaced,
    visible_weights,
)

BEYOND = 1e10
"""Length of the interval behind the last sample of a ray: what is dense there is opaque."""
_PADDING = 1e-5
"""Added to the coarse weights before samples are drawn from them (nerf_pl, nerf-pytorch)."""
_HUBER = 0.1
_KEPT_SAMPLES = {"cpu": 1 << 13, "accelerator": 1 << 18}
"""Samples whose activations training keeps at a time: few enough for the caches of a CPU, many for a GPU."""
FIELD_CHUNK = 1 << 13
"""Samples that go through a network together in rendering: large enough for the products, small for the caches."""
_STREAM = 0xDA942042E4DD58B5
"""Odd 64-bit constant that keeps what different seeds draw apart."""


@dataclass
class _Seen:
    """What one network saw: depths and weights of the samples [B, K]; rgb [B, 3], premultiplied; opacity [B]."""

    t: Tensor
    weights: Tensor
    rgb: Tensor
    opacity: Tensor


@dataclass
class _Random:
    """Where the randomness of a training step comes from; rendering has none."""

    generator: torch.Generator
    perturb: float
    noise: float

    def uniform(self, like: Tensor, count: int) -> Tensor:
        return torch.rand(len(like), count, generator=self.generator, device=like.device)

    def density(self, raw: Tensor) -> Tensor:
        if self.noise == 0:
            return raw
        return raw + self.noise * torch.randn(raw.shape, generator=self.generator, device=raw.device)


class NeRF(Renderer):
    """The teacher: rays -> samples -> coarse and fine MLP -> composited colours."""

    knows_bfloat16 = True

    def __init__(
        self,
        config: NeRFConfig,
        background: Background,
        frame: ForwardFrame | None = None,
        steps_per_epoch: int = 1,
    ) -> None:
        """`frame`: in whose normalised device coordinates rays are sampled. `steps_per_epoch`: steps that see as many
        rays as there are pixels to train on."""
        super().__init__()
        self.config = config
        self.background = background
        self.frame = frame
        self.steps_per_epoch = steps_per_epoch
        self.coarse = _network(config, config.depth, config.width)
        if config.importance:
            # The published order of initialisation: coarse, then fine.
            self.coarse = _network(
                config, config.coarse_depth or config.depth, config.coarse_width or config.width
            )
            self.fine = _network(config, config.depth, config.width)
        self.chunk = max(256, (1 << 21) // (config.samples + config.importance))

    @classmethod
    def from_scene(cls, config: NeRFConfig, info: Any) -> "NeRF":
        """Raises LumigraphError where the config and the scene's rays do not fit together."""
        cameras: Cameras = info.cameras["train"]
        frame = chosen_frame(config.ndc, info.forward, info.source)
        if config.disparity:
            require_inverse_depth(cameras.near, frame, info.source, "Leave --disparity out")
        if frame is not None:
            require_ahead(frame, _corner_rays(cameras))
        pixels = int(cameras.size.prod(1).sum())
        return cls(config, info.background, frame, max(1, math.ceil(pixels / config.rays)))

    # ------------------------------------------------------------------ the field

    @property
    def finest(self) -> NeRFMLP:
        """The network that pictures are rendered with."""
        return self.fine if self.config.importance else self.coarse

    def density(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """Density per unit of scene length, at points in scene units."""
        parts = self._scene_points(points).split(FIELD_CHUNK)
        raw = [self.finest.raw_density(self._encoded(part), self.compute_dtype) for part in parts]
        return self._activated(torch.cat(raw))

    def query(
        self, points: Float[Tensor, "n 3"], view_directions: Float[Tensor, "n 3"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 3"]]:
        """Density per unit of scene length and colour, at points in scene units seen along unit vectors."""
        raw, rgb = self.finest(
            self._encoded(self._scene_points(points)),
            self._encoded_views(view_directions),
            self.compute_dtype,
        )
        return self._activated(raw), rgb

    def _scene_points(self, points: Tensor) -> Tensor:
        if self.frame is not None:
            raise LumigraphError(
                "a density per unit of length is not known of a field in normalised device coordinates",
                todo="Train it with --ndc off",
            )
        return points

    def _encoded(self, points: Tensor) -> Tensor:
        return frequency_encoding(points, self.config.position_octaves, linear=self.config.linear_octaves)

    def _encoded_views(self, directions: Tensor) -> Tensor | None:
        if self.config.view_width == 0:
            return None
        return frequency_encoding(
            directions, self.config.direction_octaves, linear=self.config.linear_octaves
        )

    def _activated(self, raw: Tensor) -> Tensor:
        # Mip-NeRF's bias: all of space is a thin fog at first.
        return softplus(raw - 1) if self.config.density == "softplus" else raw.relu()

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

    def _trace(self, rays: Rays, random: _Random | None) -> tuple[_Seen | None, _Seen]:
        """(what the coarse network saw beside the fine one; what the finest saw)."""
        config, sampled = self.config, self._sampled(rays)
        views = self._views(rays, sampled)
        t = spaced(sampled.near, sampled.far, config.samples, config.disparity)
        if random is not None and random.perturb:
            t = jittered(t, random.perturb * random.uniform(t, config.samples))
        if not config.importance:
            return None, self._look(self.coarse, sampled, views, t, random)
        if random is None:
            coarse, weights = None, self._weights(self._coarse_density(sampled, t), sampled, t)
        else:
            coarse = self._look(self.coarse, sampled, views, t, random)
            weights = coarse.weights
        if random is None or random.perturb == 0:
            even = torch.linspace(0, 1, config.importance, device=t.device, dtype=t.dtype)
            uniform = even.expand(len(t), -1)
        else:
            uniform = random.uniform(t, config.importance)
        # Bins between the middles of the coarse samples: the first and the last sample have none (nerf_pl).
        middles = 0.5 * (t[:, 1:] + t[:, :-1])
        drawn = drawn_from(middles, weights[:, 1:-1], uniform, padding=_PADDING)
        t = torch.cat([t, drawn], 1).sort(1).values
        return coarse, self._look(self.fine, sampled, views, t, random)

    def _coarse_density(self, sampled: Rays, t: Tensor) -> Tensor:
        """Densities [B, K] of the coarse network, whose colours rendering does not need."""
        points = sampled.points(t)
        parts = points.flatten(0, 1).split(FIELD_CHUNK)
        raw = [self.coarse.raw_density(self._encoded(part), self.compute_dtype) for part in parts]
        return self._activated(torch.cat(raw).view(t.shape))

    def _weights(self, density: Tensor, sampled: Rays, t: Tensor) -> Tensor:
        """Weights [B, K]. Behind the last sample, relu's densities have `BEYOND`; softplus is nowhere zero, and there
        the last interval is as long as the one before."""
        steps = t[:, 1:] - t[:, :-1]
        last = torch.full_like(t[:, :1], BEYOND) if self.config.density == "relu" else steps[:, -1:]
        lengths = torch.cat([steps, last], 1) * sampled.directions.norm(dim=-1, keepdim=True)
        return visible_weights(density, lengths)

    def _look(
        self, network: NeRFMLP, sampled: Rays, views: Tensor | None, t: Tensor, random: _Random | None
    ) -> _Seen:
        """What `network` sees at depths t [B, K]."""
        points = sampled.points(t)
        if torch.is_grad_enabled():
            raw, rgb = network(self._encoded(points), views, self.compute_dtype)
        else:
            raw, rgb = self._in_parts(network, points, views)
        if random is not None:
            raw = random.density(raw)
        weights = self._weights(self._activated(raw), sampled, t)
        return _Seen(t, weights, (weights[..., None] * rgb).sum(1), weights.sum(1))

    def _in_parts(self, network: NeRFMLP, points: Tensor, views: Tensor | None) -> tuple[Tensor, Tensor]:
        """(raw density [B, K], rgb [B, K, 3]), some rays at a time, so that activations stay in the caches."""
        rays = max(1, FIELD_CHUNK // points.shape[1])
        seen = [
            network(self._encoded(part), view, self.compute_dtype)
            for part, view in zip(points.split(rays), _split(views, rays, len(points)), strict=True)
        ]
        return torch.cat([raw for raw, _ in seen]), torch.cat([rgb for _, rgb in seen])

    @torch.no_grad()
    def render(self, rays: Rays) -> Rendering:
        """Depths are those of `ray_depths`; each sample stands for a single t, in the sums, and for the interval to the
        next one, in the median."""
        flat = rays.flatten()
        if self.frame is not None:
            require_ahead(self.frame, flat)
        _, seen = self._trace(flat, None)
        sampled = self._sampled(flat)
        rgb = over(seen.rgb, seen.opacity, background_rgb(self.background, self.device)).clamp(0, 1)
        raw = (seen.weights * seen.t).sum(1)
        edges = torch.cat([seen.t, torch.maximum(sampled.far, seen.t[:, -1])[:, None]], 1)

        def in_scene(t: Tensor) -> Tensor:
            return t if self.frame is None else self.frame.depth(t, flat)

        median = median_depth(edges, seen.weights)
        depth, extras = ray_depths(raw, median, seen.opacity, flat.far, in_scene)
        return Rendering(rgb, depth, seen.opacity, extras).reshape(*rays.shape)

    def seen_through(self, cameras: Cameras) -> Cameras:
        if not self.config.pixel_corner:
            return cameras
        # Rays go through pixel + 0.5: with the principal point shifted along, through the pixel's corner.
        return replace(cameras, principal=cameras.principal + 0.5)

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
        generator = step_generator(_STREAM, seed, step, self.device)
        random = _Random(generator, config.perturb, config.density_noise)
        target, background = training_target(batch.rgba, self.background, seed=seed, step=step)
        background = background.expand_as(target)
        squared_error = torch.empty_like(target[:, 0])

        def terms(first: int, end: int) -> list[Tensor]:
            part = slice(first, end)
            coarse, fine = self._trace(rays[part], random)
            colours = [over(seen.rgb, seen.opacity, background[part]) for seen in (fine, coarse) if seen]
            squared_error[part] = (colours[0].detach() - target[part]).square().mean(1)
            return [self._error(rgb, target[part]) / len(target) for rgb in colours]

        networks = [self.fine, self.coarse] if config.importance else [self.coarse]
        learnt = [list(network.parameters()) for network in networks]
        values = accumulated(terms, len(target), self._chunk_in_training, learnt)
        return Losses(dict(zip(("rgb", "coarse"), values, strict=False)), squared_error)

    @property
    def _chunk_in_training(self) -> int:
        """Rays whose activations are kept at a time."""
        samples = _KEPT_SAMPLES["cpu" if self.device.type == "cpu" else "accelerator"]
        return max(16, samples // (self.config.samples + self.config.importance))

    def _error(self, rgb: Tensor, target: Tensor) -> Tensor:
        """The sum over rays of the mean over colours."""
        if self.config.loss == "huber":
            # Twice, so that small errors count as in the squared error.
            return 2 * huber_loss(rgb, target, delta=_HUBER, reduction="none").mean(1).sum()
        return (rgb - target).square().mean(1).sum()

    def optimisers(self) -> list[ParameterGroup]:
        """One group with everything.

        Raises:
            LumigraphError: the network was imported, and has learnt other rays than those of pixel centres.
        """
        config = self.config
        if config.pixel_corner:
            raise LumigraphError(
                "a network that was trained with rays through the corners of pixels can only be rendered",
                todo="Train a new one without --pixel-corner",
            )
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
        samples = 2 * config.samples + config.importance
        kept = 4 * (config.depth + 6) * width * samples * min(rays, self._chunk_in_training)
        # Per sample: depth, weight, point, density, colour, and what sorting needs.
        picture = 4 * 24 * samples * self.chunk
        return super().memory_estimate(rays) + max(kept, picture)

    def start_over(self) -> bool:
        for network in self.children():
            assert isinstance(network, NeRFMLP)
            network.reset()
        return True


def _corner_rays(cameras: Cameras) -> Rays:
    """The rays [N, 4] through the corner pixels of each camera."""
    last = cameras.size - 1
    none = torch.zeros_like(last[:, 0])
    x = torch.stack([none, last[:, 0], none, last[:, 0]], 1)
    y = torch.stack([none, none, last[:, 1], last[:, 1]], 1)
    return cameras.rays(torch.arange(len(cameras), device=x.device)[:, None], x, y)


def _network(config: NeRFConfig, depth: int, width: int) -> NeRFMLP:
    viewed = config.view_width != 0
    return NeRFMLP(
        frequency_size(3, config.position_octaves),
        frequency_size(3, config.direction_octaves) if viewed else 0,
        depth=depth,
        width=width,
        skip=config.skip,
        view_width=config.view_width,
    )


def _split(views: Tensor | None, rays: int, count: int) -> list[Tensor | None]:
    if views is None:
        return [None] * math.ceil(count / rays)
    return list(views.split(rays))


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
