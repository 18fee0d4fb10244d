"""mip-NeRF 360 (Barron et al., CVPR 2022), and Mip-NeRF with proposal networks: a field that small networks tell
where to look.

One proposal network, which knows density only, is asked at every proposal level; each level is drawn from what the one
before has seen, and the last is coloured by the large field. Proposals learn to cover what the final level sees, not
from colours. Unbounded space is contracted, and rays are divided evenly in inverse depth; each photo may have a
code, from which the field knows its exposure.

Space is in core coordinates: the scene's box is [-1, 1]^3, and lengths and densities are in units of half its side.
Depths t stay in scene units. Of forward-facing scenes the core may be the cube of normalised device coordinates, where
t runs from 0 to 1 and cones are cylinders. B rays, K intervals of a level.
"""

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lumigraph.configs.mipnerf360 import MipNeRF360Config
from lumigraph.errors import LumigraphError
from lumigraph.fields.camera_codes import CameraCodes, CodeChoice
from lumigraph.fields.hashgrid import GridLayout
from lumigraph.fields.proposal_fields import Cones, DensityField, GaussianEncoder, GridEncoder, RadianceField
from lumigraph.fields.time_codes import TimeCodeChoice
from lumigraph.geometry.bounds import Bounds, within_core_box
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.conventions import split_similarity
from lumigraph.geometry.ndc import (
    ForwardFrame,
    chosen_frame,
    require_ahead,
    require_cameras_ahead,
    require_scene_lengths,
)
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.accumulation import accumulated_terms
from lumigraph.rendering.background import Background, background_rgb, over, training_target
from lumigraph.rendering.colour_error import ray_shares
from lumigraph.rendering.depth_losses import bounded_intervals, depth_terms, in_scene_units
from lumigraph.rendering.normal_losses import normal_loss, orientation_loss, predicted_normals_loss
from lumigraph.rendering.occupancy import Surroundings
from lumigraph.rendering.randomness import step_generator
from lumigraph.rendering.renderer import Batch, Losses, ParameterGroup, Renderer, Rendering
from lumigraph.rendering.schedules import delayed_log_linear
from lumigraph.rendering.volume.histogram import (
    distortion,
    interlevel_loss,
    median_depth,
    ray_depths,
    visible_weights,
)
from lumigraph.rendering.volume.proposals import (
    Histogram,
    LevelDraws,
    depth_of,
    level_draws,
    next_edges,
    schlick,
    with_some_at,
)

FIELD_CHUNK = 1 << 15
_KEPT_SAMPLES = {"cpu": 1 << 14, "accelerator": 1 << 19}
"""Samples of a training step whose activations are kept at a time (mlp)."""
_STEPS = 256
"""Along the scene's diagonal; what hides nothing over one of them is passed by (grid)."""
_STREAM = 0x94D049BB133111EB
"""An odd 64-bit constant that keeps apart what different seeds draw."""
_SPREADS = (1e-6, 1e6)
"""Between these stays a learnt spread of guided samples."""
_TETRAHEDRON = ((1.0, -1.0, -1.0), (-1.0, -1.0, 1.0), (-1.0, 1.0, -1.0), (1.0, 1.0, 1.0))
"""Four steps from a point that tell a slope."""


class _Proposed(NamedTuple):
    """What the proposal levels see of B rays, the edges of the final level as `s` and as depths t, and the cones."""

    cones: Cones
    levels: list[Histogram]
    s: Tensor
    edges: Tensor


@dataclass(frozen=True)
class _Seen:
    """What all levels see of B rays: a histogram for each, the final one last; of the final level's samples, B K in a
    row, what the trunk made of them, where they are, and normals where asked for."""

    levels: list[Histogram]
    hidden: Float[Tensor, "n W"]
    normals: Float[Tensor, "n 3"] | None

    @property
    def final(self) -> Histogram:
        return self.levels[-1]


class MipNeRF360(Renderer):
    """The teacher: rays -> proposals -> final samples -> composited colours."""

    chunk = 1 << 12
    centre: Float[Tensor, "3"]

    def __init__(
        self,
        config: MipNeRF360Config,
        bounds: Bounds,
        background: Background,
        cameras: Cameras,
        frame: ForwardFrame | None = None,
    ) -> None:
        """`cameras`: those trained on, each of which gets a code where the config asks for them. `frame`: in whose
        normalised device coordinates rays are sampled."""
        super().__init__()
        self.config = config
        self.background = background
        self.frame = frame
        self.sees_cones = config.field == "mlp"
        self.wants_normals = config.wants_normals
        # Cameras at the side see more than the cube of normalised device coordinates: a grid contracts that.
        self.unbounded = bounds.unbounded if frame is None else config.field == "grid"
        self.half_side = float(bounds.half_extent.max()) if frame is None else 1.0
        centre = bounds.centre.clone() if frame is None else torch.zeros(3)
        self.register_buffer("centre", centre, persistent=False)
        far_away = bounds.unbounded and frame is None
        self.disparity = far_away if config.spacing is None else config.spacing == "disparity"
        self.opaque_background = config.opaque_background
        if self.opaque_background is None:
            self.opaque_background = bounds.unbounded and background == "opaque"
        skips = config.field == "grid" and not self.unbounded and config.cells > 0
        self.surroundings = Surroundings(config.cells, _STEPS) if skips else None
        self.progress = 0.0
        self.codes = CameraCodes(cameras, config.codes, config.code_choice) if config.codes else None
        learns_spread = config.depth_guided > 0 and config.depth_guided_learnt
        self.log_spread = nn.Parameter(torch.zeros(())) if learns_spread else None
        self._reset_spread()
        self.proposal = DensityField(
            self._encoder(proposal=True), config.proposal_layers, config.proposal_width
        )
        self.proposal.reset()
        self.field = RadianceField(
            self._encoder(proposal=False),
            config.layers,
            config.width,
            bottleneck=config.bottleneck,
            view_layers=config.view_layers,
            view_width=config.view_width,
            view_octaves=config.view_octaves,
            codes=config.codes,
            normals=config.predicted_normals_weight > 0,
        )

    def _reset_spread(self) -> None:
        if self.log_spread is not None:
            nn.init.constant_(self.log_spread, math.log(self.config.depth_guided_spread))

    @classmethod
    def from_scene(cls, config: MipNeRF360Config, info: Any) -> "MipNeRF360":
        """The scene's bounds are the core box.

        Raises LumigraphError where the config and the scene's rays do not fit together."""
        scale, _, _ = split_similarity(info.world_transform)
        config = replace(
            config,
            depth=in_scene_units(config.depth, info.world_transform),
            depth_guided_spread=scale * config.depth_guided_spread,
        )
        frame = chosen_frame(config.ndc, info.forward, info.source)
        if frame is not None:
            _require_possible_in_frame(config, info.source)
        renderer = cls(config, info.bounds, info.background, info.cameras["train"], frame)
        if frame is not None:
            require_cameras_ahead(frame, info.cameras["train"])
        if renderer.surroundings is not None:
            renderer.surroundings.mark_unseen(info.cameras["train"], info.bounds)
        return renderer

    def _encoder(self, proposal: bool) -> nn.Module:
        config = self.config
        if config.field == "mlp":
            return GaussianEncoder(self.unbounded, config.solid, config.subdivisions, config.octaves)
        layout = (
            (config.proposal_levels, config.proposal_features, config.proposal_log2_entries)
            if proposal
            else (config.levels, config.features, config.log2_entries)
        )
        finest = config.proposal_resolution if proposal else config.finest_resolution
        return GridEncoder(self.unbounded, GridLayout(*layout, config.base_resolution, finest))

    # ------------------------------------------------------------------ the field

    def density(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """Density per unit of scene length, at points in scene units."""
        return self._core_density(self._core_points(points)) / self.half_side

    def _core_points(self, points: Tensor) -> Tensor:
        require_scene_lengths(self.frame)
        return (points - self.centre) / self.half_side

    def _core_density(self, points: Tensor) -> Tensor:
        parts = points.split(FIELD_CHUNK)
        return torch.cat([self.field.density_of(self.field.hidden(part, None)) for part in parts])

    def query(
        self, points: Float[Tensor, "n 3"], view_directions: Float[Tensor, "n 3"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 3"]]:
        """Density per unit of scene length and colour, at points in scene units seen along unit vectors. The nearest
        camera to a point is that to the point itself."""
        hidden = self.field.hidden(self._core_points(points), None)
        codes = None if self.codes is None else self.codes.shown(points)
        rgb = self.field.colours(self.field.bottleneck(hidden), self.field.rays_part(view_directions, codes))
        return self.field.density_of(hidden) / self.half_side, rgb.clamp(0, 1)

    # ------------------------------------------------------------------ along rays

    def _sampled(self, rays: Rays) -> Rays:
        """The rays as they are sampled: those of the scene, or the same in normalised device coordinates."""
        return rays if self.frame is None else self.frame.rays(rays)

    def _cones(self, sampled: Rays) -> Cones:
        return Cones(
            origins=(sampled.origins - self.centre) / self.half_side,
            directions=sampled.directions / self.half_side,
            radii=sampled.radii / self.half_side,
            cylinders=self.frame is not None,
        )

    def _span(self, sampled: Rays, cones: Cones) -> tuple[Tensor, Tensor]:
        """Near and far of each ray. A grid knows nothing outside the box of a bounded scene, so rays end with it; those
        that miss it have no length."""
        config = self.config
        if self.frame is not None:
            return sampled.near, sampled.far
        near = sampled.near if config.near_plane is None else torch.full_like(sampled.near, config.near_plane)
        far = sampled.far if config.far_plane is None else torch.full_like(sampled.far, config.far_plane)
        if self.disparity:  # the inverse of 0 is no depth
            near = near.clamp(min=1e-4 * self.half_side)
        far = torch.maximum(near, far)
        if config.field == "mlp" or self.unbounded:
            return near, far
        return within_core_box(cones.origins, cones.directions, near, far)

    def _guided(
        self, s: Tensor, noise: Tensor, rays: Rays, near: Tensor, far: Tensor, depth: Tensor
    ) -> Float[Tensor, "B K1"]:
        """Edges of which some, as many as there are random numbers, are around the depth, where it is known and the ray
        has a length."""
        spread: Tensor | float = self.config.depth_guided_spread
        if self.log_spread is not None:
            spread = self.log_spread.exp().clamp(*_SPREADS)
        usable = torch.isfinite(depth) & (far > near)
        t = torch.where(usable, depth, 0)[:, None] + spread * noise
        if self.frame is not None:
            t = self.frame.ndc(t, rays.reshape(len(s), 1))
        return torch.where(usable[:, None], with_some_at(s, t, near, far, self.disparity), s)

    def _proposed(
        self,
        rays: Rays,
        draws: LevelDraws,
        *,
        exponent: float = 1.0,
        proposals_learn: bool = False,
        depth: Tensor | None = None,
    ) -> _Proposed:
        """What the proposal levels see along flat rays, and where the final level looks."""
        config, sampled = self.config, self._sampled(rays)
        cones = self._cones(sampled)
        near, far = self._span(sampled, cones)
        s = draws.first
        if depth is not None and draws.guided is not None:
            s = self._guided(s, draws.guided, rays, near, far, depth)
        levels: list[Histogram] = []
        drawn = 1
        for level, count in enumerate(config.proposal_samples):
            edges = depth_of(s, near, far, self.disparity)
            noise = 0.0 if draws.noise is None else draws.noise[level].flatten()
            with torch.set_grad_enabled(torch.is_grad_enabled() and proposals_learn):
                points, covariances = self.proposal.encoder.along(cones, edges)
                _, density = self._where_something_may_be(self.proposal, points, covariances, noise)
                levels.append(Histogram(edges, s, self._weights(density, edges, cones)))
            drawn *= count
            s = next_edges(config, s, levels[-1].weights, draws.later[level], drawn, exponent)
        return _Proposed(cones, levels, s, depth_of(s, near, far, self.disparity))

    def _see(
        self, rays: Rays, draws: LevelDraws | None = None, normals: bool = False, **proposing: Any
    ) -> _Seen:
        """All levels along flat rays; `proposing` as `_proposed` takes it."""
        draws = level_draws(self.config, len(rays), None, self.device) if draws is None else draws
        proposed = self._proposed(rays, draws, **proposing)
        noise = 0.0 if draws.noise is None else draws.noise[-1].flatten()
        points, covariances = self.field.encoder.along(proposed.cones, proposed.edges)
        hidden, density, slope = self._looked_at(points, covariances, noise, normals)
        weights = self._weights(density, proposed.edges, proposed.cones)
        if normals and slope is None:
            slope = self._slope_around(points, weights.detach().flatten() > self.config.least_weight)
        final = Histogram(proposed.edges, proposed.s, weights)
        return _Seen([*proposed.levels, final], hidden, slope)

    def _weights(self, density: Tensor, edges: Tensor, cones: Cones) -> Float[Tensor, "B K"]:
        lengths = (edges[:, 1:] - edges[:, :-1]) * cones.directions.norm(dim=1, keepdim=True)
        weights = visible_weights(density.reshape(lengths.shape), lengths)
        if not self.opaque_background:
            return weights
        rest = (1 - weights[:, :-1].sum(1, keepdim=True)).clamp(min=0)
        return torch.cat([weights[:, :-1], rest], 1)

    def _looked_at(
        self, points: Tensor, covariances: Tensor | None, noise: Tensor | float, normals: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """What the trunk of the field makes of the final samples, their density, and its unit normals; without these
        where a grid is to learn from them (`_slope_around`)."""
        field, learning = self.field, torch.is_grad_enabled()
        if not normals or (learning and field.on_grid):
            return *self._where_something_may_be(field, points, covariances, noise), None
        with torch.enable_grad():
            # They hang together with a learnt spread, or with nothing.
            points = points if points.requires_grad else points.detach().requires_grad_()
            hidden, density = self._where_something_may_be(field, points, covariances, noise)
            (slope,) = torch.autograd.grad(
                density.sum(), [points], retain_graph=learning, create_graph=learning
            )
        slope = -torch.nn.functional.normalize(slope, dim=1, eps=1e-6)
        return (hidden, density, slope) if learning else (hidden.detach(), density.detach(), slope)

    def _slope_around(self, points: Float[Tensor, "n 3"], shown: Bool[Tensor, " n"]) -> Float[Tensor, "n 3"]:
        """Unit normals of the points that are `shown`, zeros for the others, from differences over a cell of the finest
        level: a grid has no second derivatives, so that it learns from these (Li et al. 2023, Neuralangelo, section
        3.2)."""
        steps, place = points.new_tensor(_TETRAHEDRON), shown.nonzero()[:, 0]
        corners = points.detach().index_select(0, place)[:, None] + 2 / self.config.finest_resolution * steps
        raw = self.field.density(self.field.hidden(corners.flatten(0, 1), None)).reshape(-1, len(steps), 1)
        slope = -torch.nn.functional.normalize((raw * steps).sum(1), dim=1, eps=1e-6)
        return slope.new_zeros(points.shape).index_copy(0, place, slope)

    def _where_something_may_be(
        self, network: DensityField, points: Tensor, covariances: Tensor | None, noise: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        """What the trunk makes of points, and their density; both zero where nothing is."""
        if self.surroundings is None:
            hidden = network.hidden(points, covariances)
            return hidden, network.density_of(hidden, noise)
        chosen = self.surroundings.hold(points).nonzero()[:, 0]
        some = network.hidden(points.index_select(0, chosen), None)
        density = network.density_of(
            some, noise.index_select(0, chosen) if isinstance(noise, Tensor) else noise
        )
        whole = some.new_zeros(len(points), some.shape[1])
        return whole.index_copy(0, chosen, some), density.new_zeros(len(points)).index_copy(
            0, chosen, density
        )

    def _shade(
        self, weights: Float[Tensor, "B K"], hidden: Tensor, view_directions: Tensor, codes: Tensor | None
    ) -> Float[Tensor, "B 3"]:
        """Premultiplied colours of rays. Samples that send hardly any light are left out."""
        common = self.field.rays_part(view_directions, codes)
        shown = weights.detach().flatten() > self.config.least_weight
        if self.config.least_weight == 0:
            shown = torch.ones_like(shown)
        place = torch.nonzero(shown)[:, 0]
        ray = place // weights.shape[1]
        bottleneck = self.field.bottleneck(hidden.index_select(0, place))
        rgb = self.field.colours(bottleneck, None if common is None else common.index_select(0, ray))
        light = weights.flatten().index_select(0, place)[:, None] * rgb
        return torch.zeros_like(view_directions).index_add(0, ray, light)

    @torch.no_grad()
    def render(self, rays: Rays) -> Rendering:
        flat = rays.flatten()
        if self.frame is not None:
            require_ahead(self.frame, flat)
        predicted = self.field.normal is not None
        seen = self._see(flat, normals=self.config.normals and not predicted)
        weights, edges = seen.final.weights, seen.final.edges
        codes = None if self.codes is None else self.codes.shown(flat.origins)
        rgb = self._shade(weights, seen.hidden, flat.view_directions, codes)
        opacity = weights.sum(1).clamp(max=1)
        rgb = over(rgb, opacity, background_rgb(self.background, rgb.device)).clamp(0, 1)
        raw = (weights * 0.5 * (edges[:, 1:] + edges[:, :-1])).sum(1)
        median = median_depth(edges, weights)
        depth, extras = ray_depths(raw, median, opacity, flat.far, lambda t: self._in_scene(t, flat))
        normals = (
            self.field.predicted_normals(seen.hidden) if self.config.normals and predicted else seen.normals
        )
        if normals is not None:
            per_ray = (weights[..., None] * normals.reshape(*weights.shape, 3)).sum(1)
            extras["normals"] = torch.nn.functional.normalize(per_ray, dim=1, eps=1e-6)
        return Rendering(rgb, depth, opacity, extras).reshape(*rays.shape)

    def _in_scene(self, t: Tensor, rays: Rays) -> Tensor:
        """Depths t at which rays are sampled, as depths of the rays of the scene."""
        return t if self.frame is None else self.frame.depth(t, rays)

    # ------------------------------------------------------------------ codes of cameras

    def choose_codes(self, choice: CodeChoice | TimeCodeChoice) -> None:
        if self.codes is None or choice == "linear":
            super().choose_codes(choice)
        else:
            self.codes.choice = choice

    def fitted_to(self, rays: Rays, rgba: Float[Tensor, "B 4"]) -> AbstractContextManager[None]:
        if self.codes is None:
            return super().fitted_to(rays, rgba)
        # Only the layers that colour know of codes: what is seen along the rays stays.
        with torch.no_grad():
            parts = [self._see(part) for part in rays.split(self.chunk)]
        weights = torch.cat([part.final.weights for part in parts])
        hidden = torch.cat([part.hidden for part in parts])
        shown = background_rgb(self.background, weights.device)
        target, opacity = over(rgba[:, :3], rgba[:, 3], shown), weights.sum(1)
        codes, origins, directions = self.codes, rays.origins, rays.view_directions

        def error() -> Tensor:
            rgb = self._shade(weights, hidden, directions, codes.shown(origins))
            return (over(rgb, opacity, shown) - target).square().mean()

        return codes.fitted(error, self.config.code_weight)

    # ------------------------------------------------------------------ training

    @property
    def rays_per_step(self) -> int:
        return self.config.rays

    def begin_step(self, step: int, progress: float, seed: int) -> None:
        self.progress = progress
        if self.surroundings is not None:
            self.surroundings.follow(self._core_density, step, seed)

    def _trust(self) -> float:
        """The exponent on proposals' weights at this point of training."""
        return schlick(self.progress, self.config.anneal_slope) if self.config.anneal_slope else 1.0

    def losses(self, batch: Batch, step: int, seed: int) -> Losses:
        """Charbonnier loss of the colours, the proposals' loss, distortion, and what else has a weight. Of the large
        networks only so many rays are looked at together that their activations fit; the sums are the same."""
        config, count = self.config, len(batch.rays)
        draws = level_draws(config, count, step_generator(_STREAM, seed, step, self.device), self.device)
        learn = step < config.proposal_warmup or step % config.proposal_interval == 0
        target, background = training_target(batch.rgba, self.background, seed=seed, step=step)
        background = background.expand_as(target)
        share = ray_shares(batch, config.area_power)
        squared_error = torch.empty_like(share)
        chunk = count if config.field == "grid" else self._chunk_in_training
        bounded = self._bounded_intervals(batch, draws, chunk)
        given = batch.normals if self.wants_normals else None
        normals_known = torch.ones(()) if given is None else given.isfinite().all(1).sum().clamp(min=1)

        def terms(first: int, end: int) -> dict[str, Tensor]:
            part = slice(first, end)
            rays = batch.rays[part]
            seen = self._see(
                rays,
                draws.part(part),
                normals=self._normals_learn,
                exponent=self._trust(),
                proposals_learn=learn,
                depth=None if batch.depth is None else batch.depth[part],
            )
            codes = self._learnt_codes(rays)
            rgb = self._shade(seen.final.weights, seen.hidden, rays.view_directions, codes)
            error = (over(rgb, seen.final.weights.sum(1), background[part]) - target[part]).square()
            squared_error[part] = error.detach().mean(1)
            per_ray = charbonnier(error, config.charbonnier, config.charbonnier_squared)
            others = self._regularisers(rays, seen, codes)
            values = {"rgb": (share[part] * per_ray).sum()}
            values |= {name: len(rays) / count * value for name, value in others.items()}
            if given is not None:
                values |= self._normal_map_terms(seen, given[part], normals_known)
            return values | self._depth_terms(seen.levels, batch, part, bounded)

        if config.field == "grid":
            return Losses(terms(0, count), squared_error)
        learning = self._learning(learn, guided=batch.depth is not None)
        return Losses(accumulated_terms(terms, count, chunk, learning), squared_error)

    def _bounded_intervals(self, batch: Batch, draws: LevelDraws, chunk: int) -> list[Tensor] | None:
        """What the means of statistical weight bounds are over (`bounded_intervals`), at each level, where only `chunk`
        rays are looked at together; None where that is all of them, or there are no bounds. Where the final level
        looks, proposals say, so that the large field is not asked."""
        depth, config = batch.depth, self.config.depth
        if len(batch.rays) <= chunk or depth is None or config.depth_loss != "swb" or not config.needs_depth:
            return None
        found = []
        with torch.no_grad():
            for first in range(0, len(batch.rays), chunk):
                part = slice(first, first + chunk)
                rays, known = batch.rays[part], depth[part]
                sigma = None if batch.depth_sigma is None else batch.depth_sigma[part]
                looked = self._proposed(rays, draws.part(part), exponent=self._trust(), depth=known)
                edges = [
                    self._scene_edges(t, rays) for t in (*(x.edges for x in looked.levels), looked.edges)
                ]
                found.append(
                    [bounded_intervals(config, t, known, sigma=sigma, progress=self.progress) for t in edges]
                )
        return [torch.stack(counts).sum(0) for counts in zip(*found, strict=True)]

    def _scene_edges(self, edges: Float[Tensor, "B K1"], rays: Rays) -> Float[Tensor, "B K1"]:
        return self._in_scene(edges, rays.reshape(len(edges), 1))

    def _regularisers(self, rays: Rays, seen: _Seen, codes: Tensor | None) -> dict[str, Tensor]:
        """The weighted losses, means over rays, that no photo has a say in."""
        config, final = self.config, seen.final
        proposals = [
            interlevel_loss(final.s, final.weights, level.s, level.weights).mean()
            for level in seen.levels[:-1]
        ]
        terms = {"proposals": config.proposal_weight * torch.stack(proposals).sum()}
        if config.distortion_weight:
            terms["distortion"] = config.distortion_weight * distortion(final.weights, final.s).mean()
        if codes is not None:
            terms["codes"] = config.code_weight * codes.square().mean()
        if seen.normals is not None:
            terms |= self._normal_terms(rays, seen, seen.normals)
        return terms

    def _normal_terms(self, rays: Rays, seen: _Seen, normals: Float[Tensor, "n 3"]) -> dict[str, Tensor]:
        """What the normals of the density and those that the field predicts have to do with each other, and with the
        camera."""
        config, weights = self.config, seen.final.weights
        normals = normals.reshape(*weights.shape, 3)
        predicted, terms = self.field.predicted_normals(seen.hidden), {}
        if predicted is not None:
            apart = predicted_normals_loss(weights, normals, predicted.reshape(normals.shape))
            terms["normals"] = config.predicted_normals_weight * apart
            normals = predicted.reshape(normals.shape)
        if config.orientation_weight:
            away = orientation_loss(weights, normals, rays.view_directions)
            terms["orientation"] = config.orientation_weight * away
        return terms

    @property
    def _normals_learn(self) -> bool:
        config = self.config
        return config.orientation_weight + config.predicted_normals_weight > 0 or self.wants_normals

    def _normal_map_terms(self, seen: _Seen, given: Float[Tensor, "B 3"], known: Tensor) -> dict[str, Tensor]:
        """What the normals that the photos come with say of those of the density: this part of a mean over the `known`
        rays of the batch."""
        config, weights = self.config, seen.final.weights
        assert config.normal_loss != "none" and seen.normals is not None
        normals = seen.normals.reshape(*weights.shape, 3)
        loss = normal_loss(config.normal_loss, weights, normals, given)
        return {"normal_maps": config.normal_weight * loss / known}

    @property
    def _chunk_in_training(self) -> int:
        """Rays whose activations are kept at a time, where gradients are accumulated."""
        samples = _KEPT_SAMPLES["cpu" if self.device.type == "cpu" else "accelerator"]
        return max(16, samples // (sum(self.config.proposal_samples) + self.config.samples))

    def _learning(self, proposals: bool, guided: bool) -> list[nn.Parameter]:
        """The parameters that have part in a step, in which proposals learn, or samples may be guided."""
        modules = [self.field, *([self.proposal] if proposals else []), *([self.codes] if self.codes else [])]
        parameters = [parameter for module in modules for parameter in module.parameters()]
        return [*parameters, self.log_spread] if guided and self.log_spread is not None else parameters

    def _depth_terms(
        self, levels: list[Histogram], batch: Batch, part: slice, bounded: list[Tensor] | None
    ) -> dict[str, Tensor]:
        """What the known depths of a part of a batch say of the final level's weights, and a share of what they say of
        those of the proposal levels. `bounded`: see `_bounded_intervals`."""
        config, rays = self.config, batch.rays[part]
        sky = batch.rgba[:, 3] == 0 if config.depth.depth_sky_weight else None
        if sky is None and not (config.depth.needs_depth and batch.depth is not None):
            return {}
        depth = torch.full_like(batch.rays.far, torch.nan) if batch.depth is None else batch.depth
        sigma = batch.depth_sigma
        counted = {"depth": torch.isfinite(depth)} | ({} if sky is None else {"sky": sky})
        shares_of_part = {
            name: float(some[part].sum()) / max(1, int(some.sum())) for name, some in counted.items()
        }
        if bounded is not None:  # its means are those of all rays already
            shares_of_part["depth"] = 1.0
        terms: dict[str, Tensor] = {}
        shares = [*[config.proposal_depth_weight] * (len(levels) - 1), 1.0]
        for place, (level, share) in enumerate(zip(levels, shares, strict=True)):
            if share:
                found = depth_terms(
                    config.depth,
                    self._scene_edges(level.edges, rays),
                    level.weights,
                    depth[part],
                    sigma=None if sigma is None else sigma[part],
                    progress=self.progress,
                    sky=None if sky is None else sky[part],
                    bounded=None if bounded is None else bounded[place],
                )
                terms = {name: terms.get(name, 0) + share * value for name, value in found.items()}
        return {name: shares_of_part[name] * value for name, value in terms.items()}

    def _learnt_codes(self, rays: Rays) -> Tensor | None:
        if self.codes is None:
            return None
        unknown = torch.full(rays.shape, -1, device=rays.device)
        return self.codes.learnt(unknown if rays.camera_ids is None else rays.camera_ids)

    def optimisers(self) -> list[ParameterGroup]:
        config = self.config
        settings = {"lr": config.lr, "betas": (0.9, config.beta2), "eps": config.adam_eps}
        settings["clip_norm"] = config.clip_norm
        groups = []
        for name, network in (("proposal", self.proposal), ("field", self.field)):
            if isinstance(network.encoder, GridEncoder):
                groups.append(
                    ParameterGroup(f"{name} grid", [network.encoder.grid.table], table=True, **settings)
                )
            layers = [p for key, p in network.named_parameters() if not key.startswith("encoder.")]
            groups.append(ParameterGroup(name, layers, **settings))
        if self.codes is not None:
            groups.append(ParameterGroup("codes", [self.codes.table], **settings))
        if self.log_spread is not None:
            groups.append(ParameterGroup("spread", [self.log_spread], **settings))
        return groups

    def lr_scale(self, step: int, progress: float) -> float:
        config = self.config
        delay = config.lr_delay_steps / config.training_steps
        return delayed_log_linear(progress, config.final_lr / config.lr, delay, config.lr_delay_factor)

    def memory_estimate(self, rays: int) -> int:
        """Weights, gradients and moments; what each sample of each level keeps for the way back."""
        config = self.config
        encoded = self.field.encoder.width
        final = 3 * encoded + (config.layers + 2) * config.width + 2 * config.view_layers * config.view_width
        proposed = 3 * self.proposal.encoder.width + (config.proposal_layers + 1) * config.proposal_width
        numbers = config.samples * (final + 60) + sum(config.proposal_samples) * (proposed + 60)
        together = rays if config.field == "grid" else min(rays, self._chunk_in_training)
        return super().memory_estimate(rays) + 4 * max(together, self.chunk // 2) * numbers

    def start_over(self) -> bool:
        self.proposal.reset()
        self.field.reset()
        self._reset_spread()
        if self.surroundings is not None:
            self.surroundings.reset()
        if self.codes is not None:
            nn.init.zeros_(self.codes.table)
        return True


def _require_possible_in_frame(config: MipNeRF360Config, source: str) -> None:
    """Raises LumigraphError, with all that is asked for in vain, for what is impossible in normalised device
    coordinates: these bend space, and in them rays run from their own near plane to infinity, evenly in t."""
    asked = {
        "--near-plane": config.near_plane is not None,
        "--far-plane": config.far_plane is not None,
        "--spacing disparity": config.spacing == "disparity",
        "--normals": config.normals,
        "--normal-loss": config.normal_loss != "none",
        "--predicted-normals-weight": config.predicted_normals_weight > 0,
        "--orientation-weight": config.orientation_weight > 0,
    }
    in_vain = [option for option, chosen in asked.items() if chosen]
    if in_vain:
        raise LumigraphError(
            f"impossible in normalised device coordinates: {', '.join(in_vain)}",
            where=source,
            todo="Train with --ndc off, or leave these out (what a preset sets: --near-plane None, --spacing linear)",
        )


def charbonnier(squared_error: Float[Tensor, "B 3"], eps: float, squared: bool) -> Float[Tensor, " B"]:
    """sqrt(error^2 + eps^2) (Charbonnier et al. 1994), the mean over the channels; with `squared` False eps itself is
    under the root."""
    return torch.sqrt(squared_error + (eps**2 if squared else eps)).mean(1)
