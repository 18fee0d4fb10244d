"""The dynamic hash-grid teacher: it learns what moves, asks rays for their times, and is the same at every time that it
is told."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lumigraph.cli.main import main
from lumigraph.configs import ngp
from lumigraph.configs.dynamic_ngp import PRESETS, DynamicNGPConfig
from lumigraph.configs.ngp import NGPConfig
from lumigraph.errors import LumigraphError
from lumigraph.fields.space_time import WarpedFeatures
from lumigraph.geometry.bounds import Bounds
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.background import Background
from lumigraph.rendering.marched_field import MarchedField
from lumigraph.rendering.renderer import Batch
from lumigraph.scenes.procedural import load_builtin
from lumigraph.scenes.scene import Scene
from lumigraph.teachers.dynamic_ngp import DynamicNGP
from lumigraph.teachers.ngp import NGP
from lumigraph.training.sources import PhotoSource

GRID = {"levels": 4, "features": 4, "log2_entries": 12, "finest_resolution": 64}
SMALL = DynamicNGPConfig(**GRID, cells=32, steps=96, samples=2048, time_log2_entries=12)
FACTORS = replace(
    PRESETS["factors"], **vars(SMALL) | {"motion": "factors", "time_features": 4, "time_share": 0.25}
)
STILL = NGPConfig(**GRID, cells=32, steps=96, samples=2048)


def small(config: DynamicNGPConfig = SMALL, background: Background = "white") -> DynamicNGP:
    torch.manual_seed(0)
    return DynamicNGP(config, Bounds(-torch.ones(3), torch.ones(3)), background, 1)


def some_rays(count: int, times: torch.Tensor | None) -> Rays:
    generator = torch.Generator().manual_seed(0)
    origins = torch.randn(count, 3, generator=generator)
    origins = 3 * origins / origins.norm(dim=1, keepdim=True)
    directions = 0.3 * torch.randn(count, 3, generator=generator) - origins / 3
    near, far = torch.full((count,), 0.1), torch.full((count,), 9.0)
    ids = torch.zeros(count, dtype=torch.long)
    return Rays(origins, directions, torch.full((count,), 0.01), near, far, times=times, camera_ids=ids)


def learnt(renderer: MarchedField, scene: Scene, steps: int, controlled: bool = False) -> float:
    """Trains in a plain loop; the mean PSNR over a few held-out views, where `controlled` only of the pixels that
    attributes move."""
    source = PhotoSource(scene.split("train"), 0, attribute_masks=renderer.wants_attribute_masks)
    optimiser = renderer.make_optimiser()
    for step in range(steps):
        renderer.begin_step(step, step / steps, 0)
        losses = renderer.losses(source.batch(step, renderer.rays_per_step), step, 0)
        optimiser.zero_grad()
        torch.stack(list(losses.terms.values())).sum().backward()
        optimiser.step()
    views, found = scene.split("test"), []
    for i in range(4):
        truth = torch.as_tensor(views.image(i)).float() / 255
        truth = truth[..., :3] + 1 - truth[..., 3:]
        error = (renderer.view(views.cameras[i]).rgb - truth).square().mean(-1)
        masks = views.attribute_masks(i) if controlled else None
        kept = error if masks is None else error[masks.amax(-1) > 0]
        found.append(-10 * kept.mean().log10().item())
    return sum(found) / len(found)


def test_learns_a_scene_that_moves() -> None:
    scene = load_builtin("moving:24")
    torch.manual_seed(0)
    assert learnt(DynamicNGP.from_scene(SMALL, scene.info), scene, 80) > 17


@pytest.mark.slow
def test_a_scene_that_moves_is_more_than_a_still_one() -> None:
    scene = load_builtin("moving:32")
    torch.manual_seed(0)
    moving = learnt(DynamicNGP.from_scene(SMALL, scene.info), scene, 800)
    torch.manual_seed(0)
    assert moving > learnt(NGP.from_scene(STILL, scene.info), scene, 800) + 2


@pytest.mark.parametrize("config", [SMALL, FACTORS])
def test_every_ray_sees_its_own_time(config: DynamicNGPConfig) -> None:
    """Rays of mixed times show what each time alone shows, in any pieces."""
    renderer = small(config)
    for grid in (renderer.moving.grid, *renderer.moving.space_time.grids):
        torch.nn.init.normal_(grid.table)
    times = torch.linspace(0, 1, 60)
    rays = some_rays(60, times)
    whole = renderer.render(rays)
    parts = [renderer.render(part) for part in rays.split(17)]
    torch.testing.assert_close(torch.cat([part.rgb for part in parts]), whole.rgb, rtol=0, atol=1e-6)
    still = renderer.render(some_rays(60, torch.zeros(60)))
    assert torch.equal(still.rgb[0], whole.rgb[0])
    assert (still.rgb - whole.rgb)[30:].abs().max() > 1e-3
    assert "depth_median" in whole.extras


def test_without_motion_it_is_instant_ngp() -> None:
    """Where the network of motion says nothing, every time shows what a still field of the same weights shows."""
    renderer = small(replace(SMALL, ambient=0))
    torch.nn.init.normal_(renderer.moving.grid.table)
    assert isinstance(renderer.moving, WarpedFeatures)
    torch.nn.init.zeros_(renderer.moving.motion[-1].weight)
    still = NGP(STILL, Bounds(-torch.ones(3), torch.ones(3)), "white", 1)
    still.grid.load_state_dict(renderer.moving.grid.state_dict())
    still.geometry.load_state_dict(renderer.geometry.state_dict())
    still.colour.load_state_dict(renderer.colour.state_dict())
    rays = some_rays(200, torch.rand(200))
    ours, theirs = renderer.render(rays), still.render(rays)
    torch.testing.assert_close(ours.rgb, theirs.rgb, rtol=0, atol=1e-4)
    torch.testing.assert_close(ours.depth, theirs.depth, rtol=0, atol=1e-3)


def test_photos_with_alpha_lie_on_other_colours_in_training_only() -> None:
    """White on transparent is not nothing: an empty field is wrong about it, whatever the background."""
    renderer = small()
    renderer.occupancy.occupied.zero_()
    batch = Batch(some_rays(400, torch.rand(400)), torch.ones(400, 4))
    # Nothing but the backdrop is seen, and its colours are even in [0, 1]: the mean of (1 - c)^2 is 1/3.
    assert float(renderer.losses(batch, 0, 0).terms["rgb"].detach()) == pytest.approx(1 / 3, abs=0.05)
    assert torch.equal(renderer.render(batch.rays).rgb, torch.ones(400, 3))
    as_shown = small(replace(SMALL, random_backdrop=False))
    as_shown.occupancy.occupied.zero_()
    assert float(as_shown.losses(batch, 0, 0).terms["rgb"].detach()) == 0
    assert small(background="opaque").backdrop == "opaque"


@pytest.mark.parametrize("config", [SMALL, FACTORS])
def test_losses_have_gradients_everywhere(config: DynamicNGPConfig) -> None:
    renderer = small(replace(config, refine_cameras=True, opacity_weight=1e-3))
    for grid in (renderer.moving.grid, *renderer.moving.space_time.grids):
        torch.nn.init.normal_(grid.table)
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
    """Updates look at other times at every step and look, and at the same ones at the same step."""
    renderer, asked = small(replace(SMALL, occupancy_times=3, occupancy_warmup=16)), []
    plain = renderer.core_density

    def watched(points: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        asked.append(times)
        return plain(points, times)

    renderer.core_density = watched  # pyright: ignore[reportAttributeAccessIssue]
    found = {}
    for number, step in enumerate((16, 32, 48, 32)):
        asked.clear()
        renderer.occupancy.reset()
        renderer.begin_step(step, 0.0, 0)
        assert len(asked) == (1 if step == 16 else 3)
        assert all(((times >= 0) & (times < 1)).all() for times in asked)
        found[number] = [times[:50] for times in asked]
    assert torch.equal(torch.cat(found[1]), torch.cat(found[3]))
    different = [*found[0], *found[1], *found[2]]
    assert len({tuple(times.flatten().tolist()) for times in different}) == len(different)


def controlled(attributes: int = 2, timed: bool = False) -> DynamicNGP:
    torch.manual_seed(0)
    renderer = DynamicNGP(
        SMALL, Bounds(-torch.ones(3), torch.ones(3)), "white", 1, attributes=attributes, timed=timed
    )
    for grid in (renderer.moving.grid, *renderer.moving.space_time.grids):
        torch.nn.init.normal_(grid.table)
    return renderer


def with_attributes(rays: Rays, attributes: torch.Tensor) -> Rays:
    return Rays(**{**vars(rays), "attributes": attributes})


@pytest.mark.parametrize("timed", [False, True])
def test_attributes_change_what_rays_see(timed: bool) -> None:
    """Each ray its own; one that is not known is drawn as 0."""
    renderer = controlled(timed=timed)
    assert renderer.conditions == (("times", "attributes") if timed else ("attributes",))
    rays = some_rays(60, torch.rand(60) if timed else None)
    values = torch.linspace(-1, 1, 120).reshape(60, 2)
    seen = renderer.render(with_attributes(rays, values)).rgb
    level = renderer.render(with_attributes(rays, torch.zeros(60, 2))).rgb
    unknown = renderer.render(with_attributes(rays, torch.full((60, 2), torch.nan))).rgb
    assert torch.equal(unknown, level)
    assert (seen - level).abs().max() > 1e-3
    for number in (0, 1):
        one = values.clone()
        one[:, number] = 0
        assert (renderer.render(with_attributes(rays, one)).rgb - seen).abs().max() > 1e-3
    with pytest.raises(LumigraphError, match="attributes"):
        renderer.render(rays)


def test_rays_whose_attributes_are_not_known_teach_nothing() -> None:
    renderer, values = controlled(), torch.rand(64, 2)
    values[40:, 1] = torch.nan
    rays, colours = with_attributes(some_rays(64, None), values), torch.rand(64, 4)
    found = renderer.losses(Batch(rays, colours), 0, 0)
    other = torch.cat([colours[:40], torch.rand(24, 4)])
    again = controlled().losses(Batch(rays, other), 0, 0)
    assert torch.equal(found.terms["rgb"], again.terms["rgb"])
    assert found.squared_error.shape == (64,)
    none = with_attributes(rays, torch.full((64, 2), torch.nan))
    assert float(controlled().losses(Batch(none, colours), 0, 0).terms["rgb"].detach()) == 0


def test_attributes_that_photos_with_times_lack_are_left_aside(caplog) -> None:
    info = load_builtin("attributes:16").info
    cameras = info.cameras["train"]
    values = cameras.attributes.clone()
    values[3] = torch.nan

    def made(times: torch.Tensor | None, attributes: torch.Tensor | None) -> DynamicNGP:
        told = replace(cameras, times=times, attributes=attributes)
        renderer = DynamicNGP.from_scene(SMALL, replace(info, cameras={"train": told}))
        assert isinstance(renderer, DynamicNGP)
        return renderer

    times = torch.linspace(0, 1, len(cameras))
    assert made(None, values).conditions == ("attributes",)
    assert made(times, cameras.attributes).conditions == ("times", "attributes")
    with caplog.at_level("WARNING", logger="lumigraph"):
        assert made(times, values).conditions == ("times",)
    assert "conerf learns attributes from few photos" in caplog.text
    with pytest.raises(LumigraphError, match="none has them"):
        made(None, torch.full_like(values, torch.nan))
    with pytest.raises(LumigraphError, match="no times"):
        made(None, None)


def test_masks_are_drawn_once_photos_have_told_any() -> None:
    """They learn from the rays whose attributes are known; the networks behind features, of density and colour, learn
    nothing of them, and features do."""
    renderer = controlled()
    rays, colours = with_attributes(some_rays(64, None), torch.rand(64, 2)), torch.rand(64, 4)
    assert "attribute_masks" not in renderer.render(rays).extras
    wanted = torch.full((64, 2), torch.nan)
    assert "masks" not in renderer.losses(Batch(rays, colours, attribute_masks=wanted), 0, 0).terms
    wanted[:8, 0] = 1
    term = renderer.losses(Batch(rays, colours, attribute_masks=wanted), 0, 0).terms["masks"]
    assert renderer.masks is not None
    term.backward()
    learnt = renderer.masks.network[-1].weight.grad
    assert learnt[0].any()
    assert not learnt[1].any()
    networks = [*renderer.geometry.parameters(), *renderer.colour.parameters()]
    assert all(weight.grad is None for weight in networks)
    assert renderer.moving.grid.table.grad is not None and renderer.moving.grid.table.grad.any()
    blind = with_attributes(rays, torch.full((64, 2), torch.nan).index_fill(0, torch.arange(8, 64), 0.5))
    term = renderer.losses(Batch(blind, colours, attribute_masks=wanted), 0, 0).terms["masks"]
    assert term.item() == 0
    masks = renderer.render(rays)
    drawn = masks.extras["attribute_masks"]
    assert drawn.shape == (64, 2)
    assert ((drawn >= 0) & (drawn <= masks.opacity[:, None] + 1e-6)).all()

    samples, _ = renderer.visible_samples(
        renderer._core_rays(rays), renderer.standing_of(rays), renderer.rule, torch.zeros(64)
    )
    features = torch.rand(len(samples.t), renderer.width)
    density = torch.rand(len(samples.t), requires_grad=True)
    renderer.seen_besides(features, density, samples)["attribute_masks"].sum().backward()
    assert density.grad is None


def test_no_masks_without_weight_or_attributes() -> None:
    assert not small().wants_attribute_masks
    renderer = DynamicNGP(
        replace(SMALL, mask_weight=0.0), Bounds(-torch.ones(3), torch.ones(3)), "white", 1, 2, False
    )
    assert not renderer.wants_attribute_masks
    assert renderer.masks is None


@pytest.mark.slow
def test_it_learns_what_attributes_control() -> None:
    """Better than a still field, which shows the mean of all that they do; in the mean of two seeds, which differ by
    decibels."""
    scene = load_builtin("attributes:32")
    gains = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        moving = learnt(DynamicNGP.from_scene(SMALL, scene.info), scene, 1500, controlled=True)
        torch.manual_seed(seed)
        still = learnt(NGP.from_scene(STILL, scene.info), scene, 1500, controlled=True)
        gains.append(moving - still)
    assert min(gains) > 0
    assert sum(gains) / 2 > 1


def test_training_rays_tell_the_occupancy_grid_what_they_find() -> None:
    """Training does, rendering does not; and it is the density at the times of the rays."""
    renderer = small()
    renderer.occupancy.density.zero_()
    rays = some_rays(100, torch.rand(100))
    renderer.render(rays)
    assert not renderer.occupancy.density.any()
    renderer._unit_density = lambda points, standing: 10 * standing[:, 0]  # pyright: ignore
    renderer.losses(Batch(rays, torch.rand(100, 4)), 0, 0)
    found = renderer.occupancy.density
    assert found.any()
    assert rays.times is not None
    assert float(found.max()) <= 10 * float(rays.times.max())
    assert len(found[found > 0].unique()) > 20


def test_gpu_preset_keeps_up_with_occupancy_as_ngps_paper_preset_does() -> None:
    ours, theirs = PRESETS["gpu"], ngp.PRESETS["paper"]
    for name in (
        "cells",
        "steps",
        "occupancy_interval",
        "occupancy_warmup",
        "occupancy_share",
        "occupancy_decay",
    ):
        assert getattr(ours, name) == getattr(theirs, name), name


def test_recovery_starts_over() -> None:
    renderer = small()
    before = {name: value.detach().clone() for name, value in renderer.named_parameters()}
    renderer.occupancy.occupied.zero_()
    assert renderer.recover(7)
    assert renderer.occupancy.occupied.all()
    assert not any(torch.equal(before[name], value) for name, value in renderer.named_parameters())


def test_a_scene_without_times_is_refused() -> None:
    with pytest.raises(LumigraphError, match="photos have no times"):
        DynamicNGP.from_scene(SMALL, load_builtin("still:16").info)


def test_rays_without_times_are_refused() -> None:
    with pytest.raises(LumigraphError, match="these rays have no times"):
        small().render(some_rays(4, None))


@pytest.mark.parametrize(
    "wrong",
    [
        {"time_share": 0.0},
        {"time_levels": 0},
        {"time_lr": -1.0},
        {"time_finest_resolution": 4},
        {"occupancy_times": 0},
    ],
)
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

    train("whole", 20)
    train("parts", 9)
    train("parts", 20, "--resume")
    whole, parts = (load_file(tmp_path / run / "weights.safetensors") for run in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())
    assert main(["eval", str(tmp_path / "whole"), "--device", "cpu"]) == 0
