"""R2L: one evaluation of a deep residual MLP per ray (Wang et al., ECCV 2022, arXiv 2203.17261).

A ray becomes K points between near and far (both ends included), these become sines and cosines, and 88 linear layers
with residual blocks turn them into a colour. There is no density and nothing to integrate, so it is learnt from the
pictures of a teacher. Colours are those on the scene's display background.

Numbers of the paper (W256 D88, K16, 10 octaves): 1008 inputs, 5,917,187 parameters, 5,894,912 multiply-adds per ray.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lumigraph.configs.r2l import R2LConfig
from lumigraph.errors import LumigraphError
from lumigraph.fields.ray_code import (
    code_size,
    encode_rows,
    octave_major,
    plucker_rows,
    point_depths,
    points_rows,
    positional_encoding,
    scalar_major,
)
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
from lumigraph.geometry.bounds import Bounds
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.ndc import ForwardFrame
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.background import Background, display_target
from lumigraph.rendering.randomness import step_generator
from lumigraph.rendering.renderer import Batch, Losses, ParameterGroup, Renderer, Rendering

FUSED_CHUNK = 3072
"""Rays that go through the network together on a CPU: large enough for the matrix products, small for the caches."""
_STREAM = 0xD1342543DE82EF95
"""Odd 64-bit constant that keeps the jitter of different seeds apart."""


class R2L(Renderer):
    """The student: code of a ray -> residual MLP -> colour (and, if configured, depth)."""

    chunk = 1 << 16
    knows_bfloat16 = True

    def __init__(
        self,
        config: R2LConfig,
        near: float,
        far: float,
        background: Background,
        frame: ForwardFrame | None = None,
    ):
        """`near`, `far`: depths of the first and the last point, scene units; where a `frame` is given, in its
        normalised device coordinates."""
        super().__init__()
        self.config = config
        self.background = background
        self.near, self.far = near, far
        self.frame = frame
        self.scalars = 3 * config.points if config.code == "points" else 6
        self.network = ResidualMLP(
            code_size(self.scalars, config.octaves),
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
        self._work = Workspace()
        self._packed: tuple[Any, PackedMLP] | None = None

    @classmethod
    def from_scene(cls, config: R2LConfig, info: Any) -> "R2L":
        """`near` and `far` are the config's, or as its `extent` says; 0 and 1 in normalised device coordinates."""
        frame = info.forward if config.ray_space != "world" else None
        if config.ray_space == "ndc" and frame is None:
            raise LumigraphError(
                "this scene has no normalised device coordinates: it is not a forward-facing one",
                where=info.source,
                todo="Leave --ray-space out",
            )
        near, far = 0.0, 1.0
        if frame is None:
            near, far = _extent(info.cameras["train"], info.bounds, config.extent)
        near = near if config.near is None else config.near
        far = far if config.far is None else config.far
        if not (math.isfinite(far) and 0 <= near < far):
            raise LumigraphError(
                f"a ray needs 0 <= near < far, and they are {near:g} and {far:g}",
                where=info.source,
                todo="Give them with --near and --far, in scene units",
            )
        return cls(config, near, far, info.background, frame)

    # ------------------------------------------------------------------ the code of a ray

    def _depths(self, jitter: Tensor | None) -> Tensor:
        near = torch.tensor(self.near, device=self.device)
        far = torch.tensor(self.far, device=self.device)
        return point_depths(self.config.points, near, far, jitter)

    def _lines(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """The rays where their points are taken: in the scene, or in normalised device coordinates."""
        return (origins, directions) if self.frame is None else self.frame.lines(origins, directions)

    def _rows(self, origins: Tensor, directions: Tensor, depths: Tensor) -> Tensor:
        """Scalars of each ray as rows [scalars, B]."""
        if self.config.code == "points":
            return points_rows(origins, directions, depths)
        return plucker_rows(origins, directions)

    def _encoder(self, origins: Tensor, directions: Tensor, depths: Tensor) -> Any:
        """Writes the code of rays first..end, for the fused network."""
        origins, directions = self._lines(origins, directions)
        shared = depths.shape[1] == 1

        def encode(first: int, end: int, out: Tensor) -> None:
            chosen = depths if shared else depths[:, first:end]
            rows = self._rows(origins[first:end], directions[first:end], chosen)
            encode_rows(rows, self.config.octaves, out)

        return encode

    def outputs(
        self, origins: Float[Tensor, "N 3"], directions: Float[Tensor, "N 3"], depths: Float[Tensor, "K N1"]
    ) -> Float[Tensor, "N C"]:
        """The network on the code of each ray, in plain torch: red, green, blue, and depth where it is learnt."""
        rows = self._rows(*self._lines(origins, directions), depths)
        code = positional_encoding(rows.T, self.config.octaves)
        return plain_forward(self.network, code, self.compute_dtype)

    def ray_colours(
        self, origins: Float[Tensor, "N 3"], directions: Float[Tensor, "N 3"]
    ) -> Float[Tensor, "N 3"]:
        """Colours on the display background, without jitter: a graph of standard operators, for export."""
        return self.outputs(origins, directions, self._depths(None))[:, :3]

    # ------------------------------------------------------------------ rendering

    @property
    def fused(self) -> bool:
        """Whether the fused network of `fields.residual_mlp` is used: on a CPU, for the published structure."""
        return self.device.type == "cpu" and self.network.fusible

    @torch.no_grad()
    def render(self, rays: Rays) -> Rendering:
        flat = rays.flatten()
        depths = self._depths(None)
        if self.fused:
            encode = self._encoder(flat.origins, flat.directions, depths)
            outputs = fused_forward(
                self._pack(), self.config.global_skip, encode, len(flat), FUSED_CHUNK, self._work
            )
        else:
            outputs = self.outputs(flat.origins, flat.directions, depths)
        depth = None
        if self.config.learn_depth:
            depth = self.near + (self.far - self.near) * outputs[:, 3]
            depth = depth if self.frame is None else self.frame.depth(depth, flat)
        return Rendering(rgb=outputs[:, :3], depth=depth).reshape(*rays.shape)

    def _pack(self) -> PackedMLP:
        """The weights as the fused network wants them; kept as long as they do not change."""
        parameters = fusible_parameters(self.network)
        key = (self.compute_dtype, [(parameter.data_ptr(), parameter._version) for parameter in parameters])
        if self._packed is None or self._packed[0] != key:
            packed = PackedMLP(
                list(parameters), self.compute_dtype, lambda head: octave_major(head, self.scalars)
            )
            self._packed = (key, packed)
        return self._packed[1]

    # ------------------------------------------------------------------ training

    @property
    def rays_per_step(self) -> int:
        return self.config.rays

    def losses(self, batch: Batch, step: int, seed: int) -> Losses:
        """Mean squared error of the colours, and `depth_weight` times that of the depth where the batch has it."""
        rays = batch.rays
        depths = self._depths(self._jitter(len(rays), step, seed))
        targets, weights = self._targets(batch)
        if self.fused:
            total, error = FusedError.apply(
                self._encoder(rays.origins, rays.directions, depths),
                targets,
                weights,
                self._pack(),
                lambda head: scalar_major(head, self.scalars),
                self.config.global_skip,
                FUSED_CHUNK,
                self._work,
                *fusible_parameters(self.network),
            )  # type: ignore[misc]
        else:
            error = squared_error(self.outputs(rays.origins, rays.directions, depths), targets)
            total, error = (error * weights).sum(), error.detach()
        terms = {"rgb": total}
        if targets.shape[1] == 4:
            # The value of one term; the gradient of both is in the other.
            terms["depth"] = (error[:, 3] * weights[:, 3]).sum()
            terms["rgb"] = total - terms["depth"]
        return Losses(terms=terms, squared_error=error[:, :3].mean(1))

    def _jitter(self, rays: int, step: int, seed: int) -> Tensor | None:
        if not self.config.perturb or self.config.code != "points":
            return None
        generator = step_generator(_STREAM, seed, step, self.device)
        return torch.rand(self.config.points, rays, generator=generator, device=self.device)

    def _targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What each output should be [B, C], and the weight of its squared error [B, C]."""
        colours = display_target(batch.rgba, self.background)
        weights = torch.full_like(colours, 1 / colours.numel())
        if not self.config.learn_depth:
            return colours, weights
        if batch.depth is None:
            raise LumigraphError(
                "depth is to be learnt, and the labels have none",
                todo="Bake with --depth, distil live, or leave --learn-depth out",
            )
        depth = batch.depth if self.frame is None else self.frame.ndc(batch.depth, batch.rays)
        scaled = ((depth - self.near) / (self.far - self.near)).clamp(0, 1)
        known = torch.isfinite(scaled)
        share = self.config.depth_weight / known.sum().clamp(min=1)
        return (
            torch.cat([colours, torch.where(known, scaled, 0).unsqueeze(1)], 1),
            torch.cat([weights, (known * share).unsqueeze(1)], 1),
        )

    def optimisers(self) -> list[ParameterGroup]:
        return [ParameterGroup("network", list(self.parameters()), self.config.lr)]

    def lr_scale(self, step: int, progress: float) -> float:
        """Linear warm-up, then 0.1^((step - n) / decay) (R2L section A.4), or a cosine over the budget."""
        config = self.config
        scale = 1.0
        if config.schedule == "budget":
            scale = config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * progress))
        elif config.schedule == "steps" and step >= config.warmup_steps:
            scale = 0.1 ** ((step - config.warmup_steps) / config.decay_steps)
        if step < config.warmup_steps:
            first = config.warmup_lr / config.lr
            scale *= first + (1 - first) * step / config.warmup_steps
        return scale

    def memory_estimate(self, rays: int) -> int:
        """Weights, gradients and moments; the batch; and the activations of a chunk (of all rays when not fused)."""
        layers = self.config.depth + 4
        inputs = code_size(self.scalars, self.config.octaves)
        at_once = min(rays, FUSED_CHUNK) if self.fused else rays
        hard = int(max(self.config.hard_ratio) * rays)
        per_ray = 4 * (
            (2 if self.fused else 5) * inputs + (1 if self.fused else 3) * layers * self.config.width
        )
        return super().memory_estimate(rays) + at_once * per_ray + 4 * 64 * (rays + hard)


def _extent(cameras: Cameras, bounds: Bounds, extent: str) -> tuple[float, float]:
    """Depths of the first and the last point of a ray, scene units."""
    near, far = float(cameras.near.min()), float(cameras.far.max())
    if extent == "cameras":
        return near, far
    distance = (cameras.camera_to_world[:, :, 3] - bounds.centre).norm(dim=1)
    radius = float(bounds.half_extent.max())
    return max(near, float(distance.min()) - radius), min(far, float(distance.max()) + radius)
