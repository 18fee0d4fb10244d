"""D-NeRF (Pumarola et al., CVPR 2021, arXiv 2011.13961), its baseline T-NeRF, and the still baseline of both.

D-NeRF keeps one still field of the scene at the canonical time, 0, and a network that says where a point of another
time was then. T-NeRF tells the field the time instead. One network serves the evenly spread samples and those drawn
from its own weights, as published, or each has one.

Letters: B rays, K samples along each, b rays of a part.
"""

import logging
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lumigraph.configs.dnerf import DNeRFConfig
from lumigraph.fields.activations import DENSITY_ACTIVATIONS
from lumigraph.fields.deformation import DeformationMLP
from lumigraph.fields.encodings import frequency_encoding, frequency_size
from lumigraph.fields.nerf_mlp import NeRFMLP
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.accumulation import accumulated_terms
from lumigraph.rendering.background import Background
from lumigraph.rendering.colour_error import ColourTarget
from lumigraph.rendering.conditions import check_captured_times
from lumigraph.rendering.pixel_corner import refuse_training, through_corners
from lumigraph.rendering.randomness import step_generator
from lumigraph.rendering.renderer import Batch, Losses, ParameterGroup, PixelSampling, Renderer, Rendering
from lumigraph.rendering.volume.coarse_fine import (
    BEYOND,
    CoarseFine,
    Draws,
    Field,
    FieldSamples,
    Seen,
    rendered,
)

log = logging.getLogger("lumigraph")

_STREAM = 0xC3A5C85C97CB3127
"""Odd 64-bit constant that keeps what different seeds draw apart."""
_MOTION_STREAM = 0xB492B66FBE98F273
"""The same of the times that motion is compared at."""


class MovingField(nn.Module):
    """Points, view directions and times to raw density and colour."""

    def __init__(self, config: DNeRFConfig) -> None:
        super().__init__()
        self.config = config
        positions, times = frequency_size(3, config.position_octaves), frequency_size(1, config.time_octaves)
        viewed = config.view_width != 0
        self.canonical = NeRFMLP(
            positions + (times if config.motion == "direct" else 0),
            frequency_size(3, config.direction_octaves) if viewed else 0,
            depth=config.depth,
            width=config.width,
            skip=config.skip,
            view_width=config.view_width,
            glorot=config.first_weights == "glorot",
        )
        if config.motion == "deform":
            self.deformation = DeformationMLP(
                positions,
                times,
                depth=config.deformation_depth,
                width=config.deformation_width,
                skip=config.skip,
            )

    def displacements(
        self, points: Float[Tensor, "b K 3"], times: Float[Tensor, " b"] | None, dtype: torch.dtype
    ) -> Float[Tensor, "b K 3"]:
        """What to add to points seen at `times` for where they were at time 0; nothing at time 0 itself."""
        if times is None or self.config.motion != "deform":
            return torch.zeros_like(points)
        moved = self.deformation(self._positions(points), self._times(times), dtype)
        if not self.config.zero_canonical:
            return moved
        return torch.where(times[:, None, None] == 0, 0.0, moved)

    def forward(
        self,
        points: Float[Tensor, "b K 3"],
        views: Float[Tensor, "b 3"],
        times: Float[Tensor, " b"] | None,
        dtype: torch.dtype,
    ) -> FieldSamples:
        """Raw density, rgb and `displacement` [b, K, 3] of points of b rays with unit vectors `views`."""
        displacement = self.displacements(points, times, dtype)
        seen = self._canonical_inputs(points + displacement, times)
        directions = None
        if self.config.view_width != 0:
            directions = frequency_encoding(views, self.config.direction_octaves)[:, None]
        density, rgb = self.canonical(seen, directions, dtype)
        return FieldSamples(density, rgb, {"displacement": displacement})

    def raw_density(
        self, points: Float[Tensor, "b K 3"], times: Float[Tensor, " b"] | None, dtype: torch.dtype
    ) -> Float[Tensor, "b K"]:
        """The density alone, before its activation."""
        moved = points + self.displacements(points, times, dtype)
        return self.canonical.raw_density(self._canonical_inputs(moved, times), dtype)

    def _canonical_inputs(self, points: Tensor, times: Tensor | None) -> Tensor:
        encoded = self._positions(points)
        if times is None or self.config.motion != "direct":
            return encoded
        return torch.cat([encoded, self._times(times).expand(-1, points.shape[1], -1)], -1)

    def _positions(self, points: Tensor) -> Tensor:
        return frequency_encoding(points, self.config.position_octaves)

    def _times(self, times: Tensor) -> Tensor:
        """[b, 1, T]: a ray has one time."""
        return frequency_encoding(times[:, None, None], self.config.time_octaves)

    def reset(self) -> None:
        """Other first weights, which torch's random state decides."""
        for network in self.children():
            assert isinstance(network, NeRFMLP | DeformationMLP)
            network.reset()


class DNeRF(Renderer):
    """The teacher: rays with times -> samples -> canonical points -> composited colours."""

    conditions = ("times",)
    knows_bfloat16 = True

    def __init__(
        self, config: DNeRFConfig, background: Background, times: Float[Tensor, " n"] | None = None
    ) -> None:
        """`times`: those of the photos, between which motion is compared."""
        super().__init__()
        self.config = config
        self.background = background
        self.conditions = () if config.motion == "none" else DNeRF.conditions
        self.coarse = MovingField(config)
        if config.two_networks:
            # The published order of initialisation: coarse, then fine.
            self.fine = MovingField(config)
        if config.motion_tv_weight:
            known = torch.zeros(1) if times is None else times.float().unique(sorted=True)
            self.register_buffer("photo_times", known)
        self.sampling = CoarseFine(
            config.samples,
            config.importance,
            DENSITY_ACTIVATIONS[config.density],
            # softplus is nowhere zero.
            beyond=BEYOND if config.density == "relu" else None,
        )
        self.chunk = self.sampling.picture_rays

    @classmethod
    def from_scene(cls, config: DNeRFConfig, info: Any) -> "DNeRF":
        """Raises LumigraphError where a motion is to be learnt and the photos have no times."""
        cameras: Cameras = info.cameras["train"]
        if config.motion != "none":
            method = "dnerf" if config.motion == "deform" else "tnerf"
            check_captured_times(info, method, "dnerf --motion none, or ngp,")
        if config.motion == "deform" and cameras.times is not None and float(cameras.times.min()) > 0:
            log.warning(
                "no training photo was taken at time 0, at which nothing has moved yet: the first is of %.3g",
                float(cameras.times.min()),
            )
        return cls(config, info.background, cameras.times)

    @property
    def finest(self) -> MovingField:
        """The networks that pictures are rendered with."""
        return self.fine if self.config.two_networks else self.coarse

    def displacements(self, points: Float[Tensor, "n 3"], times: Float[Tensor, " n"]) -> Float[Tensor, "n 3"]:
        """What leads from points in scene units at `times` to where they were at time 0; 0 of what learns none."""
        return self.finest.displacements(points[:, None], times, self.compute_dtype)[:, 0]

    # ------------------------------------------------------------------ along rays

    def _times(self, rays: Rays) -> Tensor | None:
        if self.config.motion == "none":
            return None
        self.require_conditions(rays)
        return rays.times

    def _trace(self, rays: Rays, draws: Draws | None) -> tuple[Seen | None, Seen]:
        """(what the coarse network saw where it learns colours; what the finest saw)."""
        times, views, dtype = self._times(rays), rays.view_directions, self.compute_dtype

        def of(part: slice) -> Tensor | None:
            return None if times is None else times[part]

        def asked(network: MovingField) -> Field:
            return lambda part, t: network(rays[part].points(t), views[part], of(part), dtype)

        def guide(part: slice, t: Tensor) -> Tensor:
            return self.coarse.raw_density(rays[part].points(t), of(part), dtype)

        learns = self.config.two_networks and draws is not None
        return self.sampling.trace(
            rays, asked(self.finest), guide, asked(self.coarse) if learns else None, draws
        )

    @torch.no_grad()
    def render(self, rays: Rays) -> Rendering:
        """Raises LumigraphError where rays of a moving scene have no times."""
        flat = rays.flatten()
        _, seen = self._trace(flat, None)
        return rendered(seen, flat, flat, self.background).reshape(*rays.shape)

    def seen_through(self, cameras: Cameras) -> Cameras:
        return through_corners(cameras) if self.config.pixel_corner else cameras

    # ------------------------------------------------------------------ training

    @property
    def rays_per_step(self) -> int:
        return self.config.rays

    def pixel_sampling(self) -> PixelSampling:
        config = self.config
        return PixelSampling(
            crop_steps=config.crop_steps,
            crop_share=config.crop_share,
            foreground_share=config.foreground_share,
            same_image=config.same_image,
            time_steps=config.time_steps,
        )

    def losses(self, batch: Batch, step: int, seed: int) -> Losses:
        """Errors of the final colours, with two networks of the coarse ones, and of how unsteadily each network moves
        things; `squared_error` is of the final colours."""
        config = self.config
        draws = Draws(step_generator(_STREAM, seed, step, self.device), config.perturb, config.density_noise)
        target = ColourTarget(batch, self.background, seed=seed, step=step)
        compared = self._compared_times(batch.rays, step, seed) if config.motion_tv_weight else None

        def terms(first: int, end: int) -> dict[str, Tensor]:
            part = slice(first, end)
            rays = batch.rays[part]
            coarse, fine = self._trace(rays, draws)
            values = {"rgb": target.final_error(fine.rgb, fine.opacity, part)}
            if coarse is not None:
                values["coarse"] = target.error(coarse.rgb, coarse.opacity, part)
            if compared is not None:
                looks = (
                    [(self.finest, fine)] if coarse is None else [(self.coarse, coarse), (self.finest, fine)]
                )
                squares = [self._motion_squares(*look, rays, compared[part]) for look in looks]
                # The published sum counts every sample alike; here it is over those of the last look.
                counted = len(batch.rays) * fine.t.shape[1] * 3
                values["motion_tv"] = config.motion_tv_weight * torch.stack(squares).sum() / counted
            return values

        parameters = list(self.parameters())
        kept = self.sampling.kept_rays(self.device)
        return Losses(accumulated_terms(terms, len(batch.rays), kept, parameters), target.squared_error)

    def _compared_times(self, rays: Rays, step: int, seed: int) -> Tensor:
        """Times [B], each evenly drawn between that of its ray and the next or the one before that a photo has, which a
        coin decides where there are both. Rays of one time get one time."""
        assert rays.times is not None
        distinct, inverse = rays.times.unique(return_inverse=True)
        known = self.get_buffer("photo_times")
        place = torch.searchsorted(known, distinct)
        before, after = (place - 1).clamp(min=0), (place + 1).clamp(max=len(known) - 1)
        generator = step_generator(_MOTION_STREAM, seed, step, self.device)
        coin, part = torch.rand(2, len(distinct), generator=generator, device=self.device)
        forward = ((coin > 0.5) | (place == 0)) & (place < len(known) - 1)
        other = torch.where(forward, known[after], known[before])
        return (distinct + part * (other - distinct))[inverse]

    def _motion_squares(self, network: MovingField, seen: Seen, rays: Rays, times: Tensor) -> Tensor:
        """The sum over samples and axes of the squared difference between a network's displacements at the rays' times
        and at `times` [b]."""
        moved = network.displacements(rays.points(seen.t), times, self.compute_dtype)
        return (moved - seen.extras["displacement"]).square().sum()

    def optimisers(self) -> list[ParameterGroup]:
        """One group with everything.

        Raises:
            LumigraphError: the networks were imported, and have learnt other rays than those of pixel centres.
        """
        if self.config.pixel_corner:
            raise refuse_training()
        return [ParameterGroup("networks", list(self.parameters()), self.config.lr)]

    def lr_scale(self, step: int, progress: float) -> float:
        """A tenth after `decay_steps`; by `progress`, which follows the clock where that ends training."""
        length = self.config.decay_steps or self.config.training_steps
        return 0.1 ** (progress * self.config.training_steps / length)

    def memory_estimate(self, rays: int) -> int:
        """Weights, gradients and moments; the activations of the rays that are trained on at a time, and what a chunk
        of a picture takes."""
        config = self.config
        width = max(config.width, 2 * frequency_size(3, config.position_octaves))
        units = (config.depth + 6) * width
        if config.motion == "deform":
            units += (config.deformation_depth + 4) * config.deformation_width
        return super().memory_estimate(rays) + self.sampling.memory(units, rays, self.device)

    def start_over(self) -> bool:
        for field in self.children():
            assert isinstance(field, MovingField)
            field.reset()
        return True
