"""What lies behind a scene, and how premultiplied colours are laid over it: the one place for teacher, baker
and student.

A scene's policy is "white", "black", "random" (a new colour per ray and training step, which makes opacity
identifiable; shown on white) or "opaque" (photos without alpha; what the renderer leaves transparent shows
black).
"""

from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from lumigraph.rendering.randomness import step_generator
from lumigraph.scenes.scene import Background

__all__ = [
    "Background",
    "as_rgba",
    "background_rgb",
    "display_background",
    "display_target",
    "over",
    "training_background",
    "training_target",
]

_STREAM = 0x9E3779B97F4A7C15
"""Odd 64-bit constant (2^64 / golden ratio) that keeps the streams of different seeds apart."""


def as_rgba(image: UInt8[Tensor, "H W C"]) -> Float[Tensor, "H W 4"]:
    """Premultiplied float RGBA of a stored image, which has three channels when it is opaque."""
    values = image.float() / 255
    return values if values.shape[-1] == 4 else torch.nn.functional.pad(values, (0, 1), value=1.0)


def over(
    rgb: Float[Tensor, "*s 3"], alpha: Float[Tensor, "*s"], background: Float[Tensor, "*b 3"]
) -> Float[Tensor, "*s 3"]:
    """Premultiplied colour over an opaque background: rgb + (1 - alpha) background (Porter and Duff 1984,
    "over").

    `background` is [3] or [*s, 3]. Nothing is clamped, so the formula holds for gradients as well.
    """
    return rgb + (1 - alpha).unsqueeze(-1) * background


def display_background(policy: Background) -> Literal["white", "black"]:
    """The colour that evaluation, movies and students use for a policy: what `Renderer.render` composites
    on."""
    return "white" if policy in ("white", "random") else "black"


def background_rgb(policy: Background, device: torch.device | str = "cpu") -> Float[Tensor, "3"]:
    """The display background of a policy as a colour [3]."""
    return torch.full((3,), 1.0 if display_background(policy) == "white" else 0.0, device=device)


def training_background(
    policy: Background, rays: int, *, seed: int, step: int, device: torch.device | str = "cpu"
) -> Float[Tensor, "..."]:
    """Background for the rays of one training step: [3], or [rays, 3] uniform random colours for "random",
    which are a function of (seed, step) alone."""
    if policy != "random":
        return background_rgb(policy, device)
    generator = step_generator(_STREAM, seed, step, device)
    return torch.rand((rays, 3), generator=generator, device=device)


def training_target(
    rgba: Float[Tensor, "B 4"], policy: Background, *, seed: int, step: int
) -> tuple[Float[Tensor, "B 3"], Float[Tensor, "..."]]:
    """Target colours [B, 3] of premultiplied `rgba` [B, 4] in one training step, and the background they lie
    on, on which the prediction has to be composited too ([3] or [B, 3])."""
    background = training_background(policy, len(rgba), seed=seed, step=step, device=rgba.device)
    return over(rgba[:, :3], rgba[:, 3], background), background


def display_target(rgba: Float[Tensor, "*s 4"], policy: Background) -> Float[Tensor, "*s 3"]:
    """Colours [*s, 3] of premultiplied `rgba` [*s, 4] as evaluation and students see them: on the display
    background."""
    return over(rgba[..., :3], rgba[..., 3], background_rgb(policy, rgba.device))
