"""Pictures of an analytic scene: each pixel is the mean of a fixed grid of exact samples."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lumigraph.geometry.cameras import Cameras
from lumigraph.scenes.procedural.tracing import BLOCK, CHUNK, AnalyticScene

SAMPLES = 4
"""Samples of a pixel along each side."""


@dataclass(frozen=True)
class Painting:
    """`rgba` [H, W, 4]: premultiplied sRGB and alpha in [0, 1]. `coverage` [H, W, A]: the share of each pixel that
    shows what attribute a moves."""

    rgba: Float[Tensor, "H W 4"]
    coverage: Float[Tensor, "H W A"]


def paint(scene: AnalyticScene, camera: Cameras, samples: int = SAMPLES) -> Painting:
    """The picture that one camera (`len(camera) == 1`) takes, from samples x samples rays for each pixel."""
    width, height = camera.size[0].tolist()
    x, y = _tiled_pixels(width, height, samples)
    fine = camera.resized(samples * width, samples * height)
    step = torch.arange(samples)
    index = torch.zeros(1, 1, 1, dtype=torch.int64)
    rgba = torch.empty(height, width, 4)
    coverage = torch.empty(height, width, scene.attributes)
    for some_x, some_y in zip(x.split(CHUNK // samples**2), y.split(CHUNK // samples**2), strict=True):
        across = samples * some_x[:, None, None] + step[None, None, :]
        down = samples * some_y[:, None, None] + step[None, :, None]
        traced = scene.trace(fine.rays(index, across, down))
        rgba[some_y, some_x] = torch.cat([traced.rgb, traced.alpha[..., None]], -1).mean((1, 2))
        owners = traced.attribute[..., None] == torch.arange(scene.attributes)
        coverage[some_y, some_x] = owners.float().mean((1, 2))
    return Painting(rgba, coverage)


def depth_map(scene: AnalyticScene, camera: Cameras) -> Float[Tensor, "H W"]:
    """z-depth at the pixel centres of one camera, NaN where the ray through the centre meets nothing."""
    return scene.trace(camera.view_rays(0)).depth


def _tiled_pixels(width: int, height: int, samples: int) -> tuple[Tensor, Tensor]:
    """All pixels (x, y), tile by tile, so that the rays of a block are neighbours in both directions."""
    side = max(1, round((BLOCK / samples**2) ** 0.5))
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    order = ((y // side) * (width + side) + x // side).reshape(-1).argsort(stable=True)
    return x.reshape(-1)[order], y.reshape(-1)[order]
