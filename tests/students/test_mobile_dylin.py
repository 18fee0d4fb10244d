"""MobileDyLiN: reduction to MobileR2L, moved rays and hyper code, sizes, unknown attributes, learning scenes that move
and scenes that attributes control."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lumigraph.configs.common import TrainOptions
from lumigraph.configs.mobile_dylin import PRESETS, MobileDyLiNConfig
from lumigraph.configs.mobile_r2l import MobileR2LConfig
from lumigraph.configs.registry import methods
from lumigraph.distillation.live import LivePictures
from lumigraph.distillation.poses import sample_poses
from lumigraph.errors import LumigraphError
from lumigraph.evaluation.metrics import psnr_of
from lumigraph.fields.ray_code import positional_encoding
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.renderer import Pictures, Renderer, Rendering
from lumigraph.scenes.procedural import make_scene
from lumigraph.scenes.scene import SceneInfo, Views
from lumigraph.students.mobile_dylin import MobileDyLiN
from lumigraph.students.mobile_r2l import MobileR2L
from lumigraph.training.begin import begin
from lumigraph.training.checkpoints import newest_checkpoint
from lumigraph.training.fit import fit
from lumigraph.training.interrupts import Interrupts
from lumigraph.training.runs import Run
from lumigraph.training.sources import PhotoSource

PICTURE = {
    "points": 4, "octaves": 3, "width": 16, "blocks": 2, "up_factors": (2, 2), "up_widths": (12, 8), "up_blocks": 1,
    "pictures": 2, "warmup_steps": 2,
}  # fmt: skip
MOTION = {
    "motion_octaves": 2, "offset_width": 12, "offset_layers": 4, "hyper_width": 10, "hyper_layers": 4, "hyper_dims": 2,
}  # fmt: skip
TINY = MobileDyLiNConfig(**PICTURE, **MOTION)


def student(config: MobileDyLiNConfig = TINY, attributes: int = 2, timed: bool = True) -> MobileDyLiN:
    torch.manual_seed(0)
    return MobileDyLiN(config, 2.5, 5.5, "white", None, attributes, timed)


def scrambled(model: MobileDyLiN) -> MobileDyLiN:
    """With heads that are not zero."""
    torch.manual_seed(5)
    with torch.no_grad():
        for head in (model.offset.output, model.hyper.output):
            head.weight.normal_(0, 0.3)
            head.bias.normal_(0, 0.3)
    return model


def cameras(size: int = 24, views: int = 6) -> Cameras:
    seen = make_scene("attributes", views, 2, 0, size=size).info.cameras["train"]
    return replace(seen, times=torch.linspace(0, 1, views))


def pictures(count: int = 2) -> Pictures:
    generator = torch.Generator().manual_seed(2)
    rgba = torch.rand(count, 24, 24, 4, generator=generator)
    rgba[..., :3] *= rgba[..., 3:]
    return Pictures(cameras()[:count], rgba)


class ChangingBall(Renderer):
    """A ball that rises with time and is as red as an attribute says, by a formula: a teacher that knows everything."""

    background = "white"

    def __init__(self, *conditions: str) -> None:
        super().__init__()
        self.conditions = conditions

    def render(self, rays: Rays) -> Rendering:
        directions, origins = rays.view_directions, rays.origins
        if "times" in self.conditions:
            height = 1.2 * rays.times[..., None] - 0.6
            origins = origins - height * torch.tensor([0.0, 0, 1])
        middle = -(origins * directions).sum(-1)
        gap = middle**2 - (origins.square().sum(-1) - 0.7**2)
        normals = (origins + (middle - gap.clamp(min=0).sqrt())[..., None] * directions) / 0.7
        rgb = (0.5 + 0.4 * normals).clamp(0, 1)
        if "attributes" in self.conditions:
            red = 0.5 + 0.5 * rays.attributes[..., :1]
            rgb = torch.cat([red, rgb[..., 1:]], -1)
        return Rendering(torch.where((gap > 0)[..., None], rgb, 1.0))


# ------------------------------------------------------------------------------------- what it is


def test_without_motion_it_is_mobile_r2l() -> None:
    """Heads of zeros and no hyper code: bit for bit, in views, losses and gradients."""
    moving = student(replace(TINY, hyper_dims=0, perturb=True))
    still = MobileR2L(MobileR2LConfig(**PICTURE, perturb=True), 2.5, 5.5, "white")
    still.network.load_state_dict(moving.network.state_dict())
    losses = [model.losses(pictures(), 3, 0).terms["rgb"] for model in (moving, still)]
    assert torch.equal(*losses)
    for loss in losses:
        loss.backward()
    for first, second in zip(moving.network.parameters(), still.network.parameters(), strict=True):
        assert torch.equal(first.grad, second.grad)
    later = replace(cameras()[3], times=torch.ones(1))
    assert torch.equal(moving.view(later).rgb, still.view(later).rgb)


def test_rays_are_moved_and_the_code_stands_beside_them() -> None:
    model = scrambled(student())
    rays = model.grid(cameras()[:2])
    flat = rays.flatten()
    seen = torch.cat([flat.origins, flat.directions, flat.times[:, None], flat.attributes], 1)
    assert model.offset.hidden[0].in_features == 9 * 5
    encoded = positional_encoding(seen, 2)
    offset, hyper = model.offset(encoded), model.hyper(encoded)
    depths = torch.linspace(2.5, 5.5, 4)[:, None]
    points = (flat.origins + offset[:, :3])[:, None] + depths * (flat.directions + offset[:, 3:])[:, None]
    told = torch.cat([hyper, flat.times[:, None], flat.attributes], 1)
    wanted = positional_encoding(torch.cat([points.flatten(1), told], 1), 3)
    torch.testing.assert_close(
        model.codes(rays).permute(0, 2, 3, 1).flatten(0, 2), wanted, atol=1e-4, rtol=1e-4
    )
    code = model.hyper_code(rays)
    torch.testing.assert_close(code, told.detach().reshape(2, 6, 6, 5))
    before = model.view(cameras()[0]).rgb
    with model.edited(1, 0.7):
        assert float((model.hyper_code(rays)[..., 1] - 0.7).abs().max()) < 1e-6
        assert not torch.equal(model.view(cameras()[0]).rgb, before)
    assert torch.equal(model.view(cameras()[0]).rgb, before)


def test_scene_decides_what_it_goes_by() -> None:
    assert student().conditions == ("times", "attributes")
    moving = MobileDyLiN.from_scene(TINY, make_scene("moving", 3, 1, 0, size=8).info)
    controlled = MobileDyLiN.from_scene(TINY, make_scene("attributes", 3, 1, 0, size=8).info)
    assert (moving.conditions, controlled.conditions) == (("times",), ("attributes",))
    still = replace(cameras(), times=None)
    assert controlled.view(still[0]).rgb.shape == (24, 24, 3)
    with pytest.raises(LumigraphError, match="no times"):
        moving.view(still[0])


@pytest.mark.parametrize("name", PRESETS)
def test_presets_say_their_sizes(name: str) -> None:
    config = PRESETS[name]
    with torch.device("meta"):
        model = MobileDyLiN(config, 2.0, 6.0, "white")
    folded = [*model.network.folded().parameters(), *model.offset.parameters(), *model.hyper.parameters()]
    assert config.parameters == sum(parameter.numel() for parameter in folded)
    assert config.inputs == model.network.head.in_channels
    assert f"{config.parameters:,} parameters" in config.about
    small = sum(p.numel() for p in [*model.offset.parameters(), *model.hyper.parameters()] if p.ndim == 2)
    still = MobileR2LConfig(**{key: getattr(config, key) for key in MobileR2LConfig.__dataclass_fields__})
    hyper = 9 * (2 * config.octaves + 1) * config.width
    places = (800 // config.patch) ** 2 if 800 % config.patch == 0 else math.ceil(800 / config.patch) ** 2
    further = config.multiplications(800, 800) - still.multiplications(800, 800)
    assert further == pytest.approx(places * (small + hyper), abs=2)


def test_paper_presets_have_the_published_sizes() -> None:
    """MobileR2L's 4,143,107 and DyLiN's 137,606 and 40,200, the small networks and the head by their encodings; of the
    head, too, the 8 numbers of the hyper code and the time."""
    with torch.device("meta"):
        model = MobileDyLiN(PRESETS["paper"], 2.0, 6.0, "white")
    parts = [sum(p.numel() for p in part.parameters()) for part in (model.offset, model.hyper)]
    assert parts == [137_606, 40_200]
    assert PRESETS["paper"].parameters == 4_143_107 + 9 * 13 * 256 + 137_606 + 40_200
    assert "mobile-dylin" in methods()


# ------------------------------------------------------------------------------------- attributes that nobody knows


def test_pictures_of_unknown_attributes_are_not_learnt_from() -> None:
    model, drawn = student(), pictures(3)
    values = drawn.cameras.attributes.clone()
    values[1, 1] = math.nan
    unsure = Pictures(replace(drawn.cameras, attributes=values), drawn.rgba)
    changed = Pictures(unsure.cameras, drawn.rgba.clone())
    changed.rgba[1] = 0.3
    losses = [model.losses(batch, 0, 0) for batch in (unsure, changed)]
    assert torch.equal(losses[0].terms["rgb"], losses[1].terms["rgb"])
    assert losses[0].squared_error[1] == 0
    values[:, 1] = math.nan
    with pytest.raises(LumigraphError, match="no picture of the batch has known attributes"):
        model.losses(unsure, 0, 0)
    middle = replace(cameras()[:1], attributes=torch.zeros(1, 2))
    unknown = replace(middle, attributes=torch.full((1, 2), math.nan))
    assert torch.equal(scrambled(model).view(unknown).rgb, model.view(middle).rgb)


def test_photos_are_drawn_of_which_all_attributes_are_known() -> None:
    part = cameras(8, 4)
    values = part.attributes.clone()
    values[0], values[2, 1] = math.nan, math.nan
    views = Views.from_arrays(
        replace(part, attributes=values), list("abcd"), np.zeros((4, 8, 8, 4), np.uint8)
    )
    source = PhotoSource(views, 0, sampling=student().pixel_sampling())
    ids = torch.cat([source.pictures(step, 2).cameras.ids for step in range(12)])
    assert sorted(set(ids.tolist())) == [1, 3]
    values[:, 0] = math.nan
    with pytest.raises(LumigraphError, match="of no photo all attributes are known"):
        PhotoSource(views, 0, sampling=student().pixel_sampling())


# ------------------------------------------------------------------------------------- learning


def live(info: SceneInfo, pool: int = 64, kept: int = 64) -> LivePictures:
    conditions = [
        name for name in ("times", "attributes") if getattr(info.cameras["train"], name) is not None
    ]
    shown = sample_poses("fitted", pool, 0, info.cameras["train"], times="uniform")
    return LivePictures(ChangingBall(*conditions), shown, 0, kept=kept)


@pytest.mark.parametrize("name", ["moving", "attributes"])
def test_it_learns_how_a_scene_changes(name: str) -> None:
    """And knows it at moments and values that it has not seen; blind to them it could not come near."""
    info = make_scene(name, 8, 4, 0, size=24).info
    config = replace(
        TINY, octaves=2, width=32, up_widths=(24, 12), pictures=4, lr=6e-3, warmup_lr=2e-3, warmup_steps=20
    )
    torch.manual_seed(0)
    model = MobileDyLiN.from_scene(config, info)
    source, optimiser, steps = live(info, 150, 150), model.make_optimiser(), 260
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = config.lr * model.lr_scale(step, step / steps)
        optimiser.zero_grad()
        model.losses(source.pictures(step, config.pictures), step, 0).terms["rgb"].backward()
        optimiser.step()
    held = sample_poses("fitted", 8, 5, info.cameras["train"], times="uniform")
    blind = {n: torch.full_like(getattr(held, n), 0.5 if n == "times" else 0.0) for n in model.conditions}

    def psnr(asked: Cameras) -> float:
        errors = [
            float((model.view(asked[i]).rgb - source.teacher.view(held[i]).rgb).square().mean())
            for i in range(8)
        ]
        return float(np.mean([psnr_of(error) for error in errors]))

    assert psnr(held) > 20
    assert psnr(held) > psnr(replace(held, **blind)) + 2


def trained(info: SceneInfo, folder: Path, steps: int, resume: bool = False) -> Run:
    options = TrainOptions(run=folder, max_steps=steps, device="cpu", precision="float32", resume=resume)
    config = replace(TINY, training_steps=8, perturb=True, motion_window=0.5)
    run = begin("mobile-dylin", config, info, options)
    torch.manual_seed(0)
    fit(run.new_renderer(), live(info, 12, 5), run, options, interrupts=Interrupts())
    return run


def test_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    """Bit for bit, how far fine waves have come included."""
    info = make_scene("moving", 6, 2, 0, size=24).info
    whole = trained(info, tmp_path / "whole", 8)
    trained(info, tmp_path / "parts", 5)
    parts = trained(info, tmp_path / "parts", 8, resume=True)
    states = [newest_checkpoint(run.checkpoints, print) for run in (whole, parts)]
    assert "renderer.motion_alpha" in states[0].tensors
    assert states[0].tensors.keys() == states[1].tensors.keys()
    for name, tensor in states[0].tensors.items():
        assert torch.equal(tensor, states[1].tensors[name]), name
    seen = [run.load_renderer("cpu").view(info.cameras["val"][0]).rgb for run in (whole, parts)]
    assert torch.equal(*seen)
