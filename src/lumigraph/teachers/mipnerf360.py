"""mip-NeRF 360 (Barron et al., CVPR 2022), and Mip-NeRF with proposal networks: a field that small networks tell
where to look.

One proposal network, which knows density only, is asked at every proposal level; each level is drawn from what the one
before has seen, and the last is coloured by the large field. Proposals learn to cover what the final level sees, not
from colours. Unbounded space is contracted, and rays are divided evenly in inverse depth; each photo may have a
code, from which the field knows its exposure.

Space is in core coordinates: the scene's box is [-1, 1]^3, and lengths and densities are in units of half its side.
Depths t stay in scene units. B rays, K intervals of a level.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lumigraph.configs.mipnerf360 import MipNeRF360Config
from lumigraph.fields.camera_codes import CameraCodes, CodeChoice
from lumigraph.fields.hashgrid import GridLayout
from lumigraph.fields.proposal_fields import Cones, DensityField, GaussianEncoder, GridEncoder, RadianceField
from lumigraph.fields.time_codes import TimeCodeChoice
from lumigraph.geometry.bounds import Bounds, within_core_box
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.accumulation import accumulated_terms
from lumigraph.rendering.background import Background, background_rgb, over, training_target
from lumigraph.rendering.depth_losses import depth_terms, in_scene_units
from lumigraph.rendering.occupancy import Surroundings
from lumigraph.rendering.randomness import step_generator
from lumigraph.rendering.renderer import Batch, Losses, ParameterGroup, Renderer, Rendering
from lumigraph.rendering.schedules import delayed_log_linear
from lumigraph.rendering.volume.histogram import (
    blurred,
    distortion,
    drawn_from,
    interlevel_loss,
    jittered,
    median_depth,
    ray_depths,
    stratified,
    visible_weights,
)
from lumigraph.rendering.volume.proposals import (
    Histogram,
    depth_of,
    dilated,
    intervals,
    jitters,
    schlick,
)

FIELD_CHUNK = 1 << 15
_KEPT_SAMPLES = {"cpu": 1 << 14, "accelerator": 1 << 19}
"""Samples of a training step whose activations are kept at a time (mlp)."""
_STEPS = 256
"""Along the scene's diagonal; what hides nothing over one of them is passed by (grid)."""
_STREAM = 0x94D049BB133111EB
"""An odd 64-bit constant that keeps apart what different seeds draw."""


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
        self, config: MipNeRF360Config, bounds: Bounds, background: Background, cameras: Cameras
    ) -> None:
        """`cameras`: those trained on, each of which gets a code where the config asks for them."""
        super().__init__()
        self.config = config
        self.background = background
        self.sees_cones = config.field == "mlp"
        self.unbounded = bounds.unbounded
        self.half_side = float(bounds.half_extent.max())
        self.register_buffer("centre", bounds.centre.clone(), persistent=False)
        self.disparity = bounds.unbounded if config.spacing is None else config.spacing == "disparity"
        self.opaque_background = config.opaque_background
        if self.opaque_background is None:
            self.opaque_background = bounds.unbounded and background == "opaque"
        skips = config.field == "grid" and not self.unbounded and config.cells > 0
        self.surroundings = Surroundings(config.cells, _STEPS) if skips else None
        self.progress = 0.0
        self.codes = CameraCodes(cameras, config.codes, config.code_choice) if config.codes else None
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

    @classmethod
    def from_scene(cls, config: MipNeRF360Config, info: Any) -> "MipNeRF360":
        """The scene's bounds are the core box."""
        config = replace(config, depth=in_scene_units(config.depth, info.world_transform))
        renderer = cls(config, info.bounds, info.background, info.cameras["train"])
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
        return self._core_density((points - self.centre) / self.half_side) / self.half_side

    def _core_density(self, points: Tensor) -> Tensor:
        parts = points.split(FIELD_CHUNK)
        return torch.cat([self.field.density_of(self.field.hidden(part, None)) for part in parts])

    def query(
        self, points: Float[Tensor, "n 3"], view_directions: Float[Tensor, "n 3"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 3"]]:
        """Density per unit of scene length and colour, at points in scene units seen along unit vectors. The nearest
        camera to a point is that to the point itself."""
        hidden = self.field.hidden((points - self.centre) / self.half_side, None)
        codes = None if self.codes is None else self.codes.shown(points)
        rgb = self.field.colours(self.field.bottleneck(hidden), self.field.rays_part(view_directions, codes))
        return self.field.density_of(hidden) / self.half_side, rgb.clamp(0, 1)

    # ------------------------------------------------------------------ along rays

    def _cones(self, rays: Rays) -> Cones:
        return Cones(
            origins=(rays.origins - self.centre) / self.half_side,
            directions=rays.directions / self.half_side,
            radii=rays.radii / self.half_side,
        )

    def _span(self, rays: Rays, cones: Cones) -> tuple[Tensor, Tensor]:
        """Near and far of each ray. A grid knows nothing outside the box of a bounded scene, so rays end with it; those
        that miss it have no length."""
        config = self.config
        near = rays.near if config.near_plane is None else torch.full_like(rays.near, config.near_plane)
        far = rays.far if config.far_plane is None else torch.full_like(rays.far, config.far_plane)
        if self.disparity:  # the inverse of 0 is no depth
            near = near.clamp(min=1e-4 * self.half_side)
        far = torch.maximum(near, far)
        if config.field == "mlp" or self.unbounded:
            return near, far
        return within_core_box(cones.origins, cones.directions, near, far)

    def _first_edges(
        self,
        count: int,
        near: Tensor,
        far: Tensor,
        depth: Tensor | None,
        generator: torch.Generator | None,
    ) -> Float[Tensor, "B K1"]:
        """The first level, as normalised depths: evenly over all of the ray; in training some of them around the
        photo's depth, where that is wanted and known."""
        whole = torch.tensor([0.0, 1.0], device=near.device).expand(len(near), 2)
        if self.config.resampler == "dilate":
            uniform = jitters(len(near), count, generator, near.device)
            s = intervals(whole, torch.ones_like(whole[:, :1]), uniform)
        else:
            s = torch.linspace(0, 1, count + 1, device=near.device).expand(len(near), count + 1)
            if generator is not None:
                s = jittered(s, torch.rand(s.shape, generator=generator, device=near.device))
        guided = round(self.config.depth_guided * count)
        if guided and depth is not None and generator is not None:
            s = self._guided(s, guided, near, far, depth, generator)
        return s

    def _guided(
        self, s: Tensor, guided: int, near: Tensor, far: Tensor, depth: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Replaces `guided` of the edges of rays with known depth, evenly chosen between the ends, by draws around
        it."""
        noise = torch.randn(len(s), guided, generator=generator, device=s.device)
        t = depth[:, None] + self.config.depth_guided_spread * noise
        ends = near[:, None], far[:, None]
        t = t.clamp(*ends)
        if self.disparity:
            around = (1 / ends[0] - 1 / t) / (1 / ends[0] - 1 / ends[1])
        else:
            around = (t - ends[0]) / (ends[1] - ends[0])
        kept = torch.linspace(0, s.shape[1] - 1, s.shape[1] - guided, device=s.device).round().long()
        replaced = torch.cat([s[:, kept], around.clamp(0, 1)], 1).sort(1).values
        usable = torch.isfinite(depth) & (far > near)
        return torch.where(usable[:, None], replaced, s)

    def _next_edges(
        self,
        s: Tensor,
        weights: Tensor,
        count: int,
        drawn: int,
        exponent: float,
        generator: torch.Generator | None,
    ) -> Float[Tensor, "B K1"]:
        """The edges of the next level, drawn from what this one sees; `drawn` is the product of the numbers of
        intervals of all levels so far."""
        config = self.config
        if config.resampler == "dilate":
            s, weights = dilated(s, weights, config.dilation + config.dilation_share / drawn)
            s, weights = s[:, 1:-1].contiguous(), weights[:, 1:-1]
            return intervals(s, weights**exponent, jitters(len(s), count, generator, s.device))
        softened = blurred(weights.detach() ** exponent, config.blur_padding)
        return drawn_from(s, softened, stratified(len(s), count + 1, generator, s.device)).sort(1).values

    def _see(
        self,
        rays: Rays,
        *,
        generator: torch.Generator | None = None,
        exponent: float = 1.0,
        proposals_learn: bool = False,
        depth: Tensor | None = None,
        normals: bool = False,
    ) -> _Seen:
        """All levels along flat rays. With a generator samples are jittered, and densities may be noisy."""
        cones = self._cones(rays)
        near, far = self._span(rays, cones)
        speed = cones.directions.norm(dim=1, keepdim=True)
        counts = (*self.config.proposal_samples, self.config.samples)
        s = self._first_edges(counts[0], near, far, depth, generator)
        levels: list[Histogram] = []
        drawn = 1
        for level, count in enumerate(counts):
            if level:
                drawn *= counts[level - 1]
                before = levels[-1]
                s = self._next_edges(before.s, before.weights, count, drawn, exponent, generator)
            edges = depth_of(s, near, far, self.disparity)
            last = level == len(counts) - 1
            with torch.set_grad_enabled(torch.is_grad_enabled() and (last or proposals_learn)):
                network = self.field if last else self.proposal
                hidden, density, slope = self._density(network, cones, edges, generator, last and normals)
                lengths = (edges[:, 1:] - edges[:, :-1]) * speed
                weights = visible_weights(density.reshape(lengths.shape), lengths)
                if self.opaque_background:
                    rest = (1 - weights[:, :-1].sum(1, keepdim=True)).clamp(min=0)
                    weights = torch.cat([weights[:, :-1], rest], 1)
            levels.append(Histogram(edges, s, weights))
        return _Seen(levels, hidden, slope)  # pyright: ignore[reportPossiblyUnboundVariable]

    def _density(
        self,
        network: DensityField,
        cones: Cones,
        edges: Tensor,
        generator: torch.Generator | None,
        normals: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """What the trunk makes of each interval, its density, and the unit normals of the density."""
        points, covariances = network.encoder.along(cones, edges)
        noise: Tensor | float = 0.0
        if generator is not None and self.config.density_noise:
            noise = self.config.density_noise * torch.randn(
                len(points), generator=generator, device=points.device
            )
        if not normals:
            return *self._where_something_may_be(network, points, covariances, noise), None
        learning = torch.is_grad_enabled()
        # A grid has no second derivatives: its normals are what others learn from.
        twice = learning and not network.on_grid
        with torch.enable_grad():
            points = points.detach().requires_grad_()
            hidden = network.hidden(points, covariances)
            density = network.density_of(hidden, noise)
            (slope,) = torch.autograd.grad(density.sum(), [points], retain_graph=learning, create_graph=twice)
        slope = -torch.nn.functional.normalize(slope, dim=1, eps=1e-6)
        return (hidden, density, slope) if learning else (hidden.detach(), density.detach(), slope)

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
        predicted = self.field.normal is not None
        seen = self._see(flat, normals=self.config.normals and not predicted)
        weights, edges = seen.final.weights, seen.final.edges
        codes = None if self.codes is None else self.codes.shown(flat.origins)
        rgb = self._shade(weights, seen.hidden, flat.view_directions, codes)
        opacity = weights.sum(1).clamp(max=1)
        rgb = over(rgb, opacity, background_rgb(self.background, rgb.device)).clamp(0, 1)
        raw = (weights * 0.5 * (edges[:, 1:] + edges[:, :-1])).sum(1)
        depth, extras = ray_depths(raw, median_depth(edges, weights), opacity, flat.far)
        normals = (
            self.field.predicted_normals(seen.hidden) if self.config.normals and predicted else seen.normals
        )
        if normals is not None:
            per_ray = (weights[..., None] * normals.reshape(*weights.shape, 3)).sum(1)
            extras["normals"] = torch.nn.functional.normalize(per_ray, dim=1, eps=1e-6)
        return Rendering(rgb, depth, opacity, extras).reshape(*rays.shape)

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
        networks only so many rays are looked at together that their activations fit; means over intervals (statistical
        weight bounds) are then those of each part."""
        config, count = self.config, len(batch.rays)
        generator = step_generator(_STREAM, seed, step, self.device)
        learn = step < config.proposal_warmup or step % config.proposal_interval == 0
        target, background = training_target(batch.rgba, self.background, seed=seed, step=step)
        background = background.expand_as(target)
        weight = batch.weight if config.area_loss else None
        share = torch.full_like(target[:, 0], 1 / count) if weight is None else weight / weight.sum()
        squared_error = torch.empty_like(share)

        def terms(first: int, end: int) -> dict[str, Tensor]:
            part = slice(first, end)
            rays = batch.rays[part]
            seen = self._see(
                rays,
                generator=generator,
                exponent=self._trust(),
                proposals_learn=learn,
                depth=None if batch.depth is None else batch.depth[part],
                normals=config.orientation_weight + config.predicted_normals_weight > 0,
            )
            codes = self._learnt_codes(rays)
            rgb = self._shade(seen.final.weights, seen.hidden, rays.view_directions, codes)
            error = (over(rgb, seen.final.weights.sum(1), background[part]) - target[part]).square()
            squared_error[part] = error.detach().mean(1)
            per_ray = charbonnier(error, config.charbonnier, config.charbonnier_squared)
            others = self._regularisers(rays, seen, codes)
            values = {"rgb": (share[part] * per_ray).sum()}
            values |= {name: len(rays) / count * value for name, value in others.items()}
            return values | self._depth_terms(seen.levels, batch, part)

        if config.field == "grid":
            return Losses(terms(0, count), squared_error)
        return Losses(
            accumulated_terms(terms, count, self._chunk_in_training, self._learning(learn)), squared_error
        )

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
        """What the normals of the density and those that the field predicts have to do with each other, sum_i w_i
        |n_i - n'_i|^2 (Ref-NeRF, equation 10), and with the camera."""
        config, final = self.config, seen.final
        predicted, terms = self.field.predicted_normals(seen.hidden), {}
        if predicted is not None:
            apart = (normals - predicted).square().sum(1).reshape(final.weights.shape)
            terms["normals"] = config.predicted_normals_weight * (final.weights * apart).sum(1).mean()
            normals = predicted
        if config.orientation_weight:
            terms["orientation"] = config.orientation_weight * self._orientation(rays, final, normals)
        return terms

    @property
    def _chunk_in_training(self) -> int:
        """Rays whose activations are kept at a time, where gradients are accumulated."""
        samples = _KEPT_SAMPLES["cpu" if self.device.type == "cpu" else "accelerator"]
        return max(16, samples // (sum(self.config.proposal_samples) + self.config.samples))

    def _learning(self, proposals: bool) -> list[nn.Parameter]:
        """The parameters that have part in a step."""
        modules = [self.field, *([self.proposal] if proposals else []), *([self.codes] if self.codes else [])]
        return [parameter for module in modules for parameter in module.parameters()]

    def _depth_terms(self, levels: list[Histogram], batch: Batch, part: slice) -> dict[str, Tensor]:
        """What the known depths of a part of a batch say of the final level's weights, and a share of what they say of
        those of the proposal levels."""
        config = self.config
        sky = batch.rgba[:, 3] == 0 if config.depth.depth_sky_weight else None
        if sky is None and not (config.depth.needs_depth and batch.depth is not None):
            return {}
        depth = torch.full_like(batch.rays.far, torch.nan) if batch.depth is None else batch.depth
        sigma = batch.depth_sigma
        counted = {"depth": torch.isfinite(depth)} | ({} if sky is None else {"sky": sky})
        shares_of_part = {
            name: float(rays[part].sum()) / max(1, int(rays.sum())) for name, rays in counted.items()
        }
        terms: dict[str, Tensor] = {}
        shares = [*[config.proposal_depth_weight] * (len(levels) - 1), 1.0]
        for level, share in zip(levels, shares, strict=True):
            if share:
                found = depth_terms(
                    config.depth,
                    level.edges,
                    level.weights,
                    depth[part],
                    sigma=None if sigma is None else sigma[part],
                    progress=self.progress,
                    sky=None if sky is None else sky[part],
                )
                terms = {name: terms.get(name, 0) + share * value for name, value in found.items()}
        return {name: shares_of_part[name] * value for name, value in terms.items()}

    def _learnt_codes(self, rays: Rays) -> Tensor | None:
        if self.codes is None:
            return None
        unknown = torch.full(rays.shape, -1, device=rays.device)
        return self.codes.learnt(unknown if rays.camera_ids is None else rays.camera_ids)

    def _orientation(self, rays: Rays, final: Histogram, normals: Tensor) -> Tensor:
        """Visible normals that look away from the camera: sum_i w_i max(0, n_i . d)^2 (Ref-NeRF, equation 11)."""
        away = (normals.reshape(*final.weights.shape, 3) * rays.view_directions[:, None]).sum(-1)
        return (final.weights.detach() * away.clamp(min=0).square()).sum(1).mean()

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
        if self.surroundings is not None:
            self.surroundings.reset()
        if self.codes is not None:
            nn.init.zeros_(self.codes.table)
        return True


def charbonnier(squared_error: Float[Tensor, "B 3"], eps: float, squared: bool) -> Float[Tensor, " B"]:
    """sqrt(error^2 + eps^2) (Charbonnier et al. 1994), the mean over the channels; with `squared` False eps itself is
    under the root."""
    return torch.sqrt(squared_error + (eps**2 if squared else eps)).mean(1)
