"""A field of grids and small networks, marched through an occupancy grid (Instant-NGP, Mueller et al., SIGGRAPH 2022).

A point becomes features, which a method computes as it likes; a network turns them into what density is the exponential
of, and a code; a second one turns code and view direction into a colour. An occupancy grid says where to look. Each ray
is marched, its samples are thinned to those it can see, and only these are coloured and learnt from.

Points live in core coordinates, in which the scene's box is [-1, 1]^3; outside of it, space is contracted (mip-NeRF
360, equation 10, maximum norm) when the scene is unbounded.
"""

import math
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lumigraph.configs.marching import MarchingConfig
from lumigraph.fields.activations import box_density
from lumigraph.fields.directions import spherical_harmonics
from lumigraph.fields.first_weights import reset_glorot, reset_he
from lumigraph.fields.hashgrid import GridLayout
from lumigraph.fields.small_mlp import small_mlp
from lumigraph.geometry.bounds import Bounds, unit_cube
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.rays import Rays
from lumigraph.geometry.rotations import so3_exp
from lumigraph.rendering.background import Background, background_rgb, over, training_target
from lumigraph.rendering.depth_losses import depth_terms, in_scene_units
from lumigraph.rendering.occupancy import DIAGONAL, OPAQUE_STEP, OccupancyGrid
from lumigraph.rendering.randomness import step_generator
from lumigraph.rendering.renderer import Batch, Losses, ParameterGroup, PixelSampling, Renderer, Rendering
from lumigraph.rendering.volume import reference
from lumigraph.rendering.volume.composite import composite, median
from lumigraph.rendering.volume.histogram import ray_depths
from lumigraph.rendering.volume.samples import CoreRays, Samples, StepRule, occupied_samples, seen_samples

DIRECTION_DEGREE = 4
MANY_PHOTOS, WARMUP = 20, 100
"""Fewer photos seldom forbid the walls that a depth loss may begin with; steps in which learning rates then rise."""
FIELD_CHUNK = 1 << 15
ADAM: dict[str, Any] = {"betas": (0.9, 0.99), "eps": 1e-15}
"""How grids and networks learn (Instant-NGP, section 4)."""
_STREAM = 0xBF58476D1CE4E5B9
"""Odd 64-bit constant that keeps apart what different seeds draw."""
_STANDING_STREAM = 0x94D049BB133111EB
"""The same of how the scene stands where the occupancy grid asks."""


class MarchedField(Renderer):
    """Rays -> marched samples -> features of points -> small networks -> composited colours.

    A method says what the features of points are, and which samples a ray can see. Where its field changes it is told
    how the scene stands for rays and points, D numbers in [0, 1] such as the time; else these are None.
    """

    chunk = 1 << 14
    occupancy_looks = 1
    """How often an update of the occupancy grid asks what a cell holds, where there is something; see
    `OccupancyGrid.update`."""
    centre: Float[Tensor, "3"]
    ray_count: Tensor

    def __init__(self, config: MarchingConfig, bounds: Bounds, background: Background, cameras: int) -> None:
        """`cameras`: number of training cameras, for the refinement of their poses."""
        super().__init__()
        self.config = config
        self.background = background
        self.backdrop: Background = background
        """The policy by which photos are composited in training, where it differs from that of the scene."""
        self.register_buffer("centre", bounds.centre.clone(), persistent=False)
        self.half_side = float(bounds.half_extent.max())
        self.unbounded = bounds.unbounded
        self.distortion_weight = config.distortion_weight
        if self.distortion_weight is None:
            self.distortion_weight = 1e-2 if bounds.unbounded else 1e-3
        cascades = config.cascades if bounds.unbounded else 1
        shortest = DIAGONAL / config.steps
        self.rule = StepRule(
            growth=config.step_growth if bounds.unbounded else 0.0,
            shortest=shortest,
            longest=DIAGONAL * 2 ** (cascades - 1) / config.cells if bounds.unbounded else shortest,
            most=1024 if bounds.unbounded else config.steps + 1,
        )
        self.occupancy = OccupancyGrid(config.cells, cascades, OPAQUE_STEP / shortest, config.occupancy_decay)
        self.layout = GridLayout(
            config.levels,
            config.features,
            config.log2_entries,
            config.base_resolution,
            config.finest_resolution,
        )
        self.pose_corrections = nn.Parameter(torch.zeros(cameras, 6)) if config.refine_cameras else None
        self.register_buffer("ray_count", torch.tensor(config.first_rays))
        self.progress = 0.0
        """How far training has come; told before every step."""

    def add_networks(self, width: int) -> None:
        """The networks behind `width` features of a point: one for density and a code, one for colour."""
        config = self.config
        self.width = width
        self.geometry = small_mlp(width, config.hidden, 1, config.geometry_features)
        self.colour = small_mlp(
            DIRECTION_DEGREE**2 + config.geometry_features, config.hidden, config.colour_layers, 3
        )
        if config.first_weights != "he":  # with which small networks begin anyway
            self._reset_networks()

    @classmethod
    def from_scene(cls, config: Any, info: Any) -> "MarchedField":
        """The scene's bounds are the core box; what no training camera sees stays empty."""
        cameras: Cameras = info.cameras["train"]
        config = replace(config, depth=in_scene_units(config.depth, info.world_transform))
        if config.warmup_steps is None:
            walls = config.depth.depth_loss == "urf" and len(cameras.ids.unique()) < MANY_PHOTOS
            config = replace(config, warmup_steps=WARMUP if walls else 0)
        count = int(cameras.ids.max()) + 1
        field = cls(config, info.bounds, info.background, count, **cls.scene_options(info))
        field.occupancy.mark_unseen(cameras, info.bounds)
        return field

    # ------------------------------------------------------------------ what a method says

    @classmethod
    def scene_options(cls, info: Any) -> dict[str, Any]:
        """What a method's constructor is told of the scene (a `SceneInfo`) besides."""
        return {}

    def features(
        self,
        points: Float[Tensor, "n 3"],
        standing: Float[Tensor, "n D"] | None,
        sizes: Float[Tensor, " n"] | None = None,
    ) -> Float[Tensor, "n width"]:
        """Of points in [0, 1]^3, each with how the scene stands for it; of a method that sees cones, with the `sizes`
        that pixels see there, which are not given where no ray asks."""
        raise NotImplementedError

    def feature_groups(self) -> list[ParameterGroup]:
        """The parameters behind the features."""
        raise NotImplementedError

    def reset_features(self) -> None:
        """Forgets all that the features have learnt."""
        raise NotImplementedError

    def standing_of(self, rays: Rays) -> Float[Tensor, "n D"] | None:
        """How the scene stands when rays [n] look, of a field that changes."""
        return None

    def random_standing(self, count: int, generator: torch.Generator) -> Float[Tensor, "count D"] | None:
        """How it stands when the occupancy grid asks what points hold, of a field that changes."""
        return None

    def known(self, rays: Rays) -> Bool[Tensor, " n"] | None:
        """Which rays [n] of photos can be learnt from; None for all."""
        return None

    def seen_besides(
        self, features: Float[Tensor, "S width"], density: Float[Tensor, " S"], samples: Samples
    ) -> dict[str, Float[Tensor, "R *channels"]]:
        """What rays show besides colour and depth, by the names of `Rendering.extras`."""
        return {}

    def further_terms(self, batch: Batch, besides: dict[str, Tensor]) -> dict[str, Tensor]:
        """Further losses, of what the rays of a batch show besides."""
        return {}

    def visible_samples(
        self,
        rays: CoreRays,
        standing: Float[Tensor, "R D"] | None,
        rule: StepRule,
        jitter: Float[Tensor, " R"],
        learning: bool = False,
    ) -> tuple[Samples, Int[Tensor, " S"]]:
        """What the rays can see: samples, and the ray of each; without gradients. This asks for the density of all
        samples in occupied cells, and while `learning` lets the occupancy grid know what was found there; a
        method whose field a kernel knows asks that."""
        samples, index = occupied_samples(rays, self.occupancy.occupied, rule, self.unbounded, jitter)
        density = self._unit_density(samples.points, _of_samples(standing, index))
        if learning:
            points = rays.origins[index] + samples.t[:, None] * rays.directions[index]
            self.occupancy.raise_to(points, samples.dt, density)
        return seen_samples(samples, density)

    # ------------------------------------------------------------------ the field

    def core_density(
        self, points: Float[Tensor, "n 3"], standing: Float[Tensor, "n D"] | None
    ) -> Float[Tensor, " n"]:
        """Density per unit of core length, at points in core coordinates."""
        return self._unit_density(unit_cube(points, self.unbounded).contiguous(), standing)

    def _unit_density(self, points: Tensor, standing: Tensor | None) -> Tensor:
        """The same at points in [0, 1]^3."""
        parts = points.split(FIELD_CHUNK)
        when = [None] * len(parts) if standing is None else standing.split(FIELD_CHUNK)
        found = [self._density_only(self.features(*both)) for both in zip(parts, when, strict=True)]
        return torch.cat(found)

    def _density_only(self, features: Tensor) -> Tensor:
        """Density without the code: the last layer has one output instead of many."""
        hidden = self.geometry[:-1](features)
        return box_density(hidden @ self.geometry[-1].weight[0])  # pyright: ignore

    def density_and_code(
        self, features: Float[Tensor, "n width"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n codes"]]:
        """Density per unit of core length, and what the colour network is told of a point."""
        code = self.geometry(features)
        return box_density(code[:, 0]), code

    def colour_of(
        self, code: Float[Tensor, "n codes"], harmonics: Float[Tensor, "n h"]
    ) -> Float[Tensor, "n 3"]:
        """Colours of points by their codes and the spherical harmonics of view directions."""
        return torch.sigmoid(self.colour(torch.cat([harmonics, code], -1)))

    # ------------------------------------------------------------------ along rays

    def _core_rays(self, rays: Rays) -> CoreRays:
        directions = rays.directions / self.half_side
        speed = directions.norm(dim=-1)
        return CoreRays(
            origins=(rays.origins - self.centre) / self.half_side,
            directions=directions / speed[:, None],
            near=rays.near * speed,
            far=rays.far * speed,
            speed=speed,
            # Half of it: the deviation along each axis of what is spread evenly over a disc.
            spread=0.5 * rays.radii / (speed * self.half_side) if self.sees_cones else None,
        )

    def _integrate(
        self, rays: CoreRays, samples: Samples, features: Tensor, index: Tensor
    ) -> tuple[Tensor, ...]:
        """Premultiplied rgb, opacity, sum of w t (core lengths), and distortion of each ray; density of each sample."""
        density, code = self.density_and_code(features)
        harmonics = spherical_harmonics(rays.directions, DIRECTION_DEGREE).index_select(0, index)
        seen = composite(density, self.colour_of(code, harmonics), samples.t, samples.dt, samples.offsets)
        return *seen, density

    @torch.no_grad()
    def render(self, rays: Rays) -> Rendering:
        flat = rays.flatten()
        core, standing = self._core_rays(flat), self.standing_of(flat)
        samples, index = self.visible_samples(core, standing, self.rule, torch.full_like(core.near, 0.5))
        features = self._sample_features(core, samples, index, standing)
        rgb, opacity, reach, _, density = self._integrate(core, samples, features, index)
        rgb = over(rgb, opacity, background_rgb(self.background, rgb.device)).clamp(0, 1)
        middle = median(density, samples.t, samples.dt, samples.offsets)
        depth, extras = ray_depths(reach / core.speed, middle / core.speed, opacity, flat.far)
        extras |= self.seen_besides(features, density, samples)
        return Rendering(rgb, depth, opacity, extras).reshape(*rays.shape)

    # ------------------------------------------------------------------ training

    @property
    def rays_per_step(self) -> int:
        return int(self.ray_count)

    def pixel_sampling(self) -> PixelSampling:
        return PixelSampling(same_image=self.config.same_image)

    def begin_step(self, step: int, progress: float, seed: int) -> None:
        self.progress = progress
        moments = step_generator(_STANDING_STREAM, seed, step, self.device)
        self.occupancy.follow(
            lambda points: self.core_density(points, self.random_standing(len(points), moments)),
            step,
            seed,
            interval=self.config.occupancy_interval,
            warmup=self.config.occupancy_warmup,
            share=self.config.occupancy_share,
            looks=self.occupancy_looks,
        )

    def losses(self, batch: Batch, step: int, seed: int) -> Losses:
        """Squared error of the colours, and where asked for the entropy of opacity, the distortion loss, and what is
        known of depth."""
        rays = self._refined(batch.rays)
        core, standing = self._core_rays(rays), self.standing_of(rays)
        generator = step_generator(_STREAM, seed, step, self.device)
        jitter = torch.rand(len(core.near), generator=generator, device=self.device)
        with torch.no_grad():
            samples, index = self.visible_samples(
                core, standing, self._training_rule(step), jitter, learning=True
            )
        features = self._sample_features(core, samples, index, standing)
        rgb, opacity, _, distortion, density = self._integrate(core, samples, features, index)
        target, background = training_target(batch.rgba, self.backdrop, seed=seed, step=step)
        error = (over(rgb, opacity, background) - target).square()
        known = self.known(batch.rays)
        learnt = error if known is None else error[known]
        terms = {"rgb": learnt.sum() / max(1, learnt.numel())}
        if self.config.opacity_weight:
            entropy = -opacity * torch.log(opacity.clamp(min=1e-10))
            terms["opacity"] = self.config.opacity_weight * entropy.mean()
        if self.distortion_weight:
            terms["distortion"] = self.distortion_weight * distortion.mean()
        if self.config.depth.needs_depth or self.config.depth.depth_sky_weight:
            terms |= self._depth_terms(batch, core, samples, index, density)
        terms |= self.further_terms(batch, self.seen_besides(features, density, samples))
        self._adapt_rays(len(core.near), len(samples.t))
        return Losses(terms=terms, squared_error=error.detach().mean(1))

    def _depth_terms(
        self, batch: Batch, rays: CoreRays, samples: Samples, index: Tensor, density: Tensor
    ) -> dict[str, Tensor]:
        """What the known depths of a batch say of its weights. Rays without samples cannot learn and are left out."""
        config = self.config.depth
        depth = torch.full_like(rays.far, torch.nan)
        if config.needs_depth and batch.depth is not None:
            depth = batch.depth
        sky = (
            (batch.rgba[:, 3] == 0) if config.depth_sky_weight else torch.zeros_like(depth, dtype=torch.bool)
        )
        counts = samples.offsets[1:] - samples.offsets[:-1]
        chosen = (torch.isfinite(depth) | sky) & (counts > 0)
        if not bool(chosen.any()):
            return {}
        kept = chosen[index]
        offsets = torch.cat([counts.new_zeros(1), counts[chosen].cumsum(0)])
        edges, weights = reference.histogram(
            density[kept], samples.t[kept], samples.dt[kept], offsets, rays.far[chosen].detach()
        )
        return depth_terms(
            config,
            # Core lengths as depth along the camera's axis.
            edges / rays.speed[chosen].detach()[:, None],
            weights,
            depth[chosen],
            sigma=None if batch.depth_sigma is None else batch.depth_sigma[chosen],
            progress=self.progress,
            sky=sky[chosen],
        )

    def _training_rule(self, step: int) -> StepRule:
        """Longer steps at first: while all is fog, many rays teach more than fine sampling of a few."""
        if step >= self.config.coarse_steps:
            return self.rule
        stretch = max(1.0, 4.0 * (1 - step / self.config.coarse_steps))
        return replace(self.rule, shortest=stretch * self.rule.shortest, longest=stretch * self.rule.longest)

    def _adapt_rays(self, rays: int, samples: int) -> None:
        """Rays for the next step, so that about `config.samples` visible samples come of them."""
        wanted = rays * self.config.samples / max(samples, 1)
        self.ray_count.fill_(int(min(max(wanted, 64), 2 * rays, self.config.most_rays)))

    def refined(self, cameras: Cameras) -> Cameras:
        """Each camera of a photo moved by the correction learnt for it; see `Renderer.refined`."""
        if self.pose_corrections is None:
            return cameras
        known = (cameras.ids >= 0).unsqueeze(-1)
        learnt = self.pose_corrections.detach().to(cameras.device)
        correction = torch.where(known, learnt[cameras.ids.clamp(min=0)], 0)
        rotation = so3_exp(correction[:, :3]) @ cameras.camera_to_world[:, :, :3]
        position = cameras.camera_to_world[:, :, 3] + correction[:, 3:] * self.half_side
        return replace(cameras, camera_to_world=torch.cat([rotation, position.unsqueeze(2)], 2))

    def _refined(self, rays: Rays) -> Rays:
        """Rays moved by the learnt correction of their camera's pose; cameras of no photo have none."""
        if self.pose_corrections is None or rays.camera_ids is None:
            return rays
        known = (rays.camera_ids >= 0).unsqueeze(-1)
        correction = torch.where(known, self.pose_corrections[rays.camera_ids.clamp(min=0)], 0)
        rotation = so3_exp(correction[:, :3])
        return Rays(
            **{
                **vars(rays),
                "origins": rays.origins + correction[:, 3:] * self.half_side,
                "directions": (rotation @ rays.directions.unsqueeze(-1)).squeeze(-1),
            }
        )

    def _sample_features(
        self, rays: CoreRays, samples: Samples, index: Tensor, standing: Tensor | None
    ) -> Tensor:
        sizes = rays.sizes(samples, index, self.unbounded)
        return self.features(self._points(rays, samples, index), _of_samples(standing, index), sizes)

    def _points(self, rays: CoreRays, samples: Samples, index: Tensor) -> Tensor:
        """The samples' points; as functions of the rays where poses are learnt."""
        if self.pose_corrections is None:
            return samples.points
        points = rays.origins[index] + samples.t[:, None] * rays.directions[index]
        return unit_cube(points, self.unbounded)

    def optimisers(self) -> list[ParameterGroup]:
        networks = [*self.geometry.parameters(), *self.colour.parameters()]
        groups = [
            *self.feature_groups(),
            ParameterGroup("networks", networks, self.config.network_lr, **ADAM),
        ]
        if self.pose_corrections is not None:
            groups.append(ParameterGroup("cameras", [self.pose_corrections], self.config.camera_lr))
        return groups

    def lr_scale(self, step: int, progress: float) -> float:
        """Rising, constant, then falling to `final_lr` at the end of the budget."""
        warmup = self.config.warmup_steps
        risen = min(1.0, (step + 1) / warmup) if warmup else 1.0
        return risen * self._fallen(progress)

    def _fallen(self, progress: float) -> float:
        falling = max(0.0, progress - self.config.hold) / max(1e-9, 1 - self.config.hold)
        least = self.config.final_lr
        if self.config.schedule == "cosine":
            return least + (1 - least) * 0.5 * (1 + math.cos(math.pi * min(1.0, falling)))
        return least ** min(1.0, falling)

    def memory_estimate(self, rays: int) -> int:
        """Weights, gradients and moments; samples before and after thinning with the activations kept of each."""
        config = self.config
        kept = 4 * (2 * self.width + (2 + 2 * config.colour_layers) * config.hidden + 100)
        # Once space has emptied, a step takes more rays than the first; pictures are rendered in chunks.
        rays = max(self.chunk, min(config.most_rays, max(rays, config.samples)))
        return super().memory_estimate(rays) + 4 * config.samples * kept + 8 * self.rule.most * rays

    def warm_up(self, batch: Batch, seed: int) -> None:
        """Also compiles the kernels of the occupancy update."""
        super().warm_up(batch, seed)
        moments = step_generator(_STANDING_STREAM, seed, 0, self.device)
        self.core_density(torch.zeros(8, 3, device=self.device), self.random_standing(8, moments))

    def start_over(self) -> bool:
        self.reset_features()
        self._reset_networks()
        self.occupancy.reset()
        self.ray_count.fill_(self.config.first_rays)
        return True

    def _reset_networks(self) -> None:
        reset = reset_glorot if self.config.first_weights == "glorot" else reset_he
        reset(self.geometry, self.colour)


def _of_samples(standing: Tensor | None, index: Tensor) -> Tensor | None:
    return None if standing is None else standing.index_select(0, index)
