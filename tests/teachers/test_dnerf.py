"""D-NeRF and T-NeRF: published sizes and rates, what they reduce to, how motion is smoothed, and that they learn."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lumigraph.cli.main import main
from lumigraph.configs.common import TrainOptions
from lumigraph.configs.dnerf import PRESETS, DNeRFConfig
from lumigraph.configs.nerf import NeRFConfig
from lumigraph.configs.registry import load_config_class, preset
from lumigraph.errors import LumigraphError
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.renderer import Batch, PixelSampling
from lumigraph.scenes.procedural import make_scene
from lumigraph.teachers.dnerf import DNeRF, MovingField
from lumigraph.teachers.nerf import NeRF
from lumigraph.training.begin import begin
from lumigraph.training.fit import fit
from lumigraph.training.sources import PhotoSource

SMALL = DNeRFConfig(
    rays=256, samples=24, importance=16, depth=3, width=48, skip=1, deformation_depth=3, deformation_width=32,
    position_octaves=4, direction_octaves=2, time_octaves=3, lr=5e-3, training_steps=300,
)  # fmt: skip
TINY = replace(SMALL, rays=48, samples=6, importance=4, width=16, deformation_width=8)


def some_rays(count: int, time: float | None = 0.7) -> Rays:
    """Rays into the middle, all of one time, or (None) of different ones."""
    generator = torch.Generator().manual_seed(0)
    origins = torch.randn(count, 3, generator=generator)
    origins = 4 * origins / origins.norm(dim=1, keepdim=True)
    directions = 0.2 * torch.randn(count, 3, generator=generator) - origins / 4
    numbers = torch.full((count,), 2.0)
    times = torch.linspace(0, 1, count) if time is None else torch.full((count,), time)
    return Rays(origins, directions, 0.01 * numbers, numbers, 3 * numbers, times=times)


def a_batch(count: int = 64, time: float | None = None) -> Batch:
    generator = torch.Generator().manual_seed(1)
    alpha = torch.rand(count, 1, generator=generator)
    rgba = torch.cat([alpha * torch.rand(count, 3, generator=generator), alpha], 1)
    return Batch(some_rays(count, time), rgba)


def lively(renderer: DNeRF) -> DNeRF:
    """Weights as of a trained network: densities and colours that differ from place to place."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in renderer.parameters():
            parameter.normal_(std=1.6 / math.sqrt(parameter.shape[-1]) if parameter.ndim == 2 else 0.3)
    return renderer


def total(renderer: DNeRF, batch: Batch) -> Tensor:
    return torch.stack(list(renderer.losses(batch, 0, 0).terms.values())).sum()


def size(config: DNeRFConfig) -> int:
    return sum(parameter.numel() for parameter in DNeRF(config, "white").parameters())


# ------------------------------------------------------------------ what is published


def test_published_sizes() -> None:
    paper = PRESETS["paper"]
    # NeRF's network; the deformation network; 21 more inputs of time in the first layer and after the skip.
    assert size(paper) == 595_844 + 499_203
    assert size(replace(paper, motion="none")) == 595_844
    assert size(preset("tnerf", "paper")) == 595_844 + 2 * 21 * 256
    assert size(replace(paper, two_networks=True)) == 2 * (595_844 + 499_203)
    assert (paper.rays, paper.samples, paper.importance, paper.density) == (500, 64, 128, "relu")
    assert paper.first_weights == PRESETS["paper-short"].first_weights == "torch"


def test_published_schedules() -> None:
    renderer = DNeRF(replace(PRESETS["paper"], width=8), "white")
    found = [5e-4 * renderer.lr_scale(step, step / 800_000) for step in (0, 500_000, 800_000)]
    assert found == pytest.approx([5e-4, 5e-5, 1.25594e-5], rel=1e-5)
    sampling = PixelSampling(crop_steps=500, crop_share=0.5, same_image=True, time_steps=100_000)
    assert renderer.pixel_sampling() == sampling
    assert PRESETS["paper-short"].time_steps == 10_000


def test_two_names_for_one_method() -> None:
    assert load_config_class("dnerf")().motion == "deform"
    for name in PRESETS:
        assert preset("tnerf", name) == load_config_class("tnerf")(
            **{**vars(PRESETS[name]), "motion": "direct"}
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"motion": "direct", "motion_tv_weight": 1.0}, "no effect where motion is direct"),
        ({"two_networks": True, "importance": 0}, "two_networks needs importance"),
        ({"time_octaves": 40}, "time_octaves must lie in 0..24"),
        ({"samples": 2}, "3 with importance"),
        ({"deformation_depth": 0}, "deformation_depth must be positive"),
        ({"time_steps": -1}, "time_steps must not be negative"),
    ],
)
def test_impossible_options(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DNeRFConfig(**changes)


# ------------------------------------------------------------------ what it reduces to


def still_twin(moving: DNeRF) -> DNeRF:
    """The still method with the canonical networks of a moving one."""
    still = DNeRF(replace(moving.config, motion="none"), moving.background)
    kept = {name: value for name, value in moving.state_dict().items() if ".deformation." not in name}
    still.load_state_dict(kept)
    return still


@pytest.mark.parametrize("two_networks", [False, True])
def test_a_deformation_without_weights_is_the_still_method_bit_for_bit(two_networks: bool) -> None:
    moving = lively(DNeRF(replace(SMALL, two_networks=two_networks), "white"))
    still = still_twin(moving)
    with torch.no_grad():
        for name, parameter in moving.named_parameters():
            if ".deformation." in name:
                parameter.zero_()
    rays, batch = some_rays(200), a_batch()
    seen, wanted = moving.render(rays), still.render(rays)
    assert wanted.rgb.std() > 0.02
    assert torch.equal(seen.rgb, wanted.rgb)
    assert torch.equal(seen.extras["depth_raw"], wanted.extras["depth_raw"])
    losses = total(moving, batch), total(still, batch)
    assert torch.equal(*losses)
    losses[0].backward()
    losses[1].backward()
    grads = dict(moving.named_parameters())
    assert all(torch.equal(grads[name].grad, p.grad) for name, p in still.named_parameters())  # pyright: ignore


def test_tnerf_that_does_not_look_at_the_time_is_the_still_method() -> None:
    moving = lively(DNeRF(replace(SMALL, motion="direct"), "white"))
    still = DNeRF(replace(SMALL, motion="none"), "white")
    positions, times = 27, 7
    with torch.no_grad():
        for name, values in still.state_dict().items():
            source = moving.state_dict()[name]
            if source.shape != values.shape:
                source[:, positions : positions + times] = 0.0
                source = torch.cat([source[:, :positions], source[:, positions + times :]], 1)
            values.copy_(source)
    rays = some_rays(200, None)
    wanted = still.render(rays).rgb
    assert wanted.std() > 0.02
    torch.testing.assert_close(moving.render(rays).rgb, wanted, rtol=0, atol=1e-5)


def test_nothing_is_displaced_at_time_0() -> None:
    renderer = lively(DNeRF(SMALL, "white"))
    points, zero = some_rays(50).origins, torch.zeros(50)
    assert torch.equal(renderer.displacements(points, zero), torch.zeros(50, 3))
    assert renderer.displacements(points, zero + 0.01).norm(dim=1).min() > 0.01
    start = some_rays(100, 0.0)
    assert torch.equal(renderer.render(start).rgb, still_twin(renderer).render(start).rgb)
    free = DNeRF(replace(SMALL, zero_canonical=False), "white")
    free.load_state_dict(renderer.state_dict())
    assert free.displacements(points, zero).norm(dim=1).min() > 0.01


def test_the_still_method_is_nerf_with_one_network_for_both_looks() -> None:
    still = lively(DNeRF(replace(SMALL, motion="none"), "white"))
    names = ("samples", "importance", "depth", "width", "skip", "position_octaves", "direction_octaves")
    shared = {name: getattr(SMALL, name) for name in names}
    nerf = NeRF(NeRFConfig(**shared, coarse_depth=None, coarse_width=None), "white")
    for network in (nerf.coarse, nerf.fine):
        network.load_state_dict(still.coarse.canonical.state_dict())
    rays = some_rays(200)
    torch.testing.assert_close(still.render(rays).rgb, nerf.render(rays).rgb, atol=1e-6, rtol=0)


def test_time_is_an_input_of_tnerf() -> None:
    renderer = lively(DNeRF(replace(SMALL, motion="direct"), "white"))
    colours = [renderer.render(some_rays(100, time)).rgb for time in (0.0, 0.5)]
    assert (colours[0] - colours[1]).abs().max() > 0.02
    assert torch.equal(renderer.displacements(torch.ones(2, 3), torch.ones(2)), torch.zeros(2, 3))


@pytest.mark.parametrize("motion", ["deform", "direct"])
def test_rays_of_different_times_together_or_apart(motion: str) -> None:
    renderer = lively(DNeRF(replace(SMALL, motion=motion), "white"))  # pyright: ignore
    rays = some_rays(60, None)
    together = renderer.render(rays.reshape(6, 10)).rgb.reshape(-1, 3)
    apart = torch.cat([renderer.render(rays[i : i + 1]).rgb for i in range(60)])
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=0)
    assert torch.equal(renderer.train().render(rays).rgb, renderer.eval().render(rays).rgb)


# ------------------------------------------------------------------ training


def test_one_network_learns_from_the_last_look_only() -> None:
    one, two = (DNeRF(replace(TINY, two_networks=many), "white") for many in (False, True))
    assert set(one.losses(a_batch(), 0, 0).terms) == {"rgb"}
    assert [name for name, _ in one.named_children()] == ["coarse"]
    losses = two.losses(a_batch(), 0, 0)
    assert set(losses.terms) == {"rgb", "coarse"}
    torch.stack(list(losses.terms.values())).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in two.parameters())


def test_error_is_that_of_the_picture_and_the_canonical_time_moves_nothing() -> None:
    renderer = lively(DNeRF(replace(TINY, perturb=0.0), "white"))
    batch = a_batch(time=0.0)
    losses = renderer.losses(batch, 0, 0)
    wanted = (renderer.render(batch.rays).rgb - (batch.rgba[:, :3] + 1 - batch.rgba[:, 3:])).square()
    torch.testing.assert_close(losses.squared_error, wanted.mean(1), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(losses.terms["rgb"], wanted.mean(), atol=1e-6, rtol=1e-4)
    losses.terms["rgb"].backward()
    for name, parameter in renderer.named_parameters():
        assert parameter.grad is not None
        assert (".deformation." in name) == (not parameter.grad.any()), name


def test_randomness_is_that_of_seed_and_step() -> None:
    config = replace(TINY, density_noise=0.5, motion_tv_weight=1.0)
    renderer = lively(DNeRF(config, "white", torch.linspace(0, 1, 64)))
    places = ((3, 1), (3, 1), (4, 1), (3, 2))
    found = [renderer.losses(a_batch(), step, seed).terms for step, seed in places]
    for name in ("rgb", "motion_tv"):
        values = [terms[name].item() for terms in found]
        assert values[0] == values[1]
        assert len(set(values)) == 3


def steady(field: MovingField) -> None:
    """Weights with which everything is displaced by its time, along each axis."""
    network = field.deformation
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        # The first number of the encoded time is the time.
        network.hidden[0].weight[0, 3] = 1.0  # pyright: ignore
        network.displacement.weight[:, 0] = 1.0


def test_motion_is_compared_with_that_on_the_way_to_the_next_or_the_last_photo() -> None:
    config = replace(TINY, position_octaves=0, deformation_depth=1, motion_tv_weight=2.0)
    renderer = DNeRF(config, "white", torch.tensor([0.5, 0.2, 1.0, 0.5]))
    steady(renderer.coarse)
    points = torch.rand(4, 3)
    torch.testing.assert_close(renderer.displacements(points, torch.full((4,), 0.6)), torch.full((4, 3), 0.6))
    for time, low, high in ((0.2, 0.2, 0.5), (0.5, 0.2, 1.0), (1.0, 0.5, 1.0)):
        batch = a_batch(20, time)
        times = torch.stack([renderer._compared_times(batch.rays, step, 0) for step in range(60)])
        assert torch.equal(times, times[:, :1].expand(60, 20))
        assert times.min() >= low
        assert times.max() <= high
        assert times.min() < low + 0.1
        assert times.max() > high - 0.1
        found = renderer.losses(batch, 7, 0).terms["motion_tv"]
        torch.testing.assert_close(found, 2 * (times[7, 0] - time).square())


def test_with_two_networks_the_motion_of_both_is_compared() -> None:
    """A sample counts alike in both: 6 of the coarse look beside 10 of the fine one."""
    config = replace(TINY, position_octaves=0, deformation_depth=1, motion_tv_weight=2.0, two_networks=True)
    renderer = DNeRF(config, "white", torch.tensor([0.5, 0.2, 1.0]))
    batch = a_batch(20, 0.5)
    square = (renderer._compared_times(batch.rays, 7, 0)[0] - 0.5).square()
    for coarse, fine, parts in ((1.0, 0.0, 0.6), (0.0, 1.0, 1.0), (1.0, 1.0, 1.6)):
        for network, speed in ((renderer.coarse, coarse), (renderer.fine, fine)):
            steady(network)
            with torch.no_grad():
                network.deformation.displacement.weight.mul_(speed)
        found = renderer.losses(batch, 7, 0).terms["motion_tv"].detach()
        torch.testing.assert_close(found, 2 * parts * square)


def test_the_two_directions_are_equally_likely() -> None:
    renderer = DNeRF(replace(TINY, motion_tv_weight=1.0), "white", torch.tensor([0.0, 0.5, 1.0]))
    rays = some_rays(1, 0.5)
    later = [float(renderer._compared_times(rays, step, 0)[0]) > 0.5 for step in range(400)]
    assert 150 < sum(later) < 250


@pytest.mark.parametrize("motion", ["deform", "direct"])
def test_learns_a_moving_scene(motion: str) -> None:
    scene = make_scene("moving", 16, 0, 0, 24)
    config = replace(LEARNS, motion=motion)  # pyright: ignore
    renderer = DNeRF.from_scene(config, scene.info)
    source = PhotoSource(scene.split("train"), 0, sampling=renderer.pixel_sampling())
    assert psnr_after_training(renderer, lambda step: source.batch(step, config.rays), 100) > 15


def test_it_goes_on_exactly_while_photos_join(tmp_path: Path) -> None:
    """n steps, a stop and m steps are n + m steps, bit for bit, in the middle of both curricula."""
    scene = make_scene("moving", 6, 1, 0, 12)
    config = replace(TINY, crop_steps=4, time_steps=8, same_image=True, motion_tv_weight=1.0)
    weights = []
    for stops in ([7], [3, 7]):
        for stop in stops:
            options = TrainOptions(run=tmp_path / str(len(stops)), max_steps=stop, resume=True, device="cpu")
            run = begin("dnerf", config, scene.info, options)
            torch.manual_seed(0)
            renderer = run.new_renderer()
            source = PhotoSource(scene.split("train"), 0, sampling=renderer.pixel_sampling())
            fit(renderer, source, run, options, validation=scene.views["val"])
        weights.append(renderer.state_dict())
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(values, weights[1][name]) for name, values in weights[0].items())


def test_learns_what_moves() -> None:
    """Of a ball that crosses the picture the still baseline learns but the trace."""
    reached = {}
    for motion in ("deform", "direct", "none"):
        torch.manual_seed(0)
        renderer = DNeRF(replace(LEARNS, motion=motion), "black")  # pyright: ignore
        reached[motion] = psnr_after_training(renderer, crossing_ball, 100)
    assert min(reached["deform"], reached["direct"]) > reached["none"] + 2


LEARNS = replace(SMALL, rays=128, samples=16, importance=8, foreground_share=0.3)


def crossing_ball(step: int) -> Batch:
    """Rays from all around at random times; a white ball of radius 0.5 goes from x = -0.6 to 0.6."""
    generator = torch.Generator().manual_seed(step)
    origins = torch.nn.functional.normalize(torch.randn(128, 3, generator=generator), dim=1) * 4
    targets = 1.2 * torch.rand(128, 3, generator=generator) - 0.6
    directions, times = (targets - origins) / 4, torch.rand(128, generator=generator)
    centres = torch.stack([1.2 * times - 0.6, 0 * times, 0 * times], 1)
    unit = torch.nn.functional.normalize(directions, dim=1)
    away = torch.linalg.cross(centres - origins, unit).norm(dim=1)
    near = torch.full((128,), 2.0)
    return Batch(
        Rays(origins, directions, 0.01 * near, near, 3 * near, times=times),
        (away < 0.5).float()[:, None].expand(128, 4),
    )


def psnr_after_training(renderer: DNeRF, batch: Callable[[int], Batch], steps: int) -> float:
    """PSNR of the last ten batches."""
    optimiser, errors = renderer.make_optimiser(), []
    for step in range(steps):
        losses = renderer.losses(batch(step), step, 0)
        for group in optimiser.param_groups:
            group["lr"] = renderer.config.lr * renderer.lr_scale(step, step / steps)
        optimiser.zero_grad()
        torch.stack(list(losses.terms.values())).sum().backward()
        optimiser.step()
        errors.append(float(losses.squared_error.mean()))
    return -10 * math.log10(sum(errors[-10:]) / 10)


def test_starts_over_with_other_weights() -> None:
    renderer = DNeRF(replace(TINY, two_networks=True), "white")
    before = {
        name: value.clone() for name, value in renderer.state_dict().items() if name.endswith(".weight")
    }
    assert renderer.recover(5)
    after = renderer.state_dict()
    assert before and all(not torch.equal(value, after[name]) for name, value in before.items())


# ------------------------------------------------------------------ what does not fit


def test_rays_without_times_are_refused() -> None:
    rays = replace(some_rays(4), times=None)
    for motion in ("deform", "direct"):
        with pytest.raises(LumigraphError, match="these rays have no times"):
            DNeRF(replace(TINY, motion=motion), "white").render(rays)
    still = DNeRF(replace(TINY, motion="none"), "white")
    assert still.conditions == ()
    assert still.render(rays).rgb.shape == (4, 3)


@pytest.mark.parametrize("method", ["dnerf", "tnerf"])
def test_a_scene_without_times_is_refused(method: str, tmp_path: Path, capsys) -> None:
    assert main(["train", method, "builtin:still:16", "--run", str(tmp_path / "run"), "--device", "cpu"]) == 2
    assert "the photos have no times" in capsys.readouterr().err


def test_weights_that_have_learnt_corners_are_not_trained_on() -> None:
    camera = make_scene("moving", 2, 0, 0, size=8).info.cameras["train"][0]
    centre = lively(DNeRF(TINY, "white"))
    corner = DNeRF(replace(TINY, pixel_corner=True), "white")
    corner.load_state_dict(centre.state_dict())
    shifted = replace(camera, principal=camera.principal + 0.5)
    assert torch.equal(corner.view(camera).rgb, centre.view(shifted).rgb)
    with pytest.raises(LumigraphError, match="can only be rendered"):
        corner.make_optimiser()
