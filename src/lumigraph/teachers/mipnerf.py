"""Mip-NeRF (Barron et al., ICCV 2021, arXiv 2103.13415): what a pixel sees is a cone, and a field is asked about pieces
of it.

One field answers at both levels: intervals spread evenly, then intervals drawn from what these have seen. Each interval
of a cone (a cylinder, in normalised device coordinates) is described by a Gaussian, whose encoding leaves out what is
finer than itself; so pictures of any scale that was trained on come out without aliasing.

The field is the published MLP, in scene units, or a hash grid in core coordinates, in which the scene's box is
[-1, 1]^3. Letters: B rays, K intervals of a level between K + 1 edges of t.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import softplus

from lumigraph.configs.mipnerf import MipNeRFConfig
from lumigraph.fields.activations import truncated_exp
from lumigraph.fields.cone_fields import ConeField, GaussianGrid, GaussianMLP, Gaussians
from lumigraph.fields.conical import RayMoments, conical_moments, cylindrical_moments, gaussian_means
from lumigraph.fields.hashgrid import GridLayout
from lumigraph.geometry.bounds import Bounds, within_core_box
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
from lumigraph.rendering.accumulation import accumulated_terms
from lumigraph.rendering.background import Background, background_rgb, over, training_target
from lumigraph.rendering.colour_error import ray_shares
from lumigraph.rendering.occupancy import Surroundings
from lumigraph.rendering.randomness import step_generator
from lumigraph.rendering.renderer import Batch, Losses, ParameterGroup, Renderer, Rendering
from lumigraph.rendering.schedules import delayed_log_linear
from lumigraph.rendering.volume.histogram import (
    blurred,
    distortion,
    drawn_from,
    jittered,
    median_depth,
    ray_depths,
    spaced,
    stratified,
    visible_weights,
)

_STEPS = 256
"""Along the scene's diagonal; what hides nothing over one of them is passed by (grid)."""
_NOTHING = -1e4
"""Raw density of what is passed by."""
_FIELD_CHUNK = 1 << 16
"""Gaussians that go through the field together in rendering."""
_KEPT_SAMPLES = {"cpu": 1 << 13, "accelerator": 1 << 19}
"""Samples of a training step whose activations are kept at a time (mlp)."""
_STREAM = 0xD6E8FEB86659FD93
"""Odd 64-bit constant that keeps what different seeds draw apart."""


@dataclass
class _Seen:
    """What one level saw: edges [B, K + 1] of t and weights [B, K] of the intervals; rgb [B, 3], premultiplied; opacity
    [B]."""

    edges: Tensor
    weights: Tensor
    rgb: Tensor
    opacity: Tensor


@dataclass
class _Sampled:
    """Rays as they are sampled: in core coordinates [B, 3] (t is that of the ray, or NDC), from near to far, with unit
    vectors along the rays of the scene."""

    origins: Tensor
    directions: Tensor
    radii: Tensor
    near: Tensor
    far: Tensor
    view_directions: Tensor

    def chosen(self, index: Int[Tensor, " n"]) -> "_Sampled":
        """Those of these numbers."""
        return _Sampled(
            origins=self.origins.index_select(0, index),
            directions=self.directions.index_select(0, index),
            radii=self.radii.index_select(0, index),
            near=self.near.index_select(0, index),
            far=self.far.index_select(0, index),
            view_directions=self.view_directions.index_select(0, index),
        )


@dataclass
class _Draws:
    """The random numbers of a training step: where intervals begin [B, K + 1], at both levels, and what is added to
    their densities [B, K], if anything."""

    coarse: Tensor
    fine: Tensor
    coarse_noise: Tensor | None
    fine_noise: Tensor | None

    def part(self, rays: slice) -> "_Draws":
        noise = (self.coarse_noise, self.fine_noise)
        coarse_noise, fine_noise = (None if values is None else values[rays] for values in noise)
        return _Draws(self.coarse[rays], self.fine[rays], coarse_noise, fine_noise)


class MipNeRF(Renderer):
    """The teacher: cones -> intervals -> Gaussians -> field -> composited colours."""

    centre: Float[Tensor, "3"]

    def __init__(
        self,
        config: MipNeRFConfig,
        bounds: Bounds,
        background: Background,
        frame: ForwardFrame | None = None,
    ) -> None:
        """`frame`: in whose normalised device coordinates rays are sampled."""
        super().__init__()
        self.config = config
        self.background = background
        self.frame = frame
        self.on_grid = config.backbone == "grid"
        self.sees_cones = config.integrate
        self.knows_bfloat16 = not self.on_grid
        unbounded = bounds.unbounded and frame is None
        self.disparity = unbounded if config.disparity is None else config.disparity
        # Cameras at the side see more than the cube of normalised device coordinates: a grid contracts that.
        self.contracted = self.on_grid and (unbounded or frame is not None)
        core = self.on_grid and frame is None
        self.half_side = float(bounds.half_extent.max()) if core else 1.0
        self.register_buffer("centre", bounds.centre.clone() if core else torch.zeros(3), persistent=False)
        self.field = _field(config, self.contracted)
        skips = self.on_grid and not self.contracted and config.cells > 0
        self.surroundings = Surroundings(config.cells, _STEPS) if skips else None
        self.chunk = max(256, _FIELD_CHUNK // max(config.coarse_samples, config.fine_samples))

    @classmethod
    def from_scene(cls, config: MipNeRFConfig, info: Any) -> "MipNeRF":
        """Raises LumigraphError where the config and the scene's rays do not fit together."""
        frame = chosen_frame(config.ndc, info.forward, info.source)
        renderer = cls(config, info.bounds, info.background, frame)
        cameras: Cameras = info.cameras["train"]
        if frame is not None:
            require_cameras_ahead(frame, cameras)
        if renderer.surroundings is not None:
            renderer.surroundings.mark_unseen(cameras, info.bounds)
        if renderer.disparity:
            require_inverse_depth(cameras.near, frame, info.source, "Pass --disparity False")
        return renderer

    # ------------------------------------------------------------------ the field

    def density(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """Density per unit of scene length, at points (without extent) in scene units."""
        return self._core_density(self._core_points(points)) / self.half_side

    def _core_density(self, points: Tensor) -> Tensor:
        parts = points.split(_FIELD_CHUNK)
        raw = [self.field.raw_density(Gaussians.of_points(part), self.compute_dtype)[:, 0] for part in parts]
        return self._activated(torch.cat(raw))

    def query(
        self, points: Float[Tensor, "n 3"], view_directions: Float[Tensor, "n 3"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 3"]]:
        """Density per unit of scene length and colour, at points (without extent) in scene units seen along unit
        vectors."""
        where = Gaussians.of_points(self._core_points(points))
        raw, rgb = self.field(where, view_directions, self.compute_dtype)
        return self._activated(raw[:, 0]) / self.half_side, self._padded(rgb[:, 0]).clamp(0, 1)

    def _core_points(self, points: Tensor) -> Tensor:
        require_scene_lengths(self.frame)
        return (points - self.centre) / self.half_side

    def _activated(self, raw: Tensor) -> Tensor:
        """Density per unit of core length."""
        return truncated_exp(raw) if self.on_grid else softplus(raw + self.config.density_bias)

    def _padded(self, rgb: Tensor) -> Tensor:
        padding = self.config.rgb_padding
        return rgb * (1 + 2 * padding) - padding

    # ------------------------------------------------------------------ along rays

    def _sampled(self, rays: Rays) -> _Sampled:
        view_directions = rays.view_directions
        if self.frame is not None:
            rays = self.frame.rays(rays)
        sampled = _Sampled(
            origins=(rays.origins - self.centre) / self.half_side,
            directions=rays.directions / self.half_side,
            radii=rays.radii / self.half_side,
            near=rays.near,
            far=rays.far,
            view_directions=view_directions,
        )
        if not self.on_grid or self.contracted:
            return sampled
        near, far = within_core_box(sampled.origins, sampled.directions, sampled.near, sampled.far)
        return replace(sampled, near=near, far=far)

    def _drawn(self, rays: int, generator: torch.Generator) -> _Draws:
        config, device = self.config, self.device

        def noise(samples: int) -> Tensor | None:
            if config.density_noise == 0:
                return None
            return config.density_noise * torch.randn(rays, samples, generator=generator, device=device)

        return _Draws(
            coarse=torch.rand(rays, config.coarse_samples + 1, generator=generator, device=device),
            fine=stratified(rays, config.fine_samples + 1, generator, device),
            coarse_noise=noise(config.coarse_samples),
            fine_noise=noise(config.fine_samples),
        )

    def _trace(self, rays: Rays, draws: _Draws | None) -> tuple[_Seen | None, _Seen]:
        """(what the coarse level saw, where its colours count; what the fine level saw). With `draws` intervals are
        random, as in training."""
        config, sampled = self.config, self._sampled(rays)
        edges = spaced(sampled.near, sampled.far, config.coarse_samples + 1, self.disparity)
        if draws is not None:
            edges = jittered(edges, draws.coarse)
        noise = None if draws is None else draws.coarse_noise
        coarse = None
        if draws is not None and config.coarse_weight:
            coarse = self._look(sampled, edges, noise)
            weights = coarse.weights
        else:
            with torch.no_grad():
                weights = self._weights(self._coarse_density(sampled, edges, noise), sampled, edges)
        uniform = draws.fine if draws else stratified(len(edges), config.fine_samples + 1, None, edges.device)
        drawn = drawn_from(edges, blurred(weights.detach(), config.resample_padding), uniform)
        return coarse, self._look(sampled, drawn, None if draws is None else draws.fine_noise)

    def _moments(self, rays: _Sampled, edges: Tensor) -> RayMoments:
        return (conical_moments if self.frame is None else cylindrical_moments)(edges, rays.radii)

    def _gaussians(self, moments: RayMoments, rays: _Sampled) -> Gaussians:
        gaussians = Gaussians.along_rays(moments, rays.origins, rays.directions)
        return gaussians if self.config.integrate else gaussians.without_extent()

    def _occupied(self, rays: _Sampled, edges: Tensor) -> tuple[Int[Tensor, " n"], _Sampled, Gaussians]:
        """Intervals that may hold something: their numbers among all B * K, and each as a ray of its own with one
        Gaussian."""
        assert self.surroundings is not None
        moments = self._moments(rays, edges)
        means = gaussian_means(moments, rays.origins, rays.directions)
        chosen = self.surroundings.hold(means.flatten(0, 1)).nonzero()[:, 0]
        rays = rays.chosen(chosen // moments.t_mean.shape[1])
        some = RayMoments(*(values.flatten().index_select(0, chosen)[:, None] for values in moments))
        return chosen, rays, self._gaussians(some, rays)

    def _coarse_density(self, rays: _Sampled, edges: Tensor, noise: Tensor | None) -> Tensor:
        raw = self._raw_density(rays, edges)
        return self._activated(raw if noise is None else raw + noise)

    def _raw_density(self, rays: _Sampled, edges: Tensor) -> Tensor:
        """[B, K], of what may hold something."""
        if self.surroundings is None:
            return self.field.raw_density(
                self._gaussians(self._moments(rays, edges), rays), self.compute_dtype
            )
        chosen, _, where = self._occupied(rays, edges)
        return _spread(self.field.raw_density(where, self.compute_dtype), chosen, edges, _NOTHING)

    def _seen_by_field(self, rays: _Sampled, edges: Tensor) -> tuple[Tensor, Tensor]:
        """Raw densities [B, K] and colours [B, K, 3], of what may hold something."""
        if self.surroundings is None:
            where = self._gaussians(self._moments(rays, edges), rays)
            return self.field(where, rays.view_directions, self.compute_dtype)
        chosen, some, where = self._occupied(rays, edges)
        raw, rgb = self.field(where, some.view_directions, self.compute_dtype)
        return _spread(raw, chosen, edges, _NOTHING), _spread(rgb, chosen, edges, 0.0)

    def _weights(self, density: Tensor, rays: _Sampled, edges: Tensor) -> Tensor:
        lengths = (edges[:, 1:] - edges[:, :-1]) * rays.directions.norm(dim=-1, keepdim=True)
        return visible_weights(density, lengths)

    def _look(self, rays: _Sampled, edges: Tensor, noise: Tensor | None) -> _Seen:
        """What the field shows between `edges`; `noise` is added to its raw densities."""
        raw, rgb = self._seen_by_field(rays, edges)
        weights = self._weights(self._activated(raw if noise is None else raw + noise), rays, edges)
        return _Seen(edges, weights, (weights[..., None] * self._padded(rgb)).sum(1), weights.sum(1))

    @torch.no_grad()
    def render(self, rays: Rays) -> Rendering:
        """Depths are those of `ray_depths`, of intervals that stand for their middles in the sums."""
        flat = rays.flatten()
        if self.frame is not None:
            require_ahead(self.frame, flat)
        _, seen = self._trace(flat, None)
        rgb = over(seen.rgb, seen.opacity, background_rgb(self.background, self.device)).clamp(0, 1)
        raw = (seen.weights * 0.5 * (seen.edges[:, 1:] + seen.edges[:, :-1])).sum(1)

        def in_scene(t: Tensor) -> Tensor:
            return t if self.frame is None else self.frame.depth(t, flat)

        median = median_depth(seen.edges, seen.weights)
        depth, extras = ray_depths(raw, median, seen.opacity, flat.far, in_scene)
        return Rendering(rgb, depth, seen.opacity, extras).reshape(*rays.shape)

    # ------------------------------------------------------------------ training

    @property
    def rays_per_step(self) -> int:
        return self.config.rays

    def begin_step(self, step: int, progress: float, seed: int) -> None:
        if self.surroundings is not None:
            self.surroundings.follow(self._core_density, step, seed)

    def losses(self, batch: Batch, step: int, seed: int) -> Losses:
        """Errors of the fine and (weighted) the coarse colours, each sum(w |error|^2) / sum(w) over rays, with w the
        area of a pixel to `area_power` (1 in Mip-NeRF, section 3.1), and where asked for the distortion loss;
        `squared_error` is the fine one's."""
        generator = step_generator(_STREAM, seed, step, self.device)
        count = len(batch.rays)
        draws = self._drawn(count, generator)
        target, background = training_target(batch.rgba, self.background, seed=seed, step=step)
        background = background.expand(count, 3)
        share = ray_shares(batch, self.config.area_power)
        squared_error = torch.empty_like(share)

        def terms(first: int, end: int) -> dict[str, Tensor]:
            part = slice(first, end)
            rays = batch.rays[part]
            coarse, fine = self._trace(rays, draws.part(part))
            seen = {"rgb": fine} if coarse is None else {"rgb": fine, "coarse": coarse}
            errors = {
                name: (over(level.rgb, level.opacity, background[part]) - target[part]).square().sum(1)
                for name, level in seen.items()
            }
            squared_error[part] = errors["rgb"].detach() / 3
            values = {name: (share[part] * error).sum() for name, error in errors.items()}
            if coarse is not None:
                values["coarse"] = self.config.coarse_weight * values["coarse"]
            if self.config.distortion_weight:
                spread = torch.stack([self._distortion(level, rays) for level in seen.values()]).sum()
                values["distortion"] = self.config.distortion_weight / count * spread
            return values

        if self.on_grid:
            return Losses(terms(0, count), squared_error)
        # Only so many rays are looked at together as fit into the caches.
        parameters = list(self.field.parameters())
        return Losses(accumulated_terms(terms, count, self._chunk_in_training, parameters), squared_error)

    @property
    def _chunk_in_training(self) -> int:
        """Rays whose activations are kept at a time, where gradients are accumulated."""
        samples = _KEPT_SAMPLES["cpu" if self.device.type == "cpu" else "accelerator"]
        return max(16, samples // (self.config.coarse_samples + self.config.fine_samples))

    def _distortion(self, seen: _Seen, rays: Rays) -> Tensor:
        """The sum over rays, in depths normalised to [0, 1] as intervals are spread."""
        near, far = (rays.near, rays.far) if self.frame is None else (0 * rays.near, 0 * rays.far + 1)
        near, far, t = near[:, None], far[:, None], seen.edges
        if self.disparity:
            near, far, t = 1 / near, 1 / far, 1 / torch.maximum(t, near)
        return distortion(seen.weights, (t - near) / (far - near)).sum()

    def optimisers(self) -> list[ParameterGroup]:
        config = self.config
        if not isinstance(self.field, GaussianGrid):
            return [ParameterGroup("networks", list(self.field.parameters()), config.lr)]
        adam = {"betas": (0.9, 0.99), "eps": 1e-15}
        networks = [*self.field.geometry.parameters(), *self.field.colour.parameters()]
        return [
            ParameterGroup("grid", [self.field.grid.table], config.grid_lr, table=True, **adam),
            ParameterGroup("networks", networks, config.lr, **adam),
        ]

    def lr_scale(self, step: int, progress: float) -> float:
        config = self.config
        delay = config.lr_delay_steps / config.training_steps
        return delayed_log_linear(progress, config.final_lr / config.lr, delay, config.lr_delay_factor)

    def memory_estimate(self, rays: int) -> int:
        """Weights, gradients and moments; the activations that a step keeps, and those of a picture's chunk."""
        config = self.config
        kept = (config.depth + 3) * config.width + 18 * config.octaves + 2 * config.view_width
        if self.on_grid:
            grid = config.levels * (2 * config.features + 3)
            kept = 3 * grid + (2 + 2 * config.colour_layers) * config.hidden + 100
        levels = config.fine_samples + (config.coarse_samples if config.coarse_weight else 0)
        together = rays if self.on_grid else min(rays, self._chunk_in_training)
        step = 4 * kept * levels * together
        return super().memory_estimate(rays) + max(step, 4 * kept * _FIELD_CHUNK)

    def start_over(self) -> bool:
        self.field.reset()
        if self.surroundings is not None:
            self.surroundings.reset()
        return True


def _spread(values: Tensor, chosen: Tensor, edges: Tensor, elsewhere: float) -> Tensor:
    """Values [n, 1, ...] of the chosen intervals among all of them [B, K, ...]; the others get `elsewhere`."""
    rays, intervals = len(edges), edges.shape[1] - 1
    whole = values.new_full((rays * intervals, *values.shape[2:]), elsewhere)
    return whole.index_copy(0, chosen, values[:, 0]).view(rays, intervals, *values.shape[2:])


def _field(config: MipNeRFConfig, unbounded: bool) -> ConeField:
    if config.backbone == "mlp":
        return GaussianMLP(
            config.octaves,
            config.view_octaves,
            depth=config.depth,
            width=config.width,
            skip=config.skip,
            view_width=config.view_width,
        )
    layout = GridLayout(
        config.levels,
        config.features,
        config.log2_entries,
        config.base_resolution,
        config.finest_resolution,
    )
    return GaussianGrid(
        layout,
        unbounded,
        hidden=config.hidden,
        geometry_features=config.geometry_features,
        colour_layers=config.colour_layers,
    )
