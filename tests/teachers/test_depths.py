"""Depth means the same of every method that integrates along rays."""

from dataclasses import replace

import pytest
import torch

from lumigraph.configs.mipnerf import MipNeRFConfig
from lumigraph.configs.mipnerf360 import MipNeRF360Config
from lumigraph.configs.nerf import NeRFConfig
from lumigraph.configs.ngp import NGPConfig
from lumigraph.geometry.bounds import Bounds
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.renderer import Renderer, Rendering
from lumigraph.rendering.volume.histogram import EMPTY
from lumigraph.scenes.load import load_scene
from lumigraph.scenes.scene import SceneInfo
from lumigraph.teachers.mipnerf import MipNeRF
from lumigraph.teachers.mipnerf360 import MipNeRF360
from lumigraph.teachers.nerf import NeRF
from lumigraph.teachers.ngp import NGP

GRID = {"levels": 4, "log2_entries": 12, "finest_resolution": 64}


@pytest.fixture(scope="module")
def info() -> SceneInfo:
    return load_scene("builtin:still:16").info


def teachers(info: SceneInfo, unbounded: bool) -> dict[str, Renderer]:
    """Untrained fields of random density, thin enough for light to come from all of a ray."""
    torch.manual_seed(0)
    info = replace(info, bounds=Bounds(info.bounds.lower, info.bounds.upper, unbounded))
    ngp = NGP.from_scene(NGPConfig(features=4, cells=32, **GRID), info)
    mipnerf = MipNeRF.from_scene(MipNeRFConfig(coarse_samples=16, fine_samples=16, **GRID), info)
    proposals = MipNeRF360Config(proposal_samples=(16,), samples=16, **GRID)
    mipnerf360 = MipNeRF360.from_scene(proposals, info)
    for grid in (ngp.grid, mipnerf.field.grid, mipnerf360.field.encoder.grid):  # pyright: ignore
        torch.nn.init.normal_(grid.table, std=3)
    nerf = NeRFConfig(depth=3, width=16, view_width=8, skip=1, samples=16, importance=16)
    return {
        "ngp": ngp,
        "mipnerf": mipnerf,
        "mipnerf360": mipnerf360,
        "nerf": NeRF.from_scene(replace(nerf, density="softplus"), info),
    }


def rays_of(info: SceneInfo) -> Rays:
    """Half of them through the scene, half away from it."""
    rays = info.cameras["train"][:2].view_rays(0).flatten()
    away = replace(rays, directions=-rays.directions)
    both = [torch.cat([getattr(part, name) for part in (rays, away)]) for name in ("origins", "directions")]
    rest = {name: getattr(rays, name).repeat(2) for name in ("radii", "near", "far", "camera_ids")}
    return Rays(*both, **rest)


@pytest.mark.parametrize("unbounded", [False, True])
@pytest.mark.parametrize("method", ["ngp", "nerf", "mipnerf", "mipnerf360"])
def test_all_methods_tell_the_same_depths(method: str, unbounded: bool, info: SceneInfo) -> None:
    rays, renderer = rays_of(info), teachers(info, unbounded)[method]
    seen: Rendering = renderer.render(rays)
    assert set(seen.extras) == {"depth_median", "depth_raw"}
    assert seen.depth is not None
    assert seen.opacity is not None
    empty = seen.opacity < EMPTY
    there, raw, median = ~empty, seen.extras["depth_raw"], seen.extras["depth_median"]
    assert there.sum() > 100
    torch.testing.assert_close((raw / seen.opacity)[there], seen.depth[there])
    for depth in (seen.depth, median):
        assert torch.equal(depth[empty], rays.far[empty])
        assert ((depth > 0) & (depth <= rays.far * 1.001)).all()
    assert not torch.allclose(median[there], seen.depth[there], rtol=1e-4)
