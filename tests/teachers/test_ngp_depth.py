"""Instant-NGP with known depth: few views teach it more with it, and nothing changes without it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lumigraph.cli.main import main
from lumigraph.configs.depth import DepthLoss
from lumigraph.configs.ngp import NGPConfig
from lumigraph.evaluation.evaluate import evaluate
from lumigraph.files import read_json
from lumigraph.scenes.procedural import make_scene
from lumigraph.scenes.scene import Scene
from lumigraph.scenes.splits import few
from lumigraph.teachers.ngp import NGP
from lumigraph.training.sources import PhotoSource

SMALL = NGPConfig(
    levels=4, features=4, log2_entries=12, finest_resolution=64, cells=32, steps=96, samples=4096
)
STEPS = 250


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene("still", views_train=24, views_val=0, views_test=3, size=32)


def three(scene: Scene) -> Any:
    views = scene.split("train")
    return views.subset(few(views.cameras.positions.tolist(), 3, "farthest", "scene"))


def held_out(scene: Scene, depth: DepthLoss) -> tuple[float, float]:
    """PSNR and depth error on held-out views after training on three."""
    torch.manual_seed(0)
    renderer = NGP.from_scene(replace(SMALL, depth=depth), scene.info)
    source = PhotoSource(three(scene), 0, depths=depth.needs_depth)
    optimiser = renderer.make_optimiser()
    for step in range(STEPS):
        renderer.begin_step(step, step / STEPS, 0)
        losses = renderer.losses(source.batch(step, renderer.rays_per_step), step, 0)
        optimiser.zero_grad()
        torch.stack(list(losses.terms.values())).sum().backward()
        optimiser.step()
    result = evaluate(renderer, scene.split("test"))
    assert result.depth is not None
    return result.psnr, result.depth["mean"]


@pytest.mark.slow
def test_bounds_on_weights_help_with_few_views(scene: Scene) -> None:
    without = held_out(scene, DepthLoss())
    bounded = held_out(scene, DepthLoss(depth_loss="swb"))
    assert bounded[0] > without[0] + 0.5
    assert bounded[1] < without[1]


@pytest.mark.parametrize("name", ["l2", "urf", "dsnerf", "swb"])
def test_every_loss_gives_a_finite_gradient(scene: Scene, name: Any) -> None:
    config = replace(SMALL, depth=DepthLoss(depth_loss=name, depth_sky_weight=0.1))
    renderer = NGP.from_scene(config, scene.info)
    renderer.begin_step(0, 0.0, 0)
    terms = renderer.losses(PhotoSource(three(scene), 0, depths=True).batch(0, 256), 0, 0).terms
    assert {"depth", "sky"} <= set(terms)
    terms["depth"].backward()
    gradient = renderer.grid.table.grad
    assert gradient is not None
    assert bool(torch.isfinite(gradient).all())
    assert float(gradient.abs().sum()) > 0


def test_a_batch_without_depth_has_no_term(scene: Scene) -> None:
    renderer = NGP.from_scene(replace(SMALL, depth=DepthLoss(depth_loss="swb")), scene.info)
    assert "depth" not in renderer.losses(PhotoSource(three(scene), 0).batch(0, 64), 0, 0).terms


def test_train_with_depth_and_few_views_keeps_them_and_eval_reports_the_error(tmp_path: Path) -> None:
    run = tmp_path / "run"
    small = [
        "--levels",
        "4",
        "--log2-entries",
        "12",
        "--finest-resolution",
        "64",
        "--cells",
        "16",
        "--steps",
        "64",
    ]
    options = ["--views", "3", "--select", "uniform", "--depth-loss", "swb", "--keep-depth", "0.5"]
    scene = ["train", "ngp", "builtin:still:16", "--run", str(run), "--max-steps", "20", "--samples", "1024"]
    assert main([*scene, "--device", "cpu", *small, *options]) == 0
    stored = read_json(run / "scene.json")
    assert len(stored["cameras"]["train"]["ids"]) == 3
    assert read_json(run / "config.json")["config"]["depth"]["depth_loss"] == "swb"
    assert main(["eval", str(run), "--device", "cpu", "--json", str(tmp_path / "eval.json")]) == 0
    result = read_json(tmp_path / "eval.json")
    assert result["depth_error"]["views"] == 8
    assert result["depth_error"]["median"] > 0
    assert result["per_view"][0]["depth_error"]["pixels"] > 0
    assert main(["eval", str(run), "--device", "cpu", "--split", "train"]) == 0
