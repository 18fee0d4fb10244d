"""What training looks at while it runs: PSNR on fixed pixels, collapse to a constant picture, preview
pictures."""

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from lumigraph.files import new_file
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.rays import Rays, concatenate
from lumigraph.rendering.background import Background, display_target
from lumigraph.rendering.renderer import Renderer, concatenate_renderings
from lumigraph.training.sources import RaySource

PROBE_VIEWS = 8
PROBE_RAYS = 4096
FLAT = 0.02
"""A picture whose spread is below this part of the truth's spread counts as constant."""


@runtime_checkable
class ValidationViews(Protocol):
    """Pictures that training is compared with: a split of a scene, or views rendered by a teacher."""

    @property
    def cameras(self) -> Cameras: ...

    def __len__(self) -> int: ...

    def image(self, index: int, /) -> UInt8[Tensor, "H W C"]: ...


def psnr(mean_squared_error: float) -> float:
    """-10 log10(MSE) for colours in [0, 1], at most 100 dB."""
    return -10 * math.log10(max(mean_squared_error, 1e-10))


@contextlib.contextmanager
def looking(renderer: Renderer) -> Iterator[None]:
    """Rendering inside the block leaves no trace in training: evaluation mode, no gradients, torch's random
    state as it was."""
    was_training = renderer.training
    renderer.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng():
            yield
    finally:
        renderer.train(was_training)


def as_rgba(image: UInt8[Tensor, "H W C"]) -> Float[Tensor, "H W 4"]:
    """Premultiplied float RGBA of a stored image, which has three channels when it is opaque."""
    values = image.float() / 255
    return values if values.shape[-1] == 4 else torch.nn.functional.pad(values, (0, 1), value=1.0)


@dataclass
class Measurement:
    """How the fixed pixels came out."""

    psnr: float
    constant: bool
    """The prediction hardly varies although the truth does."""
    rays_per_second: float


class Probe:
    """Fixed rays with their true display colours; measured again and again, so differences mean something."""

    def __init__(self, rays: Rays, truth: Float[Tensor, "N 3"]):
        self.rays = rays
        self.truth = truth

    @classmethod
    def of_views(
        cls,
        views: ValidationViews,
        background: Background,
        *,
        count: int = PROBE_RAYS,
        most_views: int = PROBE_VIEWS,
    ) -> "Probe":
        """`count` pixels, the same for every run, of up to `most_views` views spread over all of them."""
        chosen = np.unique(np.linspace(0, len(views) - 1, min(most_views, len(views))).round().astype(int))
        generator = np.random.Generator(np.random.Philox(key=len(views)))
        rays, truth = [], []
        for i in chosen.tolist():
            rgba = as_rgba(views.image(i))
            height, width = rgba.shape[:2]
            pixel = torch.from_numpy(generator.integers(0, height * width, size=-(-count // len(chosen))))
            x, y = pixel % width, pixel // width
            rays.append(views.cameras.rays(torch.full_like(x, i), x, y))
            truth.append(display_target(rgba[y, x], background))
        return cls(concatenate(rays), torch.cat(truth))

    @classmethod
    def of_source(cls, source: RaySource, background: Background, *, count: int = PROBE_RAYS) -> "Probe":
        """Rays of the source's first step, where there are no validation views."""
        batch = source.batch(0, count)
        return cls(batch.rays, display_target(batch.rgba, background))

    def measure(self, renderer: Renderer) -> Measurement:
        """Renders the probe's rays."""
        start = time.perf_counter()
        with looking(renderer):
            parts = self.rays.to(renderer.device).split(renderer.chunk)
            rgb = concatenate_renderings([renderer.render(part) for part in parts]).rgb.float().cpu()
        seconds = time.perf_counter() - start
        truth = self.truth.cpu()
        spread, true_spread = float(rgb.std(0).max()), float(truth.std(0).max())
        return Measurement(
            psnr=psnr(float((rgb.clamp(0, 1) - truth).square().mean())),
            constant=true_spread > FLAT and spread < FLAT * true_spread,
            rays_per_second=len(rgb) / max(seconds, 1e-9),
        )


def write_preview(
    path: Path, renderer: Renderer, views: ValidationViews, background: Background, most_rays: float
) -> None:
    """Writes the first view as a PNG, truth on the left, rendering on the right, reduced to at most
    `most_rays` pixels each."""
    camera = views.cameras[0:1]
    width, height = (int(value) for value in camera.size[0])
    truth = _as_picture(display_target(as_rgba(views.image(0)), background))
    scale = min(1.0, math.sqrt(max(most_rays, 64) / (width * height)))
    if scale < 1:
        width, height = max(1, int(width * scale)), max(1, int(height * scale))
        camera = camera.resized(width, height)
        truth = truth.resize((width, height), Image.Resampling.BOX)
    with looking(renderer):
        rendered = _as_picture(renderer.view(camera).rgb)
    picture = Image.new("RGB", (2 * width, height))
    picture.paste(truth, (0, 0))
    picture.paste(rendered, (width, 0))
    with new_file(path) as temporary:
        picture.save(temporary, format="PNG")


def _as_picture(rgb: Float[Tensor, "H W 3"]) -> Image.Image:
    return Image.fromarray((rgb.float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())
