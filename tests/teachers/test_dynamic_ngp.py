"""The dynamic hash-grid teacher: it learns what moves, asks rays for their times, and is the same at every time that it
is told."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lumigraph.cli.main import main
from lumigraph.configs.dynamic_ngp import DynamicNGPConfig
from lumigraph.configs.ngp import NGPConfig
from lumigraph.errors import LumigraphError
from lumigraph.geometry.bounds import Bounds
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.marched_field import MarchedField
from lumigraph.rendering.renderer import Batch
from lumigraph.scenes.procedural import load_builtin
from lumigraph.scenes.scene import Scene
from lumigraph.teachers.dynamic_ngp import DynamicNGP
from lumigraph.teachers.ngp import NGP
from lumigraph.training.sources import PhotoSource

GRID = {"levels": 4, "features": 4, "log2_entries": 12, "finest_resolution": 64}
SMALL = DynamicNGPConfig(
    **GRID, cells=32, steps=96, samples=4096,
    time_levels=3, time_features=4, time_log2_entries=12, time_base_resolution=8, time_finest_resolution=32,
    time_share=0.5,
)  # fmt: skip
STILL = NGPConfig(**GRID, cells=32, steps=96, samples=4096)


def small(**changed: object) -> DynamicNGP:
    torch.manual_seed(0)
    config = replace(SMALL, **changed)
    return DynamicNGP(config, Bounds(-torch.ones(3), torch.ones(3)), "white", 1)


def some_rays(count: int, times: torch.Tensor | None) -> Rays:
    generator = torch.Generator().manual_seed(0)
    origins = torch.randn(count, 3, generator=generator)
    origins = 3 * origins / origins.norm(dim=1, keepdim=True)
    directions = 0.3 * torch.randn(count, 3, generator=generator) - origins / 3
    near, far = torch.full((count,), 0.1), torch.full((count,), 9.0)
    ids = torch.zeros(count, dtype=torch.long)
    return Rays(origins, directions, torch.full((count,), 0.01), near, far, times=times, camera_ids=ids)


def learnt(renderer: MarchedField, scene: Scene, steps: int) -> float:
    """Trains in a plain loop; the mean PSNR over the held-out views."""
    source, optimiser = PhotoSource(scene.split("train"), 0), renderer.make_optimiser()
    for step in range(steps):
        renderer.begin_step(step, step / steps, 0)
        losses = renderer.losses(source.batch(step, renderer.rays_per_step), step, 0)
        optimiser.zero_grad()
        torch.stack(list(losses.terms.values())).sum().backward()
        optimiser.step()
    views, found = scene.split("test"), []
    for i in range(len(views)):
        truth = torch.as_tensor(views.image(i)).float() / 255
        truth = truth[..., :3] + 1 - truth[..., 3:]
        found.append(-10 * (renderer.view(views.cameras[i]).rgb - truth).square().mean().log10().item())
    return sum(found) / len(found)


def test_learns_a_scene_that_moves() -> None:
    scene = load_builtin("moving:32")
    torch.manual_seed(0)
    moving = learnt(DynamicNGP.from_scene(SMALL, scene.info), scene, 250)
    torch.manual_seed(0)
    still = learnt(NGP.from_scene(STILL, scene.info), scene, 250)
    assert moving > 22
    assert moving > still + 2


def test_every_ray_sees_its_own_time() -> None:
    """Rays of mixed times show what each time alone shows, in any pieces."""
    renderer = small()
    for table in renderer.moving.tables:
        torch.nn.init.normal_(table)
    times = torch.linspace(0, 1, 60)
    rays = some_rays(60, times)
    whole = renderer.render(rays)
    parts = [renderer.render(part) for part in rays.split(17)]
    torch.testing.assert_close(torch.cat([part.rgb for part in parts]), whole.rgb, rtol=0, atol=1e-6)
    still = renderer.render(some_rays(60, torch.zeros(60)))
    assert torch.equal(still.rgb[0], whole.rgb[0])
    assert (still.rgb - whole.rgb)[30:].abs().max() > 0.01
    assert "depth_median" in whole.extras


def test_a_grid_of_time_that_says_nothing_leaves_a_still_scene() -> None:
    """Features that do not change along time, whatever they are, show every time alike."""
    renderer = small(time_base_resolution=2, time_finest_resolution=2, time_share=1e-6)
    first, last = (renderer.render(some_rays(20, torch.full((20,), time))) for time in (0.0, 1.0))
    torch.testing.assert_close(first.rgb, last.rgb, rtol=0, atol=1e-5)


def test_losses_have_gradients_everywhere() -> None:
    renderer = small(refine_cameras=True, opacity_weight=1e-3)
    batch = Batch(some_rays(128, torch.rand(128)), torch.rand(128, 4))
    losses = renderer.losses(batch, 0, 0)
    assert {"rgb", "opacity", "distortion"} <= set(losses.terms)
    torch.stack(list(losses.terms.values())).sum().backward()
    for group in renderer.optimisers():
        for parameter in group.parameters:
            assert parameter.grad is not None, group.name
            assert torch.isfinite(parameter.grad).all()
            assert parameter.grad.any()
    assert {id(p) for group in renderer.optimisers() for p in group.parameters} == {
        id(p) for p in renderer.parameters()
    }


def test_occupancy_keeps_what_is_there_at_some_time_only() -> None:
    """Updates look at other times at every step, and the same at the same step."""
    renderer = small()
    first, again = renderer.random_times(100, 16, 0), renderer.random_times(100, 16, 0)
    assert torch.equal(first, again)
    assert not torch.equal(first, renderer.random_times(100, 32, 0))
    assert ((first >= 0) & (first < 1)).all()


def test_recovery_starts_over() -> None:
    renderer = small()
    before = [table.detach().clone() for table in renderer.moving.tables]
    renderer.occupancy.occupied.zero_()
    assert renderer.recover(7)
    assert renderer.occupancy.occupied.all()
    assert not any(torch.equal(a, b) for a, b in zip(before, renderer.moving.tables, strict=True))


def test_a_scene_without_times_is_refused() -> None:
    with pytest.raises(LumigraphError, match="photos have no times"):
        DynamicNGP.from_scene(SMALL, load_builtin("still:16").info)


def test_rays_without_times_are_refused() -> None:
    with pytest.raises(LumigraphError, match="rays without times"):
        small().render(some_rays(4, None))


@pytest.mark.parametrize("wrong", [{"time_share": 0.0}, {"time_levels": 0}, {"time_finest_resolution": 4}])
def test_impossible_grids_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(SMALL, **wrong)


def test_the_command_line_trains_resumes_and_evaluates(tmp_path: Path) -> None:
    """n steps, a stop and m steps are n + m steps, bit for bit; and the run renders a movie through time."""
    options = [
        "--log2-entries", "10", "--time-log2-entries", "10", "--cells", "16", "--steps", "48",
        "--samples", "512", "--device", "cpu",
    ]  # fmt: skip

    def train(run: str, steps: int, *more: str) -> None:
        arguments = ["train", "dynamic-ngp", "builtin:moving:16", "--run", str(tmp_path / run)]
        assert main([*arguments, "--max-steps", str(steps), *options, *more]) == 0

    train("whole", 24)
    train("parts", 10)
    train("parts", 24, "--resume")
    whole, parts = ((tmp_path / run / "weights.safetensors").read_bytes() for run in ("whole", "parts"))
    assert whole == parts
    assert main(["eval", str(tmp_path / "whole"), "--device", "cpu"]) == 0
