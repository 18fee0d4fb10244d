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
    """Of N views, `rgba` [N, H, W, 4]: premultiplied sRGB and alpha in [0, 1]. `coverage` [N, H, W, A]: the share of
    each pixel that shows what attribute a moves."""

    rgba: Float[Tensor, "N H W 4"]
    coverage: Float[Tensor, "N H W A"]


@dataclass(frozen=True)
class Surfaces:
    """What the rays through the pixel centres of N views meet: `depth` [N, H, W] along the cameras' axes, and unit
    `normals` [N, H, W, 3] in world axes; NaN where they meet nothing."""

    depth: Float[Tensor, "N H W"]
    normals: Float[Tensor, "N H W 3"]


def views_together(width: int, height: int, samples: int = SAMPLES) -> int:
    """How many views of this size are best painted together: as many as fill a chunk of rays. What a view costs beside
    its rays is most of what a small one costs."""
    return max(1, CHUNK // (width * height * samples**2))


def paint(scene: AnalyticScene, cameras: Cameras, samples: int = SAMPLES) -> Painting:
    """The pictures that cameras of one size take, from samples x samples rays for each pixel."""
    width, height = cameras.size[0].tolist()
    tile_x, tile_y = _tiled_pixels(width, height, samples)
    view = torch.arange(len(cameras)).repeat_interleave(width * height)
    x, y = tile_x.repeat(len(cameras)), tile_y.repeat(len(cameras))
    fine = cameras.resized(samples * width, samples * height)
    step = torch.arange(samples)
    rgba = torch.empty(len(cameras), height, width, 4)
    coverage = torch.empty(len(cameras), height, width, scene.attributes)
    for some in torch.arange(len(x)).split(CHUNK // samples**2):
        index, some_x, some_y = view[some], x[some], y[some]
        across = samples * some_x[:, None, None] + step[None, None, :]
        down = samples * some_y[:, None, None] + step[None, :, None]
        traced = scene.trace(fine.rays(index[:, None, None], across, down))
        rgba[index, some_y, some_x] = torch.cat([traced.rgb, traced.alpha[..., None]], -1).mean((1, 2))
        owners = traced.attribute[..., None] == torch.arange(scene.attributes)
        coverage[index, some_y, some_x] = owners.float().mean((1, 2))
    return Painting(rgba, coverage)


def surfaces(scene: AnalyticScene, cameras: Cameras) -> Surfaces:
    """What cameras of one size see at the centres of their pixels."""
    width, height = cameras.size[0].tolist()
    index = torch.arange(len(cameras))[:, None, None]
    traced = scene.trace(cameras.rays(index, torch.arange(width), torch.arange(height)[:, None]))
    return Surfaces(traced.depth, traced.normals)


def _tiled_pixels(width: int, height: int, samples: int) -> tuple[Tensor, Tensor]:
    """All pixels (x, y), tile by tile, so that the rays of a block are neighbours in both directions."""
    side = max(1, round((BLOCK / samples**2) ** 0.5))
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    order = ((y // side) * (width + side) + x // side).reshape(-1).argsort(stable=True)
    return x.reshape(-1)[order], y.reshape(-1)[order]
