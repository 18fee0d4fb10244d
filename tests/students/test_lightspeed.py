"""LightSpeed: coordinates of rays, sizes, learning beside MobileR2L, resuming, what is refused."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lumigraph.configs.common import TrainOptions
from lumigraph.configs.lightspeed import PRESETS, LightSpeedConfig
from lumigraph.distillation.live import LivePictures
from lumigraph.distillation.poses import sample_poses
from lumigraph.errors import LumigraphError
from lumigraph.evaluation.metrics import psnr_of
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.ndc import ForwardFrame
from lumigraph.rendering.renderer import Pictures
from lumigraph.scenes.procedural import make_scene
from lumigraph.scenes.scene import SceneInfo
from lumigraph.students.lightspeed import LightSpeed
from lumigraph.training.begin import begin
from lumigraph.training.checkpoints import newest_checkpoint
from lumigraph.training.fit import fit
from lumigraph.training.interrupts import Interrupts
from lumigraph.training.runs import Run

from .painted_ball import PaintedBall

TINY = LightSpeedConfig(
    width=16, blocks=1, up_factors=(2, 2), up_widths=(12, 8), up_blocks=1, pictures=2, warmup_steps=2,
    resolutions=(8, 16), features=2,
)  # fmt: skip
FRAME = ForwardFrame(torch.tensor([[1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 0]]), (0.5, 0.5), 1.0)


def scene_info(size: int = 24, views: int = 6) -> SceneInfo:
    return make_scene("still", views, 2, 0, size=size).info


def student(config: LightSpeedConfig = TINY) -> LightSpeed:
    torch.manual_seed(0)
    return LightSpeed(config, "white", None, (0.1, -0.2, 0.3), 1.5)


# ------------------------------------------------------------------------------------- coordinates


def test_a_ray_is_its_point_nearest_to_the_centre_and_its_direction() -> None:
    """Whatever its origin, and the length of its direction: Plücker coordinates with the moment turned."""
    model = student()
    torch.manual_seed(1)
    origins, directions = torch.randn(200, 3), torch.randn(200, 3)
    found = model.coordinates(origins, directions)
    moved = model.coordinates(origins - 1.7 * directions, 3 * directions)
    torch.testing.assert_close(found, moved, atol=1e-5, rtol=1e-5)
    unit = directions / directions.norm(dim=-1, keepdim=True)
    moment = torch.linalg.cross((origins - torch.tensor([0.1, -0.2, 0.3])) / 1.5, unit)
    torch.testing.assert_close(found, torch.cat([torch.linalg.cross(unit, moment), unit], 1))
    inside = moment.norm(dim=1) < 1
    assert float(found[inside].abs().max()) <= 1


def test_forward_facing_scenes_have_a_light_slab() -> None:
    info = replace(scene_info(), forward=FRAME)
    ahead = replace(info.cameras["train"], camera_to_world=FRAME.camera_to_world.expand(6, 3, 4))
    model = LightSpeed.from_scene(TINY, replace(info, cameras={"train": ahead}))
    rays = model.grid(ahead[:1]).flatten()
    ndc = FRAME.rays(rays)
    planes = torch.cat([ndc.origins[:, :2], (ndc.origins + ndc.directions)[:, :2]], 1)
    found = model.coordinates(rays.origins, rays.directions)
    torch.testing.assert_close(found, planes / torch.tensor(model.reach))
    assert float(found.abs().max()) < 1
    assert model.network.head.in_channels == 6 * 2 * 2
    torch.testing.assert_close(ndc.origins[:, 2], -torch.ones(len(planes)), atol=1e-5, rtol=0)
    world = LightSpeed.from_scene(replace(TINY, ray_space="world"), info)
    assert (world.frame, world.radius) == (None, float(info.bounds.half_extent.max()))
    with pytest.raises(LumigraphError, match="normalised device coordinates"):
        LightSpeed.from_scene(replace(TINY, ray_space="ndc"), scene_info())


# ------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize("name", PRESETS)
def test_presets_say_their_sizes(name: str) -> None:
    config = PRESETS[name]
    with torch.device("meta"):
        model = LightSpeed(config, "white")
    weights = [*model.network.folded().parameters(), *model.grids.parameters()]
    assert config.parameters == sum(parameter.numel() for parameter in weights)
    assert config.inputs == model.network.head.in_channels
    assert f"{config.parameters:,} parameters" in config.about
    places = math.ceil(801 / config.patch) * math.ceil(640 / config.patch)
    network = replace(config, features=1, resolutions=(2,))
    fewer = config.multiplications(801, 640) - network.multiplications(801, 640)
    assert fewer == pytest.approx(places * (config.width + 4) * (config.inputs - 15), abs=2)


def test_grids_need_points() -> None:
    with pytest.raises(ValueError, match="resolutions must be some numbers of at least 2"):
        LightSpeedConfig(resolutions=(16, 1))


# ------------------------------------------------------------------------------------- learning


def live(info: SceneInfo, pool: int = 64, kept: int = 64) -> LivePictures:
    return LivePictures(PaintedBall(), sample_poses("fitted", pool, 0, info.cameras["train"]), 0, kept=kept)


def test_gradients_are_finite() -> None:
    model, cameras = student(), scene_info().cameras["train"][:2]
    model.losses(Pictures(cameras, torch.rand(2, 24, 24, 4)), 0, 0).terms["rgb"].backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_it_learns_a_scene() -> None:
    info = scene_info(24)
    config = replace(TINY, width=32, up_widths=(24, 12), pictures=4, lr=5e-3, warmup_lr=1e-3)
    torch.manual_seed(0)
    model = LightSpeed.from_scene(config, info)
    source, optimiser, steps = live(info, 150, 150), model.make_optimiser(), 150
    rates = [group["lr"] for group in optimiser.param_groups]
    assert rates == [5e-3, 0.02]
    for step in range(steps):
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * model.lr_scale(step, step / steps)
        optimiser.zero_grad()
        model.losses(source.pictures(step, config.pictures), step, 0).terms["rgb"].backward()
        optimiser.step()
    held: Cameras = info.cameras["val"]
    errors = [
        float((model.view(held[i]).rgb - PaintedBall().view(held[i]).rgb).square().mean()) for i in range(2)
    ]
    assert sum(map(psnr_of, errors)) / 2 > 20


def trained(info: SceneInfo, folder: Path, steps: int, resume: bool = False) -> Run:
    options = TrainOptions(run=folder, max_steps=steps, device="cpu", precision="float32", resume=resume)
    run = begin("lightspeed", replace(TINY, training_steps=8), info, options)
    torch.manual_seed(0)
    fit(run.new_renderer(), live(info, 12, 5), run, options, interrupts=Interrupts())
    return run


def test_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    info = scene_info()
    whole = trained(info, tmp_path / "whole", 8)
    trained(info, tmp_path / "parts", 5)
    parts = trained(info, tmp_path / "parts", 8, resume=True)
    states = [newest_checkpoint(run.checkpoints, print) for run in (whole, parts)]
    assert "renderer.grids.grids.0" in states[0].tensors
    assert states[0].tensors.keys() == states[1].tensors.keys()
    for name, tensor in states[0].tensors.items():
        assert torch.equal(tensor, states[1].tensors[name]), name
    seen = [run.load_renderer("cpu").view(info.cameras["val"][0]).rgb for run in (whole, parts)]
    assert torch.equal(*seen)
