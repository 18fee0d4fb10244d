"""Renderers measured on held-out views: the one evaluator for teachers, students and bundles."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from lumigraph.errors import LumigraphError
from lumigraph.evaluation.attribute_masks import MaskError, mask_errors
from lumigraph.evaluation.metrics import (
    LPIPS,
    LPIPS_SMALLEST,
    SSIM_WINDOW,
    mean_squared_error,
    ms_ssim,
    ms_ssim_scales,
    psnr_of,
    ssim,
)
from lumigraph.evaluation.results import DepthError, EvalResult, ViewResult
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.background import as_rgba, display_target
from lumigraph.rendering.movies import Look
from lumigraph.rendering.renderer import Renderer, Rendering
from lumigraph.scenes.scene import Scene, SceneInfo, Views

WARM_UP_RAYS = 1024
FIT_PIXELS = 4096
"""About how many pixels of an image a renderer's code is fitted to."""

Watch = Callable[[int, ViewResult, Float[Tensor, "H W 3"], Float[Tensor, "H W 3"]], None]
"""Called after each view with its number, its figures, the truth and the rendering, both in [0, 1] on the CPU."""


def evaluate(
    renderer: Renderer,
    views: Views,
    *,
    cameras: Cameras | None = None,
    lpips: LPIPS | None = None,
    lpips_reason: str | None = None,
    watch: Watch | None = None,
    fit_half: bool = False,
    depth_units: tuple[float, float] = (1.0, 1.0),
    look: Look | None = None,
    attributes: Sequence[str] = (),
) -> EvalResult:
    """Renders every view and compares it with its image.

    Args:
        renderer: as opened; it is put into evaluation mode, and answers without jitter or noise.
        views: the images, and their cameras unless `cameras` gives others for the same images.
        lpips: the perceptual metric; None leaves it out, `lpips_reason` says why.
        watch: sees every picture and its figures.
        fit_half: the renderer's code of each view is fitted to the left half of its image, and only the colours
            of the right half are compared, and seen by `watch` (NeRF in the Wild, section 5).
        depth_units: what a unit of the renderer's depth and one of the views' depth maps are in units of the capture.
        look: sees every whole rendering, with its depth and extras.
        attributes: the names of the attributes.

    Raises:
        LumigraphError: there are no views, a rendering is not finite, or `fit_half` is asked of a renderer without
            codes.
    """
    cameras = views.cameras if cameras is None else cameras
    if not len(views):
        raise LumigraphError("there are no views to evaluate on", todo="Choose another split")
    renderer.eval()
    _warm_up(renderer, cameras)
    areas = views.pixel_areas
    scales = [None] * len(views) if areas is None else areas.rsqrt().tolist()
    times = [None] * len(views) if cameras.times is None else cameras.times.tolist()
    results = []
    for index in range(len(views)):
        rgba = as_rgba(views.image(index))
        truth = display_target(rgba, renderer.background)
        kept = slice(truth.shape[1] // 2, None) if fit_half else slice(None)
        with _fitted(renderer, cameras[index], rgba, views.mask(index)) if fit_half else nullcontext():
            start = time.perf_counter()
            seen, image, depth = _render(renderer, cameras[index])
            seconds = time.perf_counter() - start
        if look is not None:
            look(index, seen)
        image, truth = image[:, kept], truth[:, kept]
        error = None if depth is None else _depth_error(depth, views.depth(index), depth_units)
        mask = views.mask(index)
        mask = None if mask is None else mask[:, kept]
        compared = _compare(views.names[index], image, truth, mask, lpips, seconds)
        masks = _mask_errors(seen, views.attribute_masks(index), attributes)
        results.append(
            replace(compared, scale=scales[index], depth=error, time=times[index], attribute_masks=masks)
        )
        if watch is not None:
            watch(index, results[-1], truth, image)
    least = cameras.size.amin(0) // torch.tensor([2 if fit_half else 1, 1], device=cameras.device)
    return EvalResult(results, _reason(lpips, lpips_reason, int(least.min())))


@dataclass(frozen=True)
class RayFrame:
    """A picture that is given by its rays [H, W] and their colours [H, W, 3], in [0, 1] on the display background."""

    name: str
    rays: Rays
    rgb: Float[Tensor, "H W 3"]


def evaluate_frames(
    renderer: Renderer,
    frames: Iterable[RayFrame],
    *,
    lpips: LPIPS | None = None,
    lpips_reason: str | None = None,
    watch: Watch | None = None,
) -> EvalResult:
    """Renders the rays of every frame and compares them with their colours; see `evaluate`.

    Raises:
        LumigraphError: there are no frames, the rays lack what decides the renderer's colours, or a rendering is not
            finite.
    """
    renderer.eval()
    results, smallest = [], LPIPS_SMALLEST
    for index, frame in enumerate(frames):
        renderer.require_conditions(frame.rays)
        height, width = frame.rays.shape
        rays = frame.rays.to(renderer.device).flatten()
        if not results:
            renderer.render(rays[:WARM_UP_RAYS])
        start = time.perf_counter()
        parts = [renderer.render(part).rgb for part in rays.split(renderer.chunk)]
        image = torch.cat(parts).float().clamp(0, 1).cpu().reshape(height, width, 3)
        seconds = time.perf_counter() - start
        compared = _compare(frame.name, image, frame.rgb, None, lpips, seconds)
        times = frame.rays.times
        results.append(compared if times is None else replace(compared, time=float(times.flatten()[0])))
        smallest = min(smallest, height, width)
        if watch is not None:
            watch(index, results[-1], frame.rgb, image)
    if not results:
        raise LumigraphError("there are no frames to evaluate on", todo="Give a folder that has some")
    return EvalResult(results, _reason(lpips, lpips_reason, smallest))


def _reason(lpips: LPIPS | None, reason: str | None, smallest: int) -> str | None:
    """Why there is no LPIPS, where there is none; `smallest`: the smallest side of a picture."""
    small = lpips is not None and smallest < LPIPS_SMALLEST
    return f"pictures are smaller than {LPIPS_SMALLEST} pixels" if small else reason


def _fitted(
    renderer: Renderer, camera: Cameras, rgba: Float[Tensor, "H W 4"], mask: Tensor | None
) -> AbstractContextManager[None]:
    """The renderer with its code fitted to some pixels of the left half of an image, spread evenly over it."""
    left = torch.zeros(rgba.shape[:2], dtype=torch.bool)
    left[:, : rgba.shape[1] // 2] = True
    places = torch.nonzero((left if mask is None else left & mask).flatten())[:, 0]
    if not len(places):
        raise LumigraphError(
            "the left half of a view has no pixel that a code could be fitted to",
            todo="Take larger pictures or masks that leave some of it, or another --codes",
        )
    places = places[:: max(1, len(places) // FIT_PIXELS)]
    rays = camera.to(renderer.device).view_rays(0).flatten()
    return renderer.fitted_to(
        rays[places.to(renderer.device)], rgba.flatten(0, 1)[places].to(renderer.device)
    )


@torch.no_grad()
def _render(renderer: Renderer, camera: Cameras) -> tuple[Rendering, Tensor, Tensor | None]:
    """One view, and of it the picture [H, W, 3] and the depth [H, W], if any, on the CPU, which also waits for a device
    to finish."""
    view = renderer.view(camera)
    depth = None if view.depth is None else view.depth.float().cpu()
    return view, view.rgb.float().clamp(0, 1).cpu(), depth


def _mask_errors(seen: Rendering, truth: Tensor | None, attributes: Sequence[str]) -> dict[str, MaskError]:
    found = seen.extras.get("attribute_masks")
    return {} if found is None or truth is None else mask_errors(found.float().cpu(), truth, attributes)


def _depth_error(depth: Tensor, truth: Tensor | None, units: tuple[float, float]) -> DepthError | None:
    known = None if truth is None else torch.isfinite(truth)
    if truth is None or known is None or not bool(known.any()):
        return None
    error = (depth[known].double() * units[0] - truth[known].double() * units[1]).abs()
    return DepthError(
        mean=float(error.mean()),
        median=float(error.median()),
        rms=float(error.square().mean().sqrt()),
        pixels=len(error),
    )


@torch.no_grad()
def _warm_up(renderer: Renderer, cameras: Cameras) -> None:
    """Lets kernels compile and memory be reserved before the clock starts."""
    if type(renderer).view is not Renderer.view:  # it has its own way to a whole view
        renderer.view(cameras[0])
        return
    rays = cameras[0].to(renderer.device).view_rays(0).flatten()
    count = min(WARM_UP_RAYS, len(rays))
    renderer.render(rays[(len(rays) - count) // 2 : (len(rays) + count) // 2])


def _compare(
    name: str,
    image: Tensor,
    truth: Tensor,
    mask: Tensor | None,
    lpips: LPIPS | None,
    seconds: float,
) -> ViewResult:
    """The figures of a picture where the mask is true, everywhere without one."""
    if not bool(torch.isfinite(image).all()):
        raise LumigraphError("the rendering of this view is not finite", where=name, todo="Train again")
    side = min(image.shape[:2])
    similarity = ssim(image, truth, mask) if side >= SSIM_WINDOW else None
    of_scales = ms_ssim(image, truth, mask) if side >= SSIM_WINDOW else None
    distance = None
    if lpips is not None and side >= LPIPS_SMALLEST:
        distance = lpips(image if mask is None else torch.where(mask[..., None], image, truth), truth)
    if mask is not None and not bool(mask.any()):
        raise LumigraphError(
            "the mask of this view leaves no pixel",
            where=name,
            todo="Remove the view or mend its mask",
        )
    error = mean_squared_error(image, truth, mask)
    return ViewResult(
        name=name,
        psnr=psnr_of(error),
        ssim=_number(similarity),
        ms_ssim=_number(of_scales),
        ms_ssim_scales=ms_ssim_scales(*image.shape[:2]),
        lpips=distance,
        seconds=seconds,
        mse=error,
    )


def _number(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def cameras_for(info: SceneInfo, scene: Scene, split: str, conditions: tuple[str, ...] = ()) -> Cameras:
    """The cameras of a scene's split in the units of the scene that a renderer was trained on (`info`). `conditions`:
    what decides its colours beside the ray; what else the scene has, such as times that a still renderer does not know
    of, is no matter.

    Raises:
        LumigraphError: the scene has another background policy, no such split, or lacks a condition or has others.
    """
    if scene.info.background != info.background:
        raise LumigraphError(
            f"the scene has the background {scene.info.background!r}, the renderer was trained on {info.background!r}",
            where=scene.info.source,
            todo="Evaluate on a scene with the same background",
        )
    cameras = scene.split(split).cameras
    for name in conditions:
        if getattr(cameras, name) is None:
            raise LumigraphError(
                f"this scene has no {name}, by which the renderer's colours go",
                where=scene.info.source,
                todo="Evaluate on a scene of the same kind",
            )
    if "attributes" in conditions and scene.info.attributes != info.attributes:
        raise LumigraphError(
            f"the attributes of this scene are {_listed(scene.info.attributes)}, those trained on were "
            f"{_listed(info.attributes)}",
            where=scene.info.source,
            todo="Evaluate on a scene with the same attributes, in the same order",
        )
    if torch.equal(scene.info.world_transform, info.world_transform):
        return cameras
    return cameras.transformed(info.world_transform @ scene.info.to_capture)


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "none that have a name"
