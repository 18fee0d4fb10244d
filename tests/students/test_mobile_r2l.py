"""MobileR2L: rays of patches, pictures of any size, schedule, losses; what it learns, and that it goes on exactly."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lumigraph.configs.common import TrainOptions
from lumigraph.configs.mobile_r2l import PRESETS, MobileR2LConfig
from lumigraph.distillation.live import LivePictures
from lumigraph.distillation.poses import sample_poses
from lumigraph.errors import LumigraphError
from lumigraph.evaluation.metrics import psnr_of
from lumigraph.fields.ray_code import point_depths, positional_encoding
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.ndc import ForwardFrame
from lumigraph.rendering.renderer import Pictures
from lumigraph.scenes.procedural import make_scene
from lumigraph.scenes.scene import SceneInfo
from lumigraph.students.mobile_r2l import MobileR2L
from lumigraph.training.begin import begin
from lumigraph.training.checkpoints import newest_checkpoint
from lumigraph.training.fit import fit
from lumigraph.training.interrupts import Interrupts
from lumigraph.training.runs import Run

from .painted_ball import PaintedBall

TINY = MobileR2LConfig(
    points=4, octaves=3, width=16, blocks=2, up_factors=(2, 2), up_widths=(12, 8), up_blocks=1, pictures=2,
    warmup_steps=2,
)  # fmt: skip


def student(config: MobileR2LConfig = TINY, background="white") -> MobileR2L:
    torch.manual_seed(0)
    return MobileR2L(config, 2.5, 5.5, background)


def scene_info(size: int = 24, views: int = 6) -> SceneInfo:
    return make_scene("still", views, 2, 0, size=size).info


def cameras(size: int = 24, views: int = 6) -> Cameras:
    return scene_info(size, views).cameras["train"]


def pictures(count: int = 2, size: int = 24, weight: bool = False) -> Pictures:
    generator = torch.Generator().manual_seed(2)
    rgba = torch.rand(count, size, size, 4, generator=generator)
    rgba[..., :3] *= rgba[..., 3:]
    kept = (torch.rand(count, size, size, generator=generator) > 0.4).float() if weight else None
    return Pictures(cameras(size)[:count], rgba, kept)


# ------------------------------------------------------------------------------------- rays of patches


def test_a_ray_goes_through_the_middle_of_its_patch() -> None:
    model, seen = student(), cameras()[1:3]
    grid = model.grid(seen)
    assert grid.shape == (2, 6, 6)
    for camera in range(2):
        fine = seen.view_rays(camera)
        corners = fine.directions.unflatten(0, (6, 4)).unflatten(2, (6, 4))
        torch.testing.assert_close(grid.directions[camera], corners.mean((1, 3)), atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(grid.origins[camera, 2, 3], fine.origins[8, 12])


def test_the_code_is_the_published_one() -> None:
    """312 numbers of a ray: of each of 8 points x, y, z, of each of these 6 sines, 6 cosines and itself."""
    model = MobileR2L(replace(PRESETS["paper"], blocks=1, width=8), 2.0, 6.0, "white")
    rays = model.grid(cameras(16)[:1])
    code = model.codes(rays)
    assert code.shape == (1, 312, 2, 2)
    depths = point_depths(8, torch.tensor(2.0), torch.tensor(6.0), None)[:, 0]
    points = rays.points(depths.expand(1, 2, 2, 8)).flatten(-2)
    torch.testing.assert_close(code[0, :, 1, 0], positional_encoding(points[0, 1, 0], 6))


def test_points_lie_where_the_scene_is() -> None:
    info = scene_info()
    half = float(info.bounds.half_extent.max())
    model = MobileR2L.from_scene(TINY, info)
    assert (model.near, model.far) == pytest.approx((4 - half, 4 + half), abs=1e-5)
    published = MobileR2L.from_scene(replace(TINY, extent="cameras"), info)
    assert (published.near, published.far) == (2.0, 6.0)
    frame = ForwardFrame(torch.tensor([[1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 0]]), (0.5, 0.5), 1.0)
    forward = MobileR2L.from_scene(TINY, replace(info, forward=frame))
    assert (forward.near, forward.far, forward.frame) == (0.0, 1.0, frame)
    with pytest.raises(LumigraphError, match="normalised device coordinates"):
        MobileR2L.from_scene(replace(TINY, ray_space="ndc"), info)


def test_forward_facing_scenes_are_seen_in_normalised_device_coordinates() -> None:
    frame = ForwardFrame(torch.tensor([[1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 0]]), (0.5, 0.5), 1.0)
    model = MobileR2L.from_scene(TINY, replace(scene_info(), forward=frame))
    ahead = replace(cameras()[:1], camera_to_world=frame.camera_to_world[None])
    rays = model.grid(ahead)
    ndc = frame.rays(rays.flatten())
    depths = torch.linspace(0, 1, TINY.points)
    points = (ndc.origins[:, None] + depths[:, None] * ndc.directions[:, None]).flatten(1)
    wanted = positional_encoding(points, TINY.octaves)
    torch.testing.assert_close(model.codes(rays).permute(0, 2, 3, 1).flatten(0, 2), wanted)
    batch = Pictures(ahead, pictures(1).rgba)
    model.losses(batch, 0, 0).terms["rgb"].backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


# ------------------------------------------------------------------------------------- pictures


def test_single_rays_are_refused() -> None:
    with pytest.raises(LumigraphError, match="whole pictures, not for single rays.*bake"):
        student().render(cameras().view_rays(0))


def test_a_view_is_the_network_on_running_statistics() -> None:
    """The same in training and evaluation mode, batch norm folded; and it follows the weights."""
    model = student()
    for step in range(3):
        model.losses(pictures(), step, 0)
    seen = model.view(cameras()[0]).rgb
    model.eval()
    torch.testing.assert_close(model.view(cameras()[0]).rgb, seen, atol=0, rtol=0)
    with torch.no_grad():
        raw = model.network(model.codes(model.grid(cameras()[:1])))
        torch.testing.assert_close(seen, torch.sigmoid(raw)[0].permute(1, 2, 0), atol=1e-5, rtol=1e-5)
        model.network.tail.bias.add_(1)
        assert not torch.equal(model.view(cameras()[0]).rgb, seen)
    assert seen.shape == (24, 24, 3)


def test_sizes_that_are_no_multiples_are_cut_from_whole_patches() -> None:
    model = student()
    camera = cameras()[0]
    larger = replace(camera, size=torch.tensor([[28, 24]]))
    cut = replace(camera, size=torch.tensor([[25, 22]]))
    torch.testing.assert_close(model.view(cut).rgb, model.view(larger).rgb[:22, :25], atol=0, rtol=0)


@pytest.mark.parametrize("size", [(48, 48), (12, 12), (31, 37)])
def test_other_pixels_are_resampled(size: tuple[int, int]) -> None:
    """A network knows patches of the pixels it has learnt from: the same picture comes at any size."""
    model = student()
    model.losses(pictures(), 0, 0)
    assert model.focal.tolist() == cameras().focal[0].tolist()
    native, other = model.view(cameras()[0]).rgb, model.view(cameras()[0].resized(*size)).rgb
    assert other.shape == (size[1], size[0], 3)
    torch.testing.assert_close(other.mean((0, 1)), native.mean((0, 1)), atol=0.02, rtol=0)
    # A longer lens shows a part of the picture, of fewer patches.
    longer = replace(cameras()[0], focal=2 * cameras()[0].focal)
    assert model.native(longer).size.tolist() == [[12, 12]]
    assert model.view(longer).rgb.shape == (24, 24, 3)


@pytest.mark.parametrize("upsampling", ["transposed", "depth-to-space"])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_variants_learn_with_finite_gradients(upsampling, activation) -> None:
    config = replace(TINY, upsampling=upsampling, activation=activation, perturb=True)
    model = student(config)
    # Far off, and with picture values at both ends.
    batch = pictures()
    batch.rgba[..., 3] = 1
    batch.rgba[:, ::2, :, :3] = 0
    model.losses(batch, 0, 0).terms["rgb"].backward()
    for parameter in model.parameters():
        assert torch.isfinite(parameter.grad).all()
    assert float(model.network.head.weight.grad.abs().sum()) > 0


# ------------------------------------------------------------------------------------- losses


def test_target_is_composited_on_the_display_background() -> None:
    for background, value in (("white", 1.0), ("random", 1.0), ("black", 0.0), ("opaque", 0.0)):
        model, drawn = student(background=background), pictures()
        target = drawn.rgba[..., :3] + (1 - drawn.rgba[..., 3:]) * value
        raw = model.network(model.codes(model.grid(drawn.cameras)))
        expected = (torch.sigmoid(raw).permute(0, 2, 3, 1) - target).square().mean((1, 2, 3))
        losses = model.losses(drawn, 0, 0)
        torch.testing.assert_close(losses.squared_error, expected.detach(), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(losses.terms["rgb"], expected.mean())


def test_pixels_outside_a_mask_count_nothing() -> None:
    model, drawn = student(), pictures(weight=True)
    losses = model.losses(drawn, 0, 0)
    changed = replace(drawn, rgba=torch.where(drawn.weight[..., None] > 0, drawn.rgba, 0.7))
    again = model.losses(changed, 0, 0)
    torch.testing.assert_close(losses.terms["rgb"], again.terms["rgb"], atol=0, rtol=0)
    whole = model.losses(replace(drawn, weight=torch.ones_like(drawn.weight)), 0, 0)
    torch.testing.assert_close(whole.terms["rgb"], model.losses(pictures(), 0, 0).terms["rgb"])
    nothing = model.losses(replace(drawn, weight=torch.zeros_like(drawn.weight)), 0, 0)
    assert float(nothing.terms["rgb"].detach()) == 0


def test_pictures_with_other_pixels_are_resampled_to_those_of_the_first() -> None:
    model = student()
    model.losses(pictures(), 0, 0)
    before = model.focal.clone()
    finer = pictures(size=48)
    losses = model.losses(finer, 1, 0)
    assert torch.equal(model.focal, before)
    assert losses.squared_error.shape == (2,)
    assert torch.isfinite(losses.terms["rgb"].detach())
    mixed = replace(
        finer, cameras=replace(finer.cameras, focal=finer.cameras.focal * torch.tensor([[1.0], [1.5]]))
    )
    with pytest.raises(
        LumigraphError, match=r"focal lengths of .*--no-random-focal.*Photos: take those of one"
    ):
        model.losses(mixed, 1, 0)


def test_pixels_need_not_be_square() -> None:
    """A capture through one lens whose pixels are a third wider than high is learnt, and shown as it is."""
    stretched = pictures()
    seen = replace(stretched.cameras, focal=stretched.cameras.focal * torch.tensor([0.75, 1.0]))
    model = student()
    model.losses(replace(stretched, cameras=seen), 0, 0)
    assert model.focal.tolist() == pytest.approx(seen.focal[0].tolist())
    assert model.native(seen[0]).size.tolist() == [[24, 24]]


@pytest.mark.parametrize("activation", ["gelu", "none"])
def test_without_stages_every_pixel_has_its_ray(activation: str) -> None:
    """One network of 1x1 convolutions: what a pixel shows depends on its own ray alone."""
    config = replace(TINY, up_factors=(), up_widths=(), activation=activation)
    model, seen = student(config), cameras()[0]
    assert (config.patch, model.grid(seen).shape) == (1, (1, 24, 24))
    assert config.parameters == sum(weights.numel() for weights in model.folded().parameters())
    assert torch.isfinite(model.losses(pictures(), 0, 0).terms["rgb"])
    whole = model.view(seen).rgb
    code = model.codes(model.grid(seen))
    one = torch.sigmoid(model.folded()(code[:, :, 5:6, 7:8]))[0, :, 0, 0]
    torch.testing.assert_close(whole[5, 7], one, atol=1e-5, rtol=1e-5)


def test_pictures_of_one_patch_are_refused() -> None:
    with pytest.raises(LumigraphError, match="single patch.*--up-factors"):
        student().losses(pictures(size=4), 0, 0)


def test_jitter_is_of_each_ray_and_a_function_of_seed_and_step() -> None:
    model, drawn = student(replace(TINY, perturb=True)), pictures()
    values = [
        model.losses(drawn, step, seed).terms["rgb"].item() for step, seed in ((3, 0), (3, 0), (4, 0), (3, 1))
    ]
    assert values[0] == values[1]
    assert len(set(values)) == 3
    jitter = model._jitter(2 * 36, 3, 0)
    assert len(jitter.unique(dim=1).T) == 72


@pytest.mark.parametrize(("step", "lr"), [(0, 1e-4), (100, 3e-4), (200, 5e-4), (600_000, 3.157e-5)])
def test_published_schedule(step: int, lr: float) -> None:
    published = PRESETS["paper"]
    model = student(replace(published, width=8, blocks=1, up_widths=(8, 8, 8)))
    group = model.optimisers()[0]
    assert group.lr * model.lr_scale(step, 0.3) == pytest.approx(lr, rel=2e-3)
    assert (group.optimiser, group.weight_decay, group.betas) == ("adamw", 0.01, (0.9, 0.999))
    assert isinstance(model.make_optimiser(), torch.optim.AdamW)
    assert (published.pictures, published.training_steps) == (10, 600_000)


def test_low_precision_is_close() -> None:
    model = student()
    wanted = model.view(cameras()[0]).rgb
    model.compute_dtype = torch.bfloat16
    torch.testing.assert_close(model.view(cameras()[0]).rgb, wanted, atol=0.02, rtol=0)
    model.losses(pictures(), 0, 0).terms["rgb"].backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in model.parameters())


# ------------------------------------------------------------------------------------- learning


def live(info: SceneInfo, pool: int = 64) -> LivePictures:
    return LivePictures(PaintedBall(), sample_poses("fitted", pool, 0, info.cameras["train"]), 0, kept=pool)


def mean_psnr(model: MobileR2L, views: Cameras) -> float:
    errors = [
        float((model.view(views[i]).rgb - PaintedBall().view(views[i]).rgb).square().mean())
        for i in range(len(views))
    ]
    return sum(map(psnr_of, errors)) / len(errors)


def test_it_learns_a_scene() -> None:
    info = scene_info(32)
    config = MobileR2LConfig(
        octaves=4, width=48, blocks=3, up_widths=(24, 16), up_blocks=1, pictures=4, lr=5e-3, warmup_lr=1e-3,
        warmup_steps=20,
    )  # fmt: skip
    torch.manual_seed(0)
    model = MobileR2L.from_scene(config, info)
    source, optimiser, steps = live(info, 200), model.make_optimiser(), 350
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = config.lr * model.lr_scale(step, step / steps)
        optimiser.zero_grad()
        model.losses(source.pictures(step, config.pictures), step, 0).terms["rgb"].backward()
        optimiser.step()
    assert mean_psnr(model, info.cameras["val"]) > 24


def trained(info: SceneInfo, folder: Path, steps: int, resume: bool = False) -> Run:
    options = TrainOptions(run=folder, max_steps=steps, device="cpu", precision="float32", resume=resume)
    run = begin("mobile-r2l", replace(TINY, training_steps=8, perturb=True), info, options)
    torch.manual_seed(0)
    # A pool that moves on: what a resumed run draws, it has to render anew.
    fit(run.new_renderer(), replace_kept(live(info, 12), 5), run, options, interrupts=Interrupts())
    return run


def replace_kept(source: LivePictures, kept: int) -> LivePictures:
    return LivePictures(source.teacher, source.cameras, source.seed, kept=kept)


def test_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    """Bit for bit, batch norm's statistics and the pictures' focal length included."""
    info = scene_info()
    whole = trained(info, tmp_path / "whole", 8)
    trained(info, tmp_path / "parts", 5)
    parts = trained(info, tmp_path / "parts", 8, resume=True)
    states = [newest_checkpoint(run.checkpoints, print) for run in (whole, parts)]
    assert [state.step for state in states] == [8, 8]
    assert states[0].tensors.keys() == states[1].tensors.keys()
    assert "renderer.network.body.0.first.norm.running_var" in states[0].tensors
    for name, tensor in states[0].tensors.items():
        assert torch.equal(tensor, states[1].tensors[name]), name
    views = [run.load_renderer("cpu").view(info.cameras["val"][0]).rgb for run in (whole, parts)]
    assert torch.equal(*views)


def test_saved_and_loaded_it_shows_the_same(tmp_path: Path) -> None:
    info = scene_info()
    run = trained(info, tmp_path / "run", 3)
    loaded = Run.open(run.path).load_renderer("cpu")
    assert isinstance(loaded, MobileR2L)
    assert loaded.focal.tolist() == pytest.approx(info.cameras["train"].focal[0].tolist())
    run.pack(tmp_path / "packed.safetensors")
    packed = Run.open(tmp_path / "packed.safetensors").load_renderer("cpu")
    camera = info.cameras["val"][1].resized(30, 30)
    assert torch.equal(packed.view(camera).rgb, loaded.view(camera).rgb)
    assert run.results["training"]["train_psnr"] > 0
