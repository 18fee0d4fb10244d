"""What teachers share that warp the points of every moment to one template: sampling, schedules, regularisers.

    x' = warp(x, c)     w = slicing surface at x     (density, rgb) = template(x', w, view direction)

c is the code of the moment. How w comes about is the method's: it extends `WarpedTeacher`. Letters: B rays, b of a part
of them, K samples along each, W ambient coordinates.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from lumigraph.configs.warped import WarpedConfig
from lumigraph.errors import LumigraphError
from lumigraph.fields.attribute_sheets import AttributeSheets
from lumigraph.fields.camera_codes import CameraCodes, CodeChoice, DeviceCodes
from lumigraph.fields.encodings import frequency_encoding, frequency_size
from lumigraph.fields.nerf_mlp import NeRFMLP
from lumigraph.fields.skip_mlp import SkipMLP
from lumigraph.fields.slicing import BendySheet, ambient_encoding, ambient_size
from lumigraph.fields.time_codes import TimeCodeChoice, TimeCodes
from lumigraph.fields.warps import WARPS, Warp, warp_jacobians
from lumigraph.geometry.bounds import Bounds
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.accumulation import accumulated_terms
from lumigraph.rendering.background import Background
from lumigraph.rendering.colour_error import ColourTarget
from lumigraph.rendering.randomness import step_generator
from lumigraph.rendering.renderer import Batch, Losses, ParameterGroup, Renderer, Rendering
from lumigraph.rendering.volume.coarse_fine import (
    BEYOND,
    CoarseFine,
    Draws,
    Field,
    FieldSamples,
    Seen,
    rendered,
)
from lumigraph.rendering.volume.histogram import half_way
from lumigraph.rendering.warp_losses import ambient_energy, displacement_energy, elastic_energy
from lumigraph.scenes.formats.nerfies import background_points
from lumigraph.scenes.scene import SceneInfo

_STREAM = 0xC2B2AE3D27D4EB4F
"""Odd 64-bit constant that keeps what different seeds draw apart."""

Conditions = dict[str, Tensor]
"""What a field is told of rays besides the points, by name, each [B, 1, C]: "views", the encoded view direction and the
code of appearance; "code", that of the moment; what else a method wants."""


class WarpedTeacher(Renderer):
    """Base of these teachers: a coarse and a fine template network, one warp and one set of codes for both."""

    conditions = ("times",)
    knows_bfloat16 = True
    warp_alpha: Float[Tensor, ""]
    ambient_beta: Float[Tensor, ""]
    bounds: Float[Tensor, "2 3"]
    still_points: Float[Tensor, "P 3"]

    def __init__(
        self,
        config: WarpedConfig,
        background: Background,
        cameras: Cameras,
        bounds: Bounds,
        captured: Sequence[Cameras] = (),
    ) -> None:
        """`cameras`: those trained on, whose times have the codes. `captured`: the cameras of all photos, to know which
        camera of a rig took them."""
        super().__init__()
        self.config: Any = config
        self.dust_threshold: float = config.dust_threshold
        self.inside_bounds: bool = config.inside_bounds
        self.background = background
        self.far_is_seen = (
            background == "opaque" if config.sample_at_infinity is None else config.sample_at_infinity
        )
        self.sampling = CoarseFine(
            config.samples, config.importance, softplus, beyond=BEYOND if self.far_is_seen else 0.0
        )
        self.chunk = self.sampling.picture_rays
        self.codes = self._codes(cameras)
        self.appearance = self._appearance(cameras, captured)
        self.warp = self._warp()
        # It follows from the scene, which a run keeps.
        self.register_buffer("bounds", torch.stack([bounds.lower, bounds.upper]), persistent=False)
        # In scene units; see `read_for_training`.
        self.register_buffer("still_points", torch.zeros(0, 3), persistent=False)
        self.register_buffer("warp_alpha", torch.tensor(0.0))
        self.register_buffer("ambient_beta", torch.tensor(0.0))

    # ------------------------------------------------------------------ parts

    def _codes(self, cameras: Cameras) -> TimeCodes | None:
        """The codes of moments, where something is to be told of them."""
        assert cameras.times is not None
        return TimeCodes(cameras.times, self.config.code_width, self.config.code_choice)

    def _appearance(
        self, cameras: Cameras, captured: Sequence[Cameras]
    ) -> CameraCodes | DeviceCodes | TimeCodes | None:
        kind, width = self.config.appearance, self.config.appearance_width
        if kind == "none":
            return None
        if kind == "photo":
            return CameraCodes(cameras, width)
        if kind == "camera":
            return DeviceCodes(cameras, captured, width)
        assert cameras.times is not None
        return TimeCodes(cameras.times, width, self.config.code_choice)

    def _warp(self) -> Warp | None:
        config = self.config
        if config.warp == "none" or self.codes is None:
            return None
        return WARPS[config.warp](
            config.code_width,
            octaves=config.warp_octaves,
            depth=config.warp_depth,
            width=config.warp_width,
            skip=config.skip,
        )

    def _build_template(self, ambient_dims: int) -> None:
        """Makes the coarse and the fine network for so many ambient coordinates."""
        self.coarse = self._network(ambient_dims)
        if self.config.importance:
            self.fine = self._network(ambient_dims)

    def _network(self, ambient_dims: int) -> NeRFMLP:
        config = self.config
        views = frequency_size(3, config.direction_octaves)
        return NeRFMLP(
            frequency_size(3, config.position_octaves) + ambient_size(ambient_dims, config.ambient_octaves),
            views + (0 if self.appearance is None else config.appearance_width),
            depth=config.depth,
            width=config.width,
            skip=config.skip,
            view_width=config.view_width,
            glorot=True,
        )

    @property
    def finest(self) -> NeRFMLP:
        """The network that pictures are rendered with."""
        return self.fine if self.config.importance else self.coarse

    # ------------------------------------------------------------------ the field

    def _conditions(self, rays: Rays, learning: bool) -> Conditions:
        """What the field is told of rays [B]; `learning`: rays of training cameras."""
        views = frequency_encoding(rays.view_directions, self.config.direction_octaves)
        if self.appearance is not None:
            views = torch.cat([views, self._looks(self.appearance, rays, learning)], -1)
        conditions = {"views": views[:, None]}
        if self.codes is not None:
            conditions["code"] = self.codes(rays.times)[:, None]
        return conditions

    def _looks(
        self, codes: CameraCodes | DeviceCodes | TimeCodes, rays: Rays, learning: bool
    ) -> Float[Tensor, "B width"]:
        """The codes of appearance of rays [B]."""
        if isinstance(codes, TimeCodes):
            return codes(rays.times)
        if isinstance(codes, DeviceCodes):
            return codes(rays)
        if learning and rays.camera_ids is not None:
            return codes.learnt(rays.camera_ids)
        return codes.shown(rays.origins)

    def _sliced(
        self, points: Tensor, moved: Tensor, conditions: Conditions, draws: Draws | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Ambient coordinates [b, K, W] of points [b, K, 3] of the moment, which the warp has `moved` to the template;
        and what else is to be known of each sample. `draws`: None in rendering."""
        raise NotImplementedError

    def _moved(self, points: Tensor, conditions: Conditions) -> Tensor:
        return points if self.warp is None else self.warp(points, conditions["code"], self.warp_alpha)

    def _encoded(
        self, points: Tensor, conditions: Conditions, draws: Draws | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The template's inputs at points [b, K, 3] of the moment, and what else is known of them."""
        moved = self._moved(points, conditions)
        ambient, extras = self._sliced(points, moved, conditions, draws)
        seen = ambient_encoding(ambient, self.config.ambient_octaves, self.ambient_beta)
        encoded = torch.cat([frequency_encoding(moved, self.config.position_octaves), seen], -1)
        return encoded, {"ambient": ambient, **extras}

    def _trace(self, rays: Rays, draws: Draws | None) -> tuple[Seen | None, Seen]:
        """(what the coarse network saw beside the fine one, in training; what the finest saw)."""
        conditions = self._conditions(rays, draws is not None)

        def there(part: slice, t: Tensor) -> tuple[Tensor, Conditions]:
            return rays[part].points(t), {name: values[part] for name, values in conditions.items()}

        def field(network: NeRFMLP) -> Field:
            def asked(part: slice, t: Tensor) -> FieldSamples:
                points, told = there(part, t)
                encoded, extras = self._encoded(points, told, draws)
                raw, rgb = network(encoded, told["views"], self.compute_dtype)
                return FieldSamples(self._shown(raw, points, draws), rgb, extras)

            return asked

        def guide(part: slice, t: Tensor) -> Tensor:
            points, told = there(part, t)
            encoded, _ = self._encoded(points, told, draws)
            return self._shown(self.coarse.raw_density(encoded, self.compute_dtype), points, draws)

        coarse = None if draws is None else field(self.coarse)
        return self.sampling.trace(rays, field(self.finest), guide, coarse, draws)

    def _shown(self, raw: Tensor, points: Tensor, draws: Draws | None) -> Tensor:
        """Raw densities [b, K] without what pictures are not to show."""
        if draws is not None:
            return raw
        hidden = softplus(raw) < self.dust_threshold
        if self.inside_bounds:
            hidden |= ((points < self.bounds[0]) | (points > self.bounds[1])).any(-1)
        return raw.masked_fill(hidden, -torch.inf)

    # ------------------------------------------------------------------ rendering

    def leave_out(self, dust: float | None, outside: bool) -> None:
        if dust is not None:
            self.dust_threshold = dust
        self.inside_bounds |= outside

    @torch.no_grad()
    def render(self, rays: Rays) -> Rendering:
        """Raises LumigraphError where the rays lack a condition. The extra `ambient` [*s, W]: where in the ambient
        coordinates lies what rays see."""
        self.require_conditions(rays)
        flat = rays.flatten()
        _, seen = self._trace(flat, None)
        picture = rendered(seen, flat, flat, self.background)
        if self.far_is_seen:
            nearer = torch.cat([seen.weights[:, :-1], torch.zeros_like(seen.weights[:, :1])], 1)
            without = replace(seen, weights=nearer, opacity=nearer.sum(1))
            picture = replace(rendered(without, flat, flat, self.background), rgb=picture.rgb)
        picture.extras |= self._pictured(seen)
        return picture.reshape(*rays.shape)

    def _pictured(self, seen: Seen) -> dict[str, Tensor]:
        """What pictures show besides colour and depth, of rays [B]."""
        return {"ambient": seen.mean_along("ambient")} if seen.extras["ambient"].shape[-1] else {}

    def choose_codes(self, choice: CodeChoice | TimeCodeChoice) -> None:
        """By "nearest" a time between two moments is drawn with the code of the nearer one, and where photos have codes
        of appearance, a picture with that of the nearest photo; "linear" is about moments only, others are about photos
        only."""
        moments = [part for part in self.children() if isinstance(part, TimeCodes)]
        photos = [part for part in self.children() if isinstance(part, CameraCodes)]
        if choice in ("linear", "nearest"):
            for codes in moments:
                codes.choice = choice
        if choice != "linear":
            for codes in photos:
                codes.choice = choice
        meant = {"linear": moments, "nearest": moments + photos}.get(choice, photos)
        if not meant:
            raise LumigraphError(
                f"there are no codes that could be drawn {choice!r}",
                todo="Codes of moments are drawn linear or nearest, those of photos zero, mean or nearest; or leave "
                "--codes out for the run's own --code-choice",
            )

    # ------------------------------------------------------------------ training

    def read_for_training(self, info: SceneInfo) -> None:
        """Reads the points of a capture that stand still, where the config has a use for them."""
        points = background_points(info) if self.config.background_weight else None
        if points is not None:
            self.still_points = points.to(self.device)

    @property
    def rays_per_step(self) -> int:
        return self.config.rays

    def begin_step(self, step: int, progress: float, seed: int) -> None:
        """How much warp and template see of positions and ambient coordinates; both go by `progress`, which follows the
        clock where that ends training."""
        config = self.config
        at = progress * config.training_steps
        self.warp_alpha.fill_(config.warp_octaves * min(1.0, at / config.warp_alpha_steps))
        risen = (at - config.ambient_delay_steps) / config.ambient_rise_steps
        self.ambient_beta.fill_(config.ambient_octaves * min(1.0, max(0.0, risen)))

    def losses(self, batch: Batch, step: int, seed: int) -> Losses:
        """Errors of the fine and the coarse colours, and the regularisers that have weight; `squared_error` is the fine
        one's."""
        self.require_conditions(batch.rays)
        rays, count = batch.rays, len(batch.rays)
        draws = Draws(step_generator(_STREAM, seed, step, self.device))
        target = ColourTarget(batch, self.background, seed=seed, step=step)

        def terms(first: int, end: int) -> dict[str, Tensor]:
            part = slice(first, end)
            coarse, fine = self._trace(rays[part], draws)
            values = {"rgb": target.final_error(fine.rgb, fine.opacity, part)}
            if coarse is not None:
                values["coarse"] = target.error(coarse.rgb, coarse.opacity, part)
            levels = [fine] if coarse is None else [coarse, fine]
            values |= {name: value / count for name, value in self._regularisers(rays[part], levels).items()}
            return values | self._of_levels(batch, part, levels)

        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        values = accumulated_terms(terms, count, self.sampling.kept_rays(self.device), parameters)
        return Losses(values | self._of_batch(batch, draws), target.squared_error)

    def _regularisers(self, rays: Rays, levels: list[Seen]) -> dict[str, Tensor]:
        """Sums over rays of what keeps warp and slicing surface simple. As in the published code, how far the warp
        moves is asked of both levels, all else of the first one only."""
        config, values = self.config, {}
        if self.warp is not None and (config.elastic_weight or config.warp_weight):
            assert self.codes is not None
            codes = self.codes(rays.times)[:, None]
            if config.elastic_weight:
                values["elastic"] = config.elastic_weight * self._elastic(rays, codes, levels[0])
            if config.warp_weight:
                halves = [level.t.gather(1, half_way(level.weights.detach())[0]) for level in levels]
                points = rays.points(torch.cat(halves, 1))
                moved = self.warp(points, codes, self.warp_alpha)
                values["warp"] = config.warp_weight * displacement_energy(moved, points).sum()
        if config.ambient_weight:
            energy = levels[0].weights.detach() * ambient_energy(levels[0].extras["ambient"])
            values["ambient"] = config.ambient_weight * energy.sum()
        return values

    def _elastic(self, rays: Rays, codes: Tensor, seen: Seen) -> Tensor:
        """The sum over rays of how far the warp is from a rigid motion, at all samples or where half is seen."""
        assert self.warp is not None
        t, weights = seen.t, seen.weights.detach()
        if self.config.elastic_reduce == "median":
            t, weights = t.gather(1, half_way(weights)[0]), torch.ones_like(t[:, :1])
        jacobians = warp_jacobians(self.warp, rays.points(t), codes, self.warp_alpha)
        return (weights * elastic_energy(jacobians, self.config.elastic)).sum()

    def _of_levels(self, batch: Batch, part: slice, levels: list[Seen]) -> dict[str, Tensor]:
        """Further loss terms of the rays `part` of a batch, which add up over parts."""
        return {}

    def _of_batch(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """Loss terms of a whole batch or of none of its rays: that still points stay, at moments of the capture."""
        config = self.config
        if not config.background_weight or self.warp is None or self.codes is None:
            return {}
        chosen = self._picked(len(self.still_points), draws)
        points = self.still_points[chosen]
        noise = torch.randn(points.shape, generator=draws.generator, device=points.device)
        points = points + config.background_noise * noise
        codes = self.codes.of_moments(self._picked(len(self.codes.times), draws))
        energy = displacement_energy(self.warp(points, codes, self.warp_alpha), points)
        return {"background": config.background_weight * energy.mean()}

    def _picked(self, count: int, draws: Draws) -> Tensor:
        wanted = (self.config.background_points,)
        return torch.randint(count, wanted, generator=draws.generator, device=self.device)

    def optimisers(self) -> list[ParameterGroup]:
        """One group with everything.

        Raises:
            LumigraphError: the background loss is wanted, and there are no points that stand still.
        """
        config = self.config
        if config.background_weight and not len(self.still_points):
            raise LumigraphError(
                "the background loss needs points that stand still, and the scene has none",
                todo="Pass --background-weight 0, or add points.npy to a capture in Nerfies' format",
            )
        return [ParameterGroup("networks", list(self.parameters()), config.lr, clip_norm=config.clip_norm)]

    def lr_scale(self, step: int, progress: float) -> float:
        return (self.config.final_lr / self.config.lr) ** progress

    def memory_estimate(self, rays: int) -> int:
        """Weights, gradients and moments; the activations of the rays that are trained on at a time, or of a part of a
        picture."""
        config = self.config
        units = (config.depth + 6) * config.width + 2 * config.warp_depth * config.warp_width
        units += 2 * config.sheet_depth * config.sheet_width
        return super().memory_estimate(rays) + self.sampling.memory(units, rays, self.device)

    def start_over(self) -> bool:
        for part in self.children():
            if isinstance(part, CameraCodes | DeviceCodes):
                nn.init.zeros_(part.table)
            else:
                assert isinstance(part, NeRFMLP | TimeCodes | Warp | BendySheet | AttributeSheets | SkipMLP)
                part.reset()
        return True
