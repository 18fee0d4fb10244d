"""Light fields that answer with a whole picture: a ray for each patch of it, and a network of convolutions that makes
the patches (MobileR2L, Cao et al., CVPR 2023, arXiv 2212.08057).

A patch is seen through its centre: with patches of f pixels the rays are those of the camera with f times fewer pixels
each way. Pictures whose sides are no multiples of f are rendered in whole patches and cut to size. What a network has
learnt of a patch holds for pixels as fine as those it has learnt from; cameras with others get the picture rendered
with those, and resampled.
"""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lumigraph.configs.picture_light_field import PictureNetworkConfig
from lumigraph.errors import LumigraphError
from lumigraph.fields.ray_code import positional_encoding
from lumigraph.fields.ray_grid_network import RayGridNetwork
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.ndc import ForwardFrame
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.background import Background, display_target
from lumigraph.rendering.described_rays import DescribedRays
from lumigraph.rendering.randomness import step_generator
from lumigraph.rendering.renderer import Losses, ParameterGroup, Pictures, Rendering

_STREAM = 0xBF58476D1CE4E5B9
"""Odd 64-bit constant that keeps the jitter of different seeds apart."""
SAME_PIXELS = 0.02
"""Focal lengths that differ by a smaller part than this have pixels of the same size."""
_FOCAL_SPREAD = 1.1
"""Pictures learnt from together may have pixels that differ by this factor."""


class PictureLightField(DescribedRays):
    """Description of the rays of a grid -> encoding -> convolutions -> picture. Colours are those on the scene's
    display background; there is no depth."""

    config: Any  # a PictureNetworkConfig; where rays are described by points, a PictureLightFieldConfig
    whole_views = True
    focal: Tensor

    def __init__(
        self,
        config: PictureNetworkConfig,
        near: float,
        far: float,
        background: Background,
        frame: ForwardFrame | None = None,
        inputs: int | None = None,
    ):
        """`inputs`: channels of the code of a ray, those that the config tells unless given; see `DescribedRays` for
        the others."""
        super().__init__(config, near, far, background, frame)
        self.network = RayGridNetwork(
            config.inputs if inputs is None else inputs,
            config.width,
            config.blocks,
            up_factors=config.up_factors,
            up_widths=config.up_widths,
            up_blocks=config.up_blocks,
            activation=config.activation,
            upsampling=config.upsampling,
        )
        # Focal lengths, pixels, of the pictures that it learns from; 0 before the first.
        self.register_buffer("focal", torch.zeros(2))
        self._folded: tuple[Any, RayGridNetwork] | None = None

    # ------------------------------------------------------------------ rays to pictures

    def grid(self, cameras: Cameras) -> Rays:
        """The rays [B, h, w] through the centres of the patches of B cameras of one size; at the right and the bottom
        the last patches may reach over the rim."""
        patch = self.config.patch
        width, height = (-(-side // patch) for side in cameras.size[0].tolist())
        coarse = replace(cameras, focal=cameras.focal / patch, principal=cameras.principal / patch)
        camera, y, x = (torch.arange(count, device=cameras.device) for count in (len(cameras), height, width))
        return coarse.rays(camera[:, None, None], x, y[:, None])

    def codes(self, rays: Rays, jitter: Float[Tensor, "K N"] | None = None) -> Float[Tensor, "B E h w"]:
        """The encoded description of the rays [B, h, w] of a grid; `jitter` moves the points of the N rays within their
        bins. Always in float32: the finest waves of the code have no room in less."""
        rows = self.describe(self.lines_of(rays.flatten()), self._depths(jitter)).rows
        code = positional_encoding(rows.T, self.config.octaves)
        return code.reshape(*rays.shape, -1).permute(0, 3, 1, 2)

    def _colours(
        self, network: nn.Module, code: Float[Tensor, "B E h w"], width: int, height: int
    ) -> Float[Tensor, "B H W 3"]:
        """Pictures cut to `width` x `height`."""
        low = self.compute_dtype != torch.float32
        with torch.autocast(self.device.type, self.compute_dtype if low else torch.bfloat16, enabled=low):
            raw = network(code)
        return torch.sigmoid(raw.float()).permute(0, 2, 3, 1)[:, :height, :width]

    def folded(self) -> RayGridNetwork:
        """The network without batch norm, as it is rendered and shipped; kept as long as the weights do not change."""
        tensors = self.network.state_dict(keep_vars=True).values()
        key = [(tensor.data_ptr(), tensor._version) for tensor in tensors]
        if self._folded is None or self._folded[0] != key:
            self._folded = (key, self.network.folded())
        return self._folded[1]

    # ------------------------------------------------------------------ rendering

    @torch.no_grad()
    def view(self, camera: Cameras) -> Rendering:
        """The picture [H, W] of one camera. Where its pixels are finer or coarser than those learnt from, the picture
        is rendered with those and resampled.

        Raises:
            LumigraphError: the camera lacks one of the renderer's `conditions`.
        """
        self.require_conditions(camera)
        camera = camera.to(self.device)
        native = self.native(camera)
        width, height = native.size[0].tolist()
        colours = self._colours(self.folded(), self.codes(self.grid(native)), width, height)
        return Rendering(rgb=resampled(colours, camera)[0])

    def native(self, camera: Cameras) -> Cameras:
        """The camera with as many pixels as its field of view has of those that were learnt from."""
        return with_learnt_pixels(camera, self.focal)

    # ------------------------------------------------------------------ training

    @property
    def pictures_per_step(self) -> int:
        return self.config.pictures

    def losses(self, batch: Pictures, step: int, seed: int) -> Losses:
        """Mean squared error over all pixels (MobileR2L, equation 3). Pictures with finer or coarser pixels than those
        of the first are resampled first.

        Raises:
            LumigraphError: the pictures have no `conditions`, pixels of different sizes, a single patch, or of none it
                is known how the scene stood.
        """
        cameras = batch.cameras
        self.require_conditions(cameras)
        self._note_pixels(cameras)
        target, weight = display_target(batch.rgba, self.background), self._weight(batch)
        native = self.native(cameras)
        if native is not cameras:
            target = resampled(target, native)
            weight = None if weight is None else resampled(weight[..., None], native)[..., 0]
        rays = self.grid(native)
        width, height = native.size[0].tolist()
        if rays[0].numel == 1:
            raise LumigraphError(
                f"pictures of {width}x{height} pixels are a single patch of this student",
                todo="Take larger pictures, or fewer --up-factors",
            )
        jitter = self._jitter(rays.numel, step, seed)
        colours = self._colours(self.network, self.codes(rays, jitter), width, height)
        error = (colours - target).square().mean(-1)
        if weight is None:
            return Losses({"rgb": error.mean()}, error.detach().mean((1, 2)))
        seen, counted = (error * weight).sum((1, 2)), weight.sum((1, 2))
        each = seen.detach() / counted.clamp(min=1)
        return Losses({"rgb": seen.sum() / counted.sum().clamp(min=1)}, each)

    def _weight(self, batch: Pictures) -> Tensor | None:
        """What pixels count: nothing in pictures of which it is not known how the scene stood."""
        known = self.knows_state(batch.cameras)
        if not bool(known.any()):
            raise LumigraphError(
                "no picture of the batch has known attributes: there is nothing to learn from",
                todo="Use photos, or a teacher, whose frames have values for all attributes",
            )
        if bool(known.all()):
            return batch.weight
        weight = torch.ones_like(batch.rgba[..., 0]) if batch.weight is None else batch.weight
        return weight * known.to(weight)[:, None, None]

    def _note_pixels(self, cameras: Cameras) -> None:
        """Remembers the focal lengths of the first pictures, by which all are measured."""
        low, high = cameras.focal.amin(0), cameras.focal.amax(0)  # each way: pixels need not be square
        if float((high / low).amax()) > _FOCAL_SPREAD:
            raise LumigraphError(
                f"these pictures have focal lengths of {float(low.amin()):.0f} to {float(high.amax()):.0f} pixels, "
                "and a student of whole pictures learns one",
                todo="Pseudo views: no --poses r2l, or bake with --no-random-focal. Photos: take those of one lens at "
                "one zoom, or distil without --pseudo-ratio; students of rays, such as r2l, learn from any",
            )
        if not bool(self.focal.all()):
            self.focal.copy_(cameras.focal.mean(0))

    def _jitter(self, rays: int, step: int, seed: int) -> Tensor | None:
        if not self.config.perturb:
            return None
        generator = step_generator(_STREAM, seed, step, self.device)
        return torch.rand(self.config.points, rays, generator=generator, device=self.device)

    def optimisers(self) -> list[ParameterGroup]:
        config, weights = self.config, list(self.network.parameters())
        return [
            ParameterGroup("network", weights, config.lr, optimiser="adamw", weight_decay=config.weight_decay)
        ]

    def memory_estimate(self, rays: int) -> int:
        """Weights, gradients and moments; the pictures; and the activations, all of which are kept for the gradient."""
        config, grid = self.config, rays / self.config.patch**2
        kept = grid * (3 * config.inputs + _KEPT * config.blocks * config.width)
        for factor, width in zip(config.up_factors, config.up_widths, strict=True):
            grid *= factor**2
            kept += grid * width * (1 + _KEPT * config.up_blocks)
        return super().memory_estimate(rays) + round(4 * (kept + 16 * rays))


_KEPT = 6
"""Tensors of its size that a residual block keeps: of two convolutions, two batch norms, an activation and the sum."""


def with_learnt_pixels(cameras: Cameras, focal: Float[Tensor, "2"]) -> Cameras:
    """Cameras of the same field of view with pixels as large as those of `focal` lengths, in pixels; as they are where
    theirs are, or where `focal` is 0."""
    scale = float((focal / cameras.focal.mean(0)).prod().sqrt()) if bool(focal.all()) else 1.0
    if abs(scale - 1) < SAME_PIXELS:
        return cameras
    width, height = (max(1, round(side * scale)) for side in cameras.size[0].tolist())
    return cameras.resized(width, height)


def resampled(pictures: Float[Tensor, "B h w C"], cameras: Cameras) -> Float[Tensor, "B H W C"]:
    """Pictures at the size of `cameras`: blurred where that is smaller, interpolated where it is larger."""
    width, height = cameras.size[0].tolist()
    if pictures.shape[1:3] == (height, width):
        return pictures
    planes = pictures.permute(0, 3, 1, 2).float()
    sized = nn.functional.interpolate(planes, (height, width), mode="bilinear", antialias=True)
    return sized.permute(0, 2, 3, 1)
