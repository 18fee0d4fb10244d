"""What training looks at while it runs: which views, PSNR on fixed pixels, collapse to a constant picture, preview
pictures."""

import contextlib
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from torch import Tensor

from lumigraph.errors import LumigraphError
from lumigraph.evaluation.metrics import psnr_of
from lumigraph.files import new_file
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.background import Background, as_rgba, display_target
from lumigraph.rendering.movies import DepthScale
from lumigraph.rendering.renderer import Renderer, concatenate_renderings
from lumigraph.scenes.scene import Scene, Views
from lumigraph.training.sources import RaySource

log = logging.getLogger("lumigraph")

PROBE_VIEWS = 8
PROBE_RAYS = 4096
HOLD_EVERY = 10
"""Of a scene without views that may decide, every so many-th training photo is held out to do it."""
FLAT = 0.02
"""A picture whose spread is below this part of the truth's spread counts as constant."""


@runtime_checkable
class ValidationViews(Protocol):
    """Pictures that training is compared with: a split of a scene, or views rendered by a teacher.

    They may also have `mask(index)`, as `Views` has: [H, W], true where a pixel counts, or None (see `mask_of`).
    """

    @property
    def cameras(self) -> Cameras: ...

    def __len__(self) -> int: ...

    def image(self, index: int, /) -> UInt8[Tensor, "H W C"]: ...


def mask_of(views: ValidationViews, index: int) -> Bool[Tensor, "H W"] | None:
    """True where a pixel of picture `index` counts; None where all do. Views without masks need no method `mask`."""
    mask = getattr(views, "mask", None)
    return None if mask is None else mask(index)


@dataclass(frozen=True)
class ViewsPart:
    """Some of such pictures: those of the numbers `places`."""

    views: ValidationViews
    places: list[int]

    @property
    def cameras(self) -> Cameras:
        return self.views.cameras[torch.tensor(self.places)]

    def __len__(self) -> int:
        return len(self.places)

    def image(self, index: int, /) -> UInt8[Tensor, "H W C"]:
        return self.views.image(self.places[index])

    def mask(self, index: int) -> Bool[Tensor, "H W"] | None:
        return mask_of(self.views, self.places[index])


def of_known_state(renderer: Renderer, views: ValidationViews | None) -> ValidationViews | None:
    """The views whose attributes are known, where the renderer's colours go by these; None where there are none. A
    warning says how many are left out: nothing is to be learnt from comparing them."""
    if views is None:
        return None
    places = torch.nonzero(renderer.knows_state(views.cameras)).flatten().tolist()
    if len(places) == len(views):
        return views
    log.warning(
        "of %d of %d validation views the attributes are not known: training is not watched with them",
        len(views) - len(places),
        len(views),
    )
    return ViewsPart(views, places) if places else None


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
        """`count` pixels inside the masks, the same for every run, of up to `most_views` views spread over all.

        Raises:
            LumigraphError: the masks leave no pixel of these views.
        """
        chosen = np.unique(np.linspace(0, len(views) - 1, min(most_views, len(views))).round().astype(int))
        generator = np.random.Generator(np.random.Philox(key=len(views)))
        pixels, truth = [], []
        for i in chosen.tolist():
            rgba = as_rgba(views.image(i))
            height, width = rgba.shape[:2]
            mask = mask_of(views, i)
            inside = torch.arange(height * width) if mask is None else torch.nonzero(mask.flatten())[:, 0]
            if not len(inside):
                continue
            pixel = inside[
                torch.from_numpy(generator.integers(0, len(inside), size=-(-count // len(chosen))))
            ]
            x, y = pixel % width, pixel // width
            pixels.append(torch.stack([torch.full_like(x, i), x, y]))
            truth.append(display_target(rgba[y, x], background))
        if not pixels:
            raise LumigraphError(
                "the masks of the validation views leave no pixel", todo="Mend the masks (white = use)"
            )
        return cls._of_pixels(views.cameras, torch.cat(pixels, 1), torch.cat(truth))

    @classmethod
    def _of_pixels(cls, cameras: Cameras, pixels: Int[Tensor, "3 N"], truth: Float[Tensor, "N 3"]) -> "Probe":
        """Of pixels (camera, x, y)."""
        return cls(cameras.rays(*pixels), truth)

    @classmethod
    def of_source(cls, source: RaySource, background: Background, *, count: int = PROBE_RAYS) -> "Probe":
        """Rays of the source's first step, where there are no validation views."""
        batch = source.batch(0, count)
        return cls(batch.rays, display_target(batch.rgba, background))

    def measure(self, renderer: Renderer) -> Measurement:
        """Renders what the probe looks at."""
        start = time.perf_counter()
        with looking(renderer):
            rgb, rendered = self._seen(renderer)
        seconds = time.perf_counter() - start
        truth = self.truth.cpu()
        spread, true_spread = float(rgb.std(0).max()), float(truth.std(0).max())
        return Measurement(
            psnr=psnr_of(float((rgb.clamp(0, 1) - truth).square().mean())),
            constant=true_spread > FLAT and spread < FLAT * true_spread,
            rays_per_second=rendered / max(seconds, 1e-9),
        )

    def _seen(self, renderer: Renderer) -> tuple[Float[Tensor, "N 3"], int]:
        """Colours on the CPU, and how many pixels were rendered for them."""
        parts = self.rays.to(renderer.device).split(renderer.chunk)
        rgb = concatenate_renderings([renderer.render(part) for part in parts]).rgb.float().cpu()
        return rgb, len(rgb)


class PictureProbe(Probe):
    """Fixed pixels for renderers that answer for whole pictures only: their views are rendered for them."""

    def __init__(self, cameras: Cameras, pixels: Int[Tensor, "3 N"], truth: Float[Tensor, "N 3"]):
        """`pixels`: (camera, x, y)."""
        self.cameras, self.pixels, self.truth = cameras, pixels, truth

    @classmethod
    def _of_pixels(
        cls, cameras: Cameras, pixels: Int[Tensor, "3 N"], truth: Float[Tensor, "N 3"]
    ) -> "PictureProbe":
        return cls(cameras, pixels, truth)

    @classmethod
    def of_source(
        cls, source: RaySource, background: Background, *, count: int = PROBE_RAYS
    ) -> "PictureProbe":
        """All pixels of the first picture of the source."""
        drawn = source.pictures(0, 1).to(torch.device("cpu"))
        height, width = drawn.rgba.shape[1:3]
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        pixels = torch.stack([torch.zeros_like(x), x, y]).flatten(1)
        return cls(drawn.cameras, pixels, display_target(drawn.rgba, background).flatten(0, 2))

    def _seen(self, renderer: Renderer) -> tuple[Float[Tensor, "N 3"], int]:
        rgb, rendered = torch.empty_like(self.truth, device="cpu"), 0
        for camera in self.pixels[0].unique().tolist():
            view = renderer.view(self.cameras[camera]).rgb.float().cpu()
            chosen = self.pixels[0] == camera
            rgb[chosen] = view[self.pixels[2, chosen], self.pixels[1, chosen]]
            rendered += view.shape[:2].numel()
        return rgb, rendered


def training_and_validation(scene: Scene, needs: tuple[str, ...] = ()) -> tuple[Views, Views, bool]:
    """The photos to learn from, those that decide when to stop and which weights are kept, and whether these were held
    out of the training photos: where the scene has no validation views, or no test views, for then `eval` judges by the
    former. A photo is held out at all its sizes. Only views of which all that a renderer `needs` is known can judge.

    Raises:
        LumigraphError: there are none.
    """
    train = scene.split("train")
    if {"val", "test"} <= scene.views.keys():
        val = scene.views["val"]
        judging = _known(val, needs)
        if not judging:
            raise LumigraphError(
                "the attributes of no validation view are known, and these decide when to stop",
                where=scene.info.source,
                todo="Say the values of some of them, or leave the file of the validation views out",
            )
        return train, val if len(judging) == len(val) else val.subset(judging), False
    photos, known = train.cameras.ids.tolist(), _known(train, needs)
    chosen = set(list(dict.fromkeys(photos[index] for index in known))[HOLD_EVERY // 2 :: HOLD_EVERY])
    if not chosen:
        raise LumigraphError(
            "no views may decide when to stop, and there are too few training photos to hold some out",
            where=scene.info.source,
            todo=f"Give it validation and test views, or {HOLD_EVERY // 2 + 1} training photos",
        )
    kept = [index for index, photo in enumerate(photos) if photo not in chosen]
    return train.subset(kept), train.subset([index for index in known if photos[index] in chosen]), True


def _known(views: Views, needs: tuple[str, ...]) -> list[int]:
    """The views of which all values of what is needed are known."""
    values = views.cameras.attributes
    if "attributes" not in needs or values is None:
        return list(range(len(views)))
    return torch.nonzero(torch.isfinite(values).all(1)).flatten().tolist()


def write_preview(
    path: Path, renderer: Renderer, views: ValidationViews, background: Background, most_rays: float
) -> UInt8[np.ndarray, "H W 3"]:
    """Writes the first view as a PNG and returns it: truth on the left, rendering beside it, then the depth of a
    renderer that has one. Each is reduced to at most `most_rays` pixels, and grey where the mask says that it does not
    count."""
    camera = views.cameras[0:1]
    width, height = (int(value) for value in camera.size[0])
    mask = mask_of(views, 0)
    truth = _as_picture(_greyed(display_target(as_rgba(views.image(0)), background), mask))
    scale = min(1.0, math.sqrt(max(most_rays, 64) / (width * height)))
    if scale < 1:
        width, height = max(1, int(width * scale)), max(1, int(height * scale))
        camera = camera.resized(width, height)
        truth = truth.resize((width, height), Image.Resampling.BOX)
        mask = None if mask is None else _reduced(mask, width, height)
    with looking(renderer):
        seen = renderer.view(camera)
    panels = [np.asarray(truth), np.asarray(_as_picture(_greyed(seen.rgb.cpu(), mask)))]
    if seen.depth is not None:
        depth = DepthScale().draw(seen)
        panels.append(
            (depth if mask is None else torch.where(mask.cpu()[..., None], depth, 128).byte()).numpy()
        )
    picture = np.concatenate(panels, axis=1)
    with new_file(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")
    return picture


def _as_picture(rgb: Float[Tensor, "H W 3"]) -> Image.Image:
    return Image.fromarray((rgb.float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())


def _greyed(rgb: Float[Tensor, "H W 3"], mask: Bool[Tensor, "H W"] | None) -> Float[Tensor, "H W 3"]:
    return rgb if mask is None else torch.where(mask[..., None], rgb, 0.5)


def _reduced(mask: Bool[Tensor, "H W"], width: int, height: int) -> Bool[Tensor, "h w"]:
    """A smaller mask, true where any of it is."""
    small = Image.fromarray(mask.cpu().numpy().astype(np.uint8) * 255).resize(
        (width, height), Image.Resampling.BOX
    )
    return torch.from_numpy(np.asarray(small) > 0)
