"""HyperNeRF: published sizes and schedules, what it reduces to, that it learns, and that it goes on exactly."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lumigraph.configs.common import TrainOptions
from lumigraph.configs.hypernerf import PRESETS, HyperNeRFConfig
from lumigraph.errors import LumigraphError
from lumigraph.fields.camera_codes import DeviceCodes
from lumigraph.geometry.bounds import Bounds
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.background import Background
from lumigraph.rendering.renderer import Batch
from lumigraph.rendering.volume.coarse_fine import Seen
from lumigraph.rendering.warp_losses import elastic_energy
from lumigraph.scenes.procedural import make_scene
from lumigraph.teachers.hypernerf import HyperNeRF
from lumigraph.training.begin import begin
from lumigraph.training.fit import fit
from lumigraph.training.sources import PhotoSource

TINY = HyperNeRFConfig(
    rays=48, samples=8, importance=6, depth=2, width=16, skip=1, view_width=8, position_octaves=4, direction_octaves=2,
    code_width=4, warp_octaves=2, warp_depth=2, warp_width=8, sheet_octaves=2, sheet_depth=2, sheet_width=8,
    training_steps=100, warp_alpha_steps=40, ambient_delay_steps=10, ambient_rise_steps=20,
)  # fmt: skip
BOX = Bounds(torch.full((3,), -1.2), torch.full((3,), 1.2))


def some_cameras(times: list[float] | None = None) -> Cameras:
    times = [0.0, 0.5, 1.0] if times is None else times
    count = len(times)
    poses = torch.eye(3, 4).repeat(count, 1, 1)
    poses[:, 2, 3] = -4
    return Cameras(
        camera_to_world=poses,
        focal=torch.full((count, 2), 20.0),
        principal=torch.full((count, 2), 8.0),
        size=torch.full((count, 2), 16),
        near=torch.full((count,), 2.0),
        far=torch.full((count,), 6.0),
        distortion=torch.zeros(count, 6),
        ids=torch.arange(count),
        times=torch.tensor(times),
    )


def some_rays(count: int = 40, times: Tensor | None = None) -> Rays:
    generator = torch.Generator().manual_seed(0)
    origins = torch.randn(count, 3, generator=generator)
    origins = 4 * origins / origins.norm(dim=1, keepdim=True)
    directions = 0.2 * torch.randn(count, 3, generator=generator) - origins / 4
    numbers = torch.full((count,), 2.0)
    times = torch.rand(count, generator=generator) if times is None else times
    return Rays(origins, directions, 0.01 * numbers, numbers, 3 * numbers, times=times)


def a_batch(count: int = 40) -> Batch:
    generator = torch.Generator().manual_seed(1)
    alpha = torch.rand(count, 1, generator=generator)
    rgba = torch.cat([alpha * torch.rand(count, 3, generator=generator), alpha], 1)
    moments = torch.tensor([0.0, 0.5, 1.0])[torch.randint(3, (count,), generator=generator)]
    return Batch(some_rays(count, moments), rgba)


def lively(config: HyperNeRFConfig, background: Background = "white") -> HyperNeRF:
    """Weights as of a trained network: what is seen differs from place to place, and from time to time."""
    torch.manual_seed(3)
    renderer = HyperNeRF(config, background, some_cameras(), BOX)
    with torch.no_grad():
        for name, parameter in renderer.named_parameters():
            wide = 1.4 / parameter.shape[-1] ** 0.5 if parameter.ndim == 2 else 0.3
            parameter.normal_(std=0.3 if "table" in name else wide)
        renderer.warp_alpha.fill_(config.warp_octaves)
        renderer.ambient_beta.fill_(config.ambient_octaves)
    return renderer


def shared_weights(source: HyperNeRF, target: HyperNeRF) -> HyperNeRF:
    """`target` with the weights of `source`, as far as their shapes go."""
    own = target.state_dict()
    for name, values in source.state_dict().items():
        if name in own:
            own[name].copy_(values[tuple(slice(size) for size in own[name].shape)])
    return target


def opacity(renderer: HyperNeRF, rays: Rays) -> Tensor:
    found = renderer.render(rays).opacity
    assert found is not None
    return found


# ------------------------------------------------------------------ what is published


def test_published_sizes() -> None:
    vrig, interp, local = (PRESETS[name] for name in ("vrig", "interp", "test_local"))
    for preset in (vrig, interp):
        assert (preset.rays, preset.samples, preset.importance) == (6144, 128, 128)
        assert (preset.code_width, preset.ambient_dims, preset.warp_octaves) == (8, 2, 6)
        assert (preset.lr, preset.final_lr, preset.training_steps) == (1e-3, 1e-4, 250_000)
    assert PRESETS["paper"] == vrig
    assert (vrig.background_weight, interp.background_weight) == (1, 0)
    assert (local.rays, local.samples, local.ambient_dims, local.warp_octaves) == (512, 64, 4, 4)
    assert (local.warp_alpha_steps, local.warp_weight) == (50_000, 1e-3)
    renderer = HyperNeRF(interp, "opaque", some_cameras(), BOX)
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in renderer.named_children()}
    # 39 encoded coordinates and the code; 51 and 4 of the template, and 27 of the view direction.
    warp = 48 * 128 + 4 * 129 * 128 + (128 + 47 + 1) * 128 + 129 * 6
    template = (
        56 * 256 + 6 * 257 * 256 + (256 + 55 + 1) * 256 + 257 + 257 * 256 + (256 + 27 + 1) * 128 + 129 * 3
    )
    assert sizes["codes"] == 3 * 8
    assert sizes["warp"] == warp
    assert sizes["coarse"] == sizes["fine"] == template


def test_schedules() -> None:
    renderer = HyperNeRF(PRESETS["interp"], "opaque", some_cameras(), BOX)
    rows = []
    for step in (0, 1000, 6000, 11_000, 40_000, 80_000, 250_000):
        progress = step / 250_000
        renderer.begin_step(step, progress, 0)
        rate = 1e-3 * renderer.lr_scale(step, progress)
        rows.append((float(renderer.warp_alpha), float(renderer.ambient_beta), rate))
    alphas, betas, rates = zip(*rows, strict=True)
    assert alphas == pytest.approx([0, 0.075, 0.45, 0.825, 3, 6, 6])
    assert betas == pytest.approx([0, 0, 0.5, 1, 1, 1, 1], abs=1e-6)
    assert [rates[0], rates[-1]] == pytest.approx([1e-3, 1e-4])


# ------------------------------------------------------------------ what it reduces to


def test_a_warp_of_zero_weights_and_no_ambient_dimensions_is_the_still_method() -> None:
    warped = lively(replace(TINY, slicing="none"))
    still = shared_weights(warped, lively(replace(TINY, slicing="none", warp="none")))
    assert still.codes is None
    rays = some_rays()
    moving = warped.render(rays).rgb
    assert (moving - still.render(rays).rgb).abs().max() > 1e-3
    assert warped.warp is not None
    with torch.no_grad():
        for parameter in warped.warp.network.output.parameters():
            parameter.zero_()
    for name in ("rgb", "depth", "opacity"):
        assert torch.equal(getattr(warped.render(rays), name), getattr(still.render(rays), name))


@pytest.mark.parametrize("slicing", ["bendy_sheet", "axis_aligned_plane"])
def test_at_beta_zero_a_sliced_template_is_the_warp_alone(slicing: str) -> None:
    sliced = lively(replace(TINY, slicing=slicing))  # pyright: ignore[reportArgumentType]
    alone = lively(replace(TINY, slicing="none"))
    # The position comes first in what the template sees; the layer behind the skip sees it before the hidden units.
    own, others, ambient = alone.state_dict(), sliced.state_dict(), 2 * TINY.ambient_dims
    for name, values in own.items():
        wider = others[name]
        if name.endswith("hidden.0.weight"):
            wider = wider[:, : values.shape[1]]
        elif name.endswith("hidden.1.weight") and wider.shape != values.shape:
            seen = values.shape[1] - TINY.width
            wider = torch.cat([wider[:, :seen], wider[:, seen + ambient :]], 1)
        values.copy_(wider)
    rays = some_rays()
    assert (sliced.render(rays).rgb - alone.render(rays).rgb).abs().max() > 1e-3
    sliced.ambient_beta.zero_()
    torch.testing.assert_close(sliced.render(rays).rgb, alone.render(rays).rgb, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "dims"),
    [
        ({"slicing": "bendy_sheet", "ambient_dims": 3}, 3),
        ({"slicing": "axis_aligned_plane"}, 2),
        ({"slicing": "axis_aligned_plane", "share_with_warp": True}, 4),
        ({"slicing": "none"}, 0),
    ],
)
def test_ambient_coordinates(changes: dict[str, object], dims: int) -> None:
    renderer = lively(replace(TINY, **changes))  # pyright: ignore[reportArgumentType]
    rendering = renderer.render(some_rays().reshape(8, 5))
    if dims == 0:
        assert "ambient" not in rendering.extras
        return
    assert rendering.extras["ambient"].shape == (8, 5, dims)
    # A plane is one place for all of space: what differs along rays of one time is how opaque they are.
    rays = some_rays(times=torch.full((40,), 0.5))
    ambient = renderer.render(rays).extras["ambient"] / opacity(renderer, rays)[:, None]
    flat = bool((ambient - ambient[0]).abs().max() < 1e-4)
    assert flat == (changes["slicing"] == "axis_aligned_plane")


# ------------------------------------------------------------------ what it shows


def test_between_moments_codes_are_blended_or_the_nearer_one() -> None:
    linear, nearest = lively(TINY), lively(replace(TINY, code_choice="nearest"))
    at = {time: some_rays(times=torch.full((40,), time)) for time in (0.5, 0.6)}
    assert torch.equal(linear.render(at[0.5]).rgb, nearest.render(at[0.5]).rgb)
    assert torch.equal(nearest.render(at[0.6]).rgb, nearest.render(at[0.5]).rgb)
    assert not torch.equal(linear.render(at[0.6]).rgb, linear.render(at[0.5]).rgb)
    linear.choose_codes("nearest")
    assert torch.equal(linear.render(at[0.6]).rgb, linear.render(at[0.5]).rgb)
    linear.choose_codes("linear")
    assert not torch.equal(linear.render(at[0.6]).rgb, linear.render(at[0.5]).rgb)
    with pytest.raises(LumigraphError, match="no codes that could be drawn 'mean'"):
        linear.choose_codes("mean")
    without = lively(replace(TINY, warp="none", slicing="none"))
    with pytest.raises(LumigraphError, match="no codes that could be drawn 'nearest'"):
        without.choose_codes("nearest")


def test_choices_of_codes_of_photos_and_of_moments_are_apart() -> None:
    renderer = lively(replace(TINY, appearance="photo"))
    codes, looks = renderer.codes, renderer.appearance
    assert codes is not None
    assert looks is not None
    for choice, found in (
        ("zero", ("linear", "zero")),
        ("nearest", ("nearest", "nearest")),
        ("linear", ("linear", "nearest")),
        ("mean", ("linear", "mean")),
    ):
        renderer.choose_codes(choice)  # pyright: ignore[reportArgumentType]
        assert (codes.choice, looks.choice) == found


def test_the_sample_at_infinity_colours_and_has_no_opacity() -> None:
    far = lively(replace(TINY, importance=0), "opaque")
    assert far.far_is_seen
    assert not lively(TINY).far_is_seen
    near = lively(replace(TINY, importance=0, sample_at_infinity=False), "opaque")
    rays = some_rays()
    with_far, without = far.render(rays), near.render(rays)
    torch.testing.assert_close(with_far.opacity, without.opacity)
    torch.testing.assert_close(with_far.depth, without.depth)
    assert (with_far.rgb - without.rgb).min() > -1e-6
    assert (with_far.rgb - without.rgb).max() > 1e-3


def test_dust_and_what_is_outside_the_box_are_left_out_of_pictures() -> None:
    rays = some_rays()
    nothing = lively(replace(TINY, dust_threshold=1e6))
    assert not opacity(nothing, rays).any()
    assert torch.equal(nothing.render(rays).rgb, torch.ones(40, 3))
    # A ray that passes the box by, and rays that meet it.
    beside = replace(rays[:1], origins=torch.tensor([[3.0, 3, -4]]), directions=torch.tensor([[0.0, 0, 1]]))
    whole, boxed = lively(TINY), lively(replace(TINY, inside_bounds=True))
    assert float(opacity(whole, beside)) > 0
    assert float(opacity(boxed, beside)) == 0
    assert opacity(boxed, rays).max() > 0.1
    # The same is asked of what was trained without.
    whole.leave_out(None, True)
    assert torch.equal(whole.render(rays).rgb, boxed.render(rays).rgb)
    whole.leave_out(1e6, False)
    assert not opacity(whole, rays).any()


def test_every_camera_of_a_rig_is_drawn_with_its_code() -> None:
    scene = make_scene("moving", 4, 2, 0, 8).info
    cameras = {
        split: replace(part, devices=torch.arange(len(part)) % 2) for split, part in scene.cameras.items()
    }
    config = replace(TINY, appearance="camera")
    renderer = HyperNeRF.from_scene(config, replace(scene, cameras=cameras))
    assert isinstance(renderer.appearance, DeviceCodes)
    val = cameras["val"]
    before = [renderer.view(val[number]).rgb for number in range(2)]
    with torch.no_grad():
        renderer.appearance.table[1] += 1
    after = [renderer.view(val[number]).rgb for number in range(2)]
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])
    with pytest.raises(LumigraphError, match="photos are of one camera"):
        HyperNeRF.from_scene(config, scene)


@pytest.mark.parametrize("appearance", ["photo", "time"])
def test_codes_of_appearance_change_colours_alone(appearance: str) -> None:
    renderer = lively(replace(TINY, appearance=appearance))  # pyright: ignore[reportArgumentType]
    rays = some_rays()
    before = renderer.render(rays)
    assert renderer.appearance is not None
    with torch.no_grad():
        renderer.appearance.table.add_(1)
    after = renderer.render(rays)
    assert before.opacity is not None
    assert torch.equal(before.opacity, opacity(renderer, rays))
    assert (before.rgb - after.rgb).abs().max() > 1e-4


# ------------------------------------------------------------------ what it learns from


def test_every_regulariser_reaches_what_it_is_about() -> None:
    config = replace(
        TINY,
        elastic_weight=1.0,
        warp_weight=1.0,
        ambient_weight=1.0,
        background_weight=1.0,
        background_points=16,
    )
    renderer = lively(config)
    renderer.still_points = torch.randn(20, 3)
    terms = renderer.losses(a_batch(), 3, 0).terms
    assert set(terms) == {"rgb", "coarse", "elastic", "warp", "ambient", "background"}
    assert renderer.warp is not None
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in renderer.parameters())
    # The background loss is about the warp and the codes only.
    renderer.zero_grad()
    renderer.losses(a_batch(), 3, 0).terms["background"].backward()
    reached = {
        name.split(".")[0] for name, p in renderer.named_parameters() if p.grad is not None and p.grad.any()
    }
    assert reached == {"warp", "codes"}


def test_points_that_stand_still_are_read_for_training_alone(tmp_path: Path) -> None:
    """A run is opened, and rendered, with what would be refused in training."""
    info = replace(make_scene("moving", 2, 0, 0, 8).info, source=str(tmp_path))
    (tmp_path / "points.npy").write_bytes(b"damaged")
    renderer = HyperNeRF.from_scene(replace(TINY, background_weight=1.0), info)
    with pytest.raises(LumigraphError, match=r"points\.npy"):
        renderer.read_for_training(info)
    np.save(tmp_path / "points.npy", np.float32([[1, 2, 3], [4, 5, 6]]))
    renderer.read_for_training(info)
    assert renderer.still_points.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert "still_points" not in renderer.state_dict()
    without = HyperNeRF.from_scene(TINY, info)
    without.read_for_training(info)
    assert not len(without.still_points)


def test_losses_do_not_depend_on_how_many_rays_are_held_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(TINY, elastic_weight=0.1, warp_weight=0.1, ambient_weight=0.1)
    found = []
    for held in (40, 7):
        renderer = lively(config)
        monkeypatch.setattr(type(renderer.sampling), "kept_rays", lambda self, device, held=held: held)
        monkeypatch.setattr(type(renderer.sampling), "even", even_without_chance)
        monkeypatch.setattr(type(renderer.sampling), "finer", finer_without_chance)
        losses = renderer.losses(a_batch(), 0, 0)
        torch.stack(list(losses.terms.values())).sum().backward()
        found.append((losses, [p.grad for p in renderer.parameters()]))
    (whole, gradients), (parts, others) = found
    for name, value in whole.terms.items():
        torch.testing.assert_close(parts.terms[name], value)
    torch.testing.assert_close(parts.squared_error, whole.squared_error)
    for one, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def even_without_chance(sampling: object, rays: Rays, draws: object) -> Tensor:
    return EVEN(sampling, rays, None)


def finer_without_chance(sampling: object, t: Tensor, weights: Tensor, draws: object) -> Tensor:
    return FINER(sampling, t, weights, None)


EVEN, FINER = (
    getattr(type(HyperNeRF(TINY, "white", some_cameras(), BOX).sampling), name) for name in ("even", "finer")
)


def test_the_elastic_loss_is_weighed_along_a_ray_or_taken_where_half_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = {}
    for reduce in ("weight", "median"):
        renderer = lively(replace(TINY, elastic_weight=1.0, elastic_reduce=reduce, elastic="jtj"))  # pyright: ignore
        asked = []

        def flat(warp: object, points: Tensor, codes: Tensor, alpha: Tensor, asked: list = asked) -> Tensor:
            asked.append(points)
            return 2 * torch.eye(3).expand(*points.shape[:-1], 3, 3)

        monkeypatch.setattr("lumigraph.rendering.warped.warp_jacobians", flat)
        renderer._elastic = tracked(renderer, found, reduce)  # pyright: ignore
        loss = float(renderer.losses(a_batch(), 0, 0).terms["elastic"].detach())
        assert asked[0].shape == (40, 8 if reduce == "weight" else 1, 3)
        energy = float(elastic_energy(2 * torch.eye(3), "jtj"))
        share = float(found[reduce].weights.detach().sum(1).mean()) if reduce == "weight" else 1.0
        assert loss == pytest.approx(energy * share, rel=1e-4)


def tracked(renderer: HyperNeRF, found: dict, name: str) -> Callable[..., Tensor]:
    """`renderer._elastic`, which also puts what the coarse network saw into `found[name]`."""
    plain = renderer._elastic

    def watched(rays: Rays, codes: Tensor, seen: Seen) -> Tensor:
        found[name] = seen
        return plain(rays, codes, seen)

    return watched


def test_the_elastic_loss_of_a_rigid_motion_is_zero() -> None:
    renderer = lively(replace(TINY, elastic_weight=1.0))
    assert renderer.warp is not None
    with torch.no_grad():
        renderer.warp.network.output.weight.zero_()
    assert float(renderer.losses(a_batch(), 0, 0).terms["elastic"].detach()) < 1e-6


def test_what_cannot_be_learnt_is_refused() -> None:
    scene = make_scene("still", 2, 0, 0, 8)
    with pytest.raises(LumigraphError, match="no times"):
        HyperNeRF.from_scene(TINY, scene.info)
    moving = make_scene("moving", 2, 0, 0, 8)
    # Rendered it can be all the same: a run does not need the folder that it was trained on.
    without_points = HyperNeRF.from_scene(replace(TINY, background_weight=1.0), moving.info)
    with pytest.raises(LumigraphError, match="background loss"):
        without_points.optimisers()
    renderer = HyperNeRF.from_scene(TINY, moving.info)
    with pytest.raises(LumigraphError, match="these rays have no times"):
        renderer.render(replace(some_rays(), times=None))
    for changes in (
        {"share_with_warp": True},
        {"warp": "none", "elastic_weight": 1.0},
        {"samples": 2},
        {"lr": 0.0},
    ):
        with pytest.raises(ValueError, match=r".+"):
            replace(TINY, **changes)  # pyright: ignore[reportArgumentType]


def test_it_goes_on_exactly(tmp_path: Path) -> None:
    scene = make_scene("moving-split", 4, 1, 0, 12)
    weights = []
    for stops in ([6], [3, 6]):
        for stop in stops:
            options = TrainOptions(run=tmp_path / str(len(stops)), max_steps=stop, resume=True)
            run = begin("hypernerf", TINY, scene.info, options)
            torch.manual_seed(0)
            renderer = run.new_renderer()
            fit(renderer, PhotoSource(scene.split("train"), 0), run, options, validation=scene.views["val"])
        weights.append(renderer.state_dict())
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(values, weights[1][name]) for name, values in weights[0].items())


def test_it_learns_a_scene_that_moves() -> None:
    scene = make_scene("moving-split", 8, 1, 0, 16)
    config = replace(
        TINY, rays=192, samples=16, importance=12, depth=3, width=48, view_width=24, warp_width=24, sheet_width=16,
        position_octaves=5, lr=5e-3, final_lr=1e-3, training_steps=100,
    )  # fmt: skip
    torch.manual_seed(0)
    renderer = HyperNeRF.from_scene(config, scene.info)
    source, optimiser = PhotoSource(scene.split("train"), 0), renderer.make_optimiser()
    errors = []
    for step in range(config.training_steps):
        renderer.begin_step(step, step / config.training_steps, 0)
        losses = renderer.losses(source.batch(step, config.rays), step, 0)
        for group in optimiser.param_groups:
            group["lr"] = config.lr * renderer.lr_scale(step, step / config.training_steps)
        optimiser.zero_grad()
        torch.stack(list(losses.terms.values())).sum().backward()
        optimiser.step()
        errors.append(float(losses.squared_error.mean()))
    assert -10 * torch.tensor(errors[-10:]).mean().log10() > 19
