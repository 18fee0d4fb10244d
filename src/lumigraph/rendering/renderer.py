"""The one contract of the project: a renderer turns rays into colours, and can be trained on rays with known
colours.

Teachers, students and exported bundles are all `Renderer`s, so evaluation, movies, baking, distillation and
viewers are written once. A bundle does not train; it implements `render` only. Students that make a picture of the rays
of its patches (`whole_views`) implement `view` instead, and learn from whole pictures.
"""

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lumigraph.errors import LumigraphError
from lumigraph.fields.camera_codes import CodeChoice
from lumigraph.fields.dense_optimisers import make_optimiser, warm_up_tables
from lumigraph.fields.time_codes import TimeCodeChoice
from lumigraph.geometry.cameras import Cameras, pixel_radii
from lumigraph.geometry.ndc import ForwardFrame
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.background import Background
from lumigraph.rendering.machine import has_bfloat16, resolve_precision

log = logging.getLogger("lumigraph")

_FINER, _COARSER = 1.1, 1.5
"""Pixels that are so many times smaller than the finest trained on count as finer, or larger than the coarsest as
coarser: there colours change slowly, while detail comes out as noise at once."""
_RANGES = {
    "times": "the share of the capture that has passed, 0 to 1",
    "attributes": "a value of -1 to 1 for each attribute",
}
"""What `Renderer.conditions` are, in words."""
DEFAULT_CHUNK = 1 << 14
"""Rays that `Renderer.view` renders at a time unless a method sets its own `chunk`."""


@dataclass
class Rendering:
    """What a renderer saw along rays of leading shape `*s`.

    `rgb` [*s, 3] is sRGB in [0, 1], composited on the renderer's display background; `depth` [*s] is the expected
    ray parameter t (depth along the camera axis, scene units); `opacity` [*s] is the accumulated alpha in [0, 1].
    A renderer that has no depth or opacity leaves them None. `extras` holds further per-ray tensors [*s, ...]
    by name: of what integrates along rays `depth_median` and `depth_raw`, see `histogram.ray_depths`; where a
    method has them, `normals` [*s, 3], unit vectors in the axes of the scene, and `attribute_masks` [*s, A], the share
    of the pixel that each attribute moves.
    """

    rgb: Tensor
    depth: Tensor | None = None
    opacity: Tensor | None = None
    extras: dict[str, Tensor] = field(default_factory=dict)

    def reshape(self, *shape: int) -> "Rendering":
        """The same rendering with leading shape `shape`; every tensor must have one leading dimension now."""

        def shaped(values: Tensor | None) -> Tensor | None:
            return None if values is None else values.reshape(*shape, *values.shape[1:])

        return Rendering(
            rgb=self.rgb.reshape(*shape, 3),
            depth=shaped(self.depth),
            opacity=shaped(self.opacity),
            extras={name: values.reshape(*shape, *values.shape[1:]) for name, values in self.extras.items()},
        )


def concatenate_renderings(parts: Sequence[Rendering]) -> Rendering:
    """Joins renderings of flat rays [N_i] into one of [sum N_i]; a part missing a tensor makes it missing in
    the whole."""

    def joined(values: list[Tensor | None]) -> Tensor | None:
        present = [value for value in values if value is not None]
        return torch.cat(present) if len(present) == len(values) else None

    names = set(parts[0].extras).intersection(*(part.extras for part in parts))
    return Rendering(
        rgb=torch.cat([part.rgb for part in parts]),
        depth=joined([part.depth for part in parts]),
        opacity=joined([part.opacity for part in parts]),
        extras={name: torch.cat([part.extras[name] for part in parts]) for name in sorted(names)},
    )


@dataclass
class Batch:
    """Rays [B] with what should be seen along them.

    `rgba` [B, 4] is premultiplied, in [0, 1] (alpha 1 where the photo has none); `depth` [B] is t or NaN
    where unknown, and `depth_sigma` [B] its standard deviation, None where nothing tells it. `fresh` says how
    many of the first rays are newly drawn, the rest being repeats from a pool of hard rays; None means all.
    `weight` [B] is what a ray counts in a loss that goes by it; None means all alike. `attribute_masks` [B, A] is the
    share of the pixel that each attribute moves, NaN where nobody has said. `normals` [B, 3] are those of the surface
    that the photos show, unit vectors in the axes of the scene, NaN where unknown.
    """

    rays: Rays
    rgba: Float[Tensor, "B 4"]
    depth: Tensor | None = None
    fresh: int | None = None
    depth_sigma: Tensor | None = None
    weight: Tensor | None = None
    attribute_masks: Tensor | None = None
    normals: Tensor | None = None

    @property
    def pixels(self) -> int:
        """Rays in all."""
        return len(self.rays)

    def to(self, device: torch.device) -> "Batch":
        """The same on another device."""
        moved = {name: getattr(self, name) for name in ("rgba", *_KNOWN_OF_RAYS)}
        moved = {name: None if value is None else value.to(device) for name, value in moved.items()}
        return replace(self, rays=self.rays.to(device), **moved)


_KNOWN_OF_RAYS = ("depth", "depth_sigma", "weight", "attribute_masks", "normals")


@dataclass
class Pictures:
    """B whole pictures with their cameras, which have one size: what a renderer learns from that has `whole_views`.

    `rgba` [B, H, W, 4] is premultiplied, in [0, 1] (alpha 1 where the photo has none). `weight` [B, H, W] is what a
    pixel counts, 0 outside a mask; None means all alike.
    """

    cameras: Cameras
    rgba: Float[Tensor, "B H W 4"]
    weight: Float[Tensor, "B H W"] | None = None

    @property
    def pixels(self) -> int:
        """Pixels in all."""
        return self.rgba.shape[:3].numel()

    def to(self, device: torch.device) -> "Pictures":
        """The same on another device."""
        weight = None if self.weight is None else self.weight.to(device)
        return Pictures(self.cameras.to(device), self.rgba.to(device), weight)


@dataclass
class Losses:
    """`terms`: scalar loss terms by name, whose sum is minimised. `squared_error` [B]: detached mean over the
    colour channels of the squared rgb error of each ray, or of each picture over its pixels, for PSNR and for choosing
    hard rays."""

    terms: dict[str, Tensor]
    squared_error: Float[Tensor, " B"]


@dataclass
class ParameterGroup:
    """Parameters that share optimiser settings; `lr` is the initial rate that `Renderer.lr_scale`
    multiplies, `optimiser` one of `OPTIMISERS`, `momentum` that of sgd. Where `clip_norm` is given, a step scales
    their gradient down to that norm, taken over the whole group. `table`: [entries, features] of a hash grid, of
    which a step touches few rows; the others are left as they are."""

    name: str
    parameters: list[nn.Parameter]
    lr: float
    optimiser: str = "adam"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum: float = 0.9
    clip_norm: float | None = None
    table: bool = False

    def settings(self) -> dict[str, Any]:
        """The group as optimisers take it."""
        return {
            "name": self.name,
            "params": self.parameters,
            "lr": self.lr,
            "betas": self.betas,
            "eps": self.eps,
            "weight_decay": self.weight_decay,
            "momentum": self.momentum,
            "clip_norm": self.clip_norm,
            "table": self.table,
        }


def _no_codes() -> LumigraphError:
    return LumigraphError(
        "this renderer has learnt no codes of cameras of which this is a choice",
        todo="Leave --codes out, or train a method with codes, such as mipnerf360 --codes 4 (linear: hypernerf)",
    )


def _no_hyper_code() -> LumigraphError:
    return LumigraphError(
        "this renderer has no hyper code",
        todo="Leave --hyper-code and --edit out, or distil a student with one, such as dylin",
    )


@dataclass(frozen=True)
class PixelSampling:
    """Which pixels of the photos a method wants to learn from.

    Over `crop_steps`, those in the central `crop_share` of both sides of a photo; in every batch, at least the share
    `foreground_share` of rays with alpha above 0, where photos have alpha and such pixels, and the share
    `annotated_share` from photos of which somebody has said the value of an attribute, or what it moves (`annotated`
    "some"), or the values of all attributes ("all"), where there are such; with `same_image`, all pixels of a batch
    from one photo. While step < `time_steps`, pixels are drawn from the first max(floor(step / time_steps N), 3) of the
    N photos in the order of their times (D-NeRF's curriculum).

    Steps are those of the method's `training_steps`: where the clock ends training, they pass with it.
    """

    crop_steps: int = 0
    crop_share: float = 0.5
    foreground_share: float = 0.0
    same_image: bool = False
    annotated_share: float = 0.0
    annotated: Literal["some", "all"] = "some"
    time_steps: int = 0


class Renderer(nn.Module):
    """Rays to colours, and how to learn it.

    Everything that changes during training lives in parameters and buffers, so that a checkpoint holds all of
    it and resuming is exact. `render` is deterministic: no jitter, no noise, the same answer in training and
    evaluation mode.
    """

    background: Background = "black"
    """The scene's policy. `render` composites on white for "white" and "random", on black for "black" and
    "opaque"."""
    frame: ForwardFrame | None = None
    """In whose normalised device coordinates rays are sampled, and the extra `depth_raw` is."""
    chunk: int = DEFAULT_CHUNK
    whole_views: bool = False
    """Whether it answers for whole pictures only: it is asked through `view` alone, and learns from `Pictures`."""
    compute_dtype: torch.dtype = torch.float32
    """Type of the large matrix products (float32 or bfloat16), set once by training or opening; encodings
    stay float32."""
    sees_cones: bool = False
    """Whether what is rendered depends on the pixels' radii: of others than those it was trained on, such a method
    knows little."""
    conditions: tuple[str, ...] = ()
    """What beside the ray decides its colour: "times", "attributes" (fields of `Rays`). A method without them learns a
    still scene."""
    wants_normals: bool = False
    """Whether training on photos goes by the maps of normals that these come with."""
    wants_attribute_masks: bool = False
    """Whether batches of photos are to carry what each attribute moves (`Batch.attribute_masks`)."""
    tells_attributes: bool = False
    """Whether attributes that are not given (NaN, or none at all) follow from the time."""
    needs: tuple[str, ...] = ()
    """Which of `conditions` the views that it learns from must have."""
    knows_bfloat16: bool = False
    """Whether the method goes by `compute_dtype`; the others compute in float32."""

    @classmethod
    def from_scene(cls, config: Any, info: Any) -> "Renderer":
        """Builds the renderer for `config` and the `SceneInfo` of a scene; nothing else is known when a run
        is opened."""
        raise NotImplementedError(f"{cls.__name__} does not build itself from a scene")

    @property
    def device(self) -> torch.device:
        """Where the weights are (the CPU for a renderer without weights)."""
        tensor = next(self.parameters(), None)
        if tensor is None:
            tensor = next(self.buffers(), None)
        return torch.device("cpu") if tensor is None else tensor.device

    def set_precision(self, name: str) -> None:
        """Sets `compute_dtype` from "auto", "float32" or "bfloat16", for the device that the renderer is on.

        Raises:
            LumigraphError: bfloat16 is asked for, and the method does not know it.
        """
        wanted = resolve_precision(name, self.device)
        if wanted == torch.bfloat16 and not self.knows_bfloat16:
            if name != "auto":
                raise LumigraphError(
                    "this method computes in float32 only", todo="Leave --precision out, or pass float32"
                )
            wanted = torch.float32
        if wanted == torch.bfloat16 and not has_bfloat16(self.device):
            log.warning("this processor has no bfloat16 arithmetic; --precision float32 is faster here")
        self.compute_dtype = wanted

    # ------------------------------------------------------------------ rendering

    def render(self, rays: Rays) -> Rendering:
        """Renders rays of any leading shape, without gradients.

        Raises:
            LumigraphError: the renderer has `whole_views`.
        """
        if self.whole_views:
            raise LumigraphError(
                "this renderer answers for whole pictures, not for single rays",
                todo="Ask it for views: bake them with `lumigraph bake` where rays of it are wanted",
            )
        raise NotImplementedError

    @torch.no_grad()
    def view(self, camera: Cameras) -> Rendering:
        """Renders the picture [H, W] of one camera (`len(camera) == 1`) in chunks of `chunk` rays.

        Raises:
            LumigraphError: the camera lacks one of the renderer's `conditions`.
        """
        self.require_conditions(camera)
        rays = self.seen_through(camera).to(self.device).view_rays(0)
        height, width = rays.shape
        parts = [self.render(part) for part in rays.flatten().split(self.chunk)]
        return concatenate_renderings(parts).reshape(height, width)

    def require_conditions(self, given: Rays | Cameras) -> None:
        """Raises LumigraphError where `given` does not say all that decides a colour beside the ray."""
        for name in self.conditions:
            if getattr(given, name) is None:
                kind = "rays" if isinstance(given, Rays) else "cameras"
                raise LumigraphError(
                    f"what is to be rendered changes with its {name}, and these {kind} have no {name}",
                    todo=f"Give {name}: {_RANGES[name]}",
                )

    def knows_state(self, cameras: Cameras) -> Bool[Tensor, " N"]:
        """Which cameras tell, or let the renderer tell, all attributes that the scene is to be drawn with. A picture of
        the others shows some state of the scene, and says nothing of how well it is known."""
        values = cameras.attributes
        if "attributes" not in self.conditions or self.tells_attributes or values is None:
            return torch.ones(len(cameras), dtype=torch.bool)
        return torch.isfinite(values).all(1).cpu()

    def seen_through(self, cameras: Cameras) -> Cameras:
        """Cameras whose rays show what `cameras` see: others than these where what was learnt has another convention of
        where a pixel lies, as published weights may. `view` asks for their rays."""
        return cameras

    def warn_of_other_pixels(self, asked: Cameras, trained: Cameras) -> None:
        """Warns where a method that sees cones is asked for other pixels than it was trained on: detail of finer ones
        comes out as noise, and colours of coarser ones are guesses. Where cameras stand is not looked at."""
        if not self.sees_cones:
            return
        known, wanted = pixel_radii(trained).aminmax(), pixel_radii(asked).aminmax()
        finer, coarser = float(known.min / wanted.min), float(wanted.max / known.max)
        if finer > _FINER:
            log.warning(
                "the pixels are %.1f times finer than any that this was trained on: expect noise, or take fewer pixels",
                finer,
            )
        if coarser > _COARSER:
            log.warning(
                "the pixels are %.1f times coarser than any that this was trained on: colours may be wrong; train with "
                "--scales for them",
                coarser,
            )

    def refined(self, cameras: Cameras) -> Cameras:
        """Training cameras where the renderer has found them to stand. `render` draws any ray as it is given; a method
        that learns poses moves rays of photos in `losses` only."""
        return cameras

    def choose_codes(self, choice: CodeChoice | TimeCodeChoice) -> None:
        """What everything is drawn with from now on, where the method learns codes of photos or of moments.

        Raises:
            LumigraphError: it does not, or none of which this is a choice.
        """
        raise _no_codes()

    def leave_out(self, dust: float | None, outside: bool) -> None:
        """Shows from now on nothing of lower density than `dust`, per scene unit (None: as the method was trained to),
        and where `outside`, nothing outside the scene's box.

        Raises:
            LumigraphError: the method shows all that it knows.
        """
        raise LumigraphError(
            "this renderer cannot leave anything out of its pictures",
            todo="Leave --dust-threshold and --inside-bounds out; hypernerf and conerf have them",
        )

    def fitted_to(self, rays: Rays, rgba: Float[Tensor, "B 4"]) -> AbstractContextManager[None]:
        """Within it everything is drawn with the code that suits the colours `rgba` of `rays` best: some pixels of a
        photo that was not trained on, of which the others are then asked for.

        Raises:
            LumigraphError: the method learns no codes of cameras.
        """
        raise _no_codes()

    def hyper_code(self, rays: Rays) -> Float[Tensor, "*s C"]:
        """The code that a student of moving scenes makes of each ray beside its points (DyLiN, section 3.2).

        Raises:
            LumigraphError: the method makes none.
        """
        raise _no_hyper_code()

    def edited(self, channel: int, value: float) -> AbstractContextManager[None]:
        """Within it the channel (from 0) of every hyper code has this value, whatever the ray and the time.

        Raises:
            LumigraphError: the method makes no such code, or it has no such channel.
        """
        raise _no_hyper_code()

    # ------------------------------------------------------------------ training

    def read_for_training(self, info: Any) -> None:
        """Called once before a training on photos: reads from the folder of their scene (`SceneInfo`) what nothing but
        training needs. A run is opened and rendered without."""

    def pixel_sampling(self) -> PixelSampling:
        """Which pixels training on photos is to draw."""
        return PixelSampling()

    @property
    def rays_per_step(self) -> int:
        """Rays wanted for the next step; may adapt, from saved state only."""
        raise NotImplementedError

    @property
    def pictures_per_step(self) -> int:
        """Whole pictures wanted for every step, where it has `whole_views`."""
        raise NotImplementedError

    def begin_step(self, step: int, progress: float, seed: int) -> None:
        """Called before each step: schedules and occupancy updates. Randomness is a function of (seed, step)
        only."""

    def losses(self, batch: Any, step: int, seed: int) -> Losses:
        """Loss terms of a `Batch`, or of `Pictures` where it has `whole_views`, with gradients. Randomness is a
        function of (seed, step) only."""
        raise NotImplementedError

    def optimisers(self) -> list[ParameterGroup]:
        """All trainable parameters, each in exactly one group."""
        raise NotImplementedError

    def make_optimiser(self) -> torch.optim.Optimizer:
        """One optimiser over `optimisers()`. Its state must be tensors and plain numbers (checkpoints hold
        nothing else)."""
        groups = self.optimisers()
        names = {group.optimiser for group in groups}
        if len(names) != 1:
            raise NotImplementedError(f"{type(self).__name__} mixes optimisers and must build them itself")
        return make_optimiser(names.pop(), [group.settings() for group in groups])

    def lr_scale(self, step: int, progress: float) -> float:
        """Factor on every group's initial learning rate; `progress` in [0, 1] is the used part of the
        budget."""
        return 1.0

    def memory_estimate(self, rays: int) -> int:
        """Bytes that training with `rays` rays, or pixels, per step takes at its peak. This default counts weights,
        gradients and two Adam moments; methods add their activations to it."""
        weights = sum(parameter.numel() * parameter.element_size() for parameter in self.parameters())
        return 4 * weights + sum(buffer.numel() * buffer.element_size() for buffer in self.buffers())

    def warm_up(self, batch: Batch | Pictures, seed: int) -> None:
        """Runs everything a training step and a preview run, so that kernels are compiled before the clock
        starts. State is left as it was; a method with kernels that this does not reach extends it."""
        saved = {name: tensor.detach().clone() for name, tensor in self.named_buffers()}
        try:
            self.begin_step(0, 0.0, seed)
            torch.stack(list(self.losses(batch, 0, seed).terms.values())).sum().backward()
            with torch.no_grad():
                if isinstance(batch, Pictures):
                    self.view(batch.cameras[0])
                else:
                    self.render(batch.rays)
            warm_up_tables([group.parameters[0] for group in self.optimisers() if group.table])
        finally:
            self.zero_grad(set_to_none=True)
            with torch.no_grad():
                for name, tensor in self.named_buffers():
                    tensor.copy_(saved[name])

    def recover(self, seed: int) -> bool:
        """Called when training has collapsed to a constant picture: begins again from other random weights, those of
        `seed`. Where that helps a method no more than the first start did, False, and training stops with advice."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.start_over()

    def start_over(self) -> bool:
        """Draws all parameters anew, in place, from the global generator, and forgets what buffers have learnt. A
        method that has no better start than the first returns False, and does nothing."""
        return False
