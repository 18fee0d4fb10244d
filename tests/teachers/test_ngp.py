"""Instant-NGP: it learns, renders the same in any pieces, and says the same through every door."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch

from lumigraph.cli.main import main
from lumigraph.configs.common import TrainOptions
from lumigraph.configs.depth import DepthLoss
from lumigraph.configs.ngp import PRESETS, NGPConfig
from lumigraph.distillation.origins import taught_scene
from lumigraph.distillation.shards import Shards
from lumigraph.errors import LumigraphError
from lumigraph.geometry.bounds import Bounds, unit_cube
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.rays import Rays
from lumigraph.geometry.rotations import so3_exp
from lumigraph.rendering.background import Background
from lumigraph.rendering.renderer import Batch
from lumigraph.rendering.volume.samples import Samples
from lumigraph.scenes.load import load_scene, load_scene_like
from lumigraph.scenes.procedural import load_builtin
from lumigraph.scenes.scene import Scene
from lumigraph.scenes.splits import SplitOptions
from lumigraph.teachers.ngp import NGP
from lumigraph.training.runs import Run
from lumigraph.training.sources import PhotoSource

SMALL = NGPConfig(
    levels=4, features=4, log2_entries=12, finest_resolution=64, cells=32, steps=96, samples=4096
)


def box(unbounded: bool = False) -> Bounds:
    return Bounds(-torch.ones(3), torch.ones(3), unbounded)


CONES = replace(SMALL, cones=True)


def some_rays(count: int, radius: float = 0.01) -> Rays:
    generator = torch.Generator().manual_seed(0)
    origins = torch.randn(count, 3, generator=generator)
    origins = 3 * origins / origins.norm(dim=1, keepdim=True)
    directions = 0.3 * torch.randn(count, 3, generator=generator) - origins / 3
    ids = torch.zeros(count, dtype=torch.long)
    return Rays(
        origins,
        directions,
        torch.full((count,), radius),
        torch.full((count,), 0.1),
        torch.full((count,), 9.0),
        camera_ids=ids,
    )


def a_batch(count: int = 128) -> Batch:
    return Batch(some_rays(count), torch.rand(count, 4, generator=torch.Generator().manual_seed(1)))


def train(renderer: NGP, source: PhotoSource, steps: int) -> float:
    """A plain loop; returns the PSNR of the last ten batches."""
    optimiser = renderer.make_optimiser()
    errors = []
    for step in range(steps):
        renderer.begin_step(step, step / steps, 0)
        losses = renderer.losses(source.batch(step, renderer.rays_per_step), step, 0)
        optimiser.zero_grad()
        torch.stack(list(losses.terms.values())).sum().backward()
        optimiser.step()
        errors.append(float(losses.squared_error.mean()))
    return -10 * torch.tensor(errors[-10:]).mean().log10().item()


def test_learns_a_scene() -> None:
    scene = load_builtin("still", downscale=4)
    torch.manual_seed(0)
    renderer = NGP.from_scene(SMALL, scene.info)
    assert train(renderer, PhotoSource(scene.split("train"), 0), 150) > 20


@pytest.mark.parametrize("seed", [0, 2])
def test_colours_are_learnt_as_soon_as_brightness(seed: int) -> None:
    """With smaller first weights, such as torch's, pictures stay grey for some 300 steps."""
    scene = load_builtin("still", downscale=4)
    torch.manual_seed(seed)
    renderer = NGP.from_scene(SMALL, scene.info)
    train(renderer, PhotoSource(scene.split("train"), seed), 200)
    renderer.eval()
    views = scene.split("val")
    truth = torch.as_tensor(views.image(0)).float()[..., :3] / 255
    drawn = renderer.view(views.cameras[0]).rgb

    def colourful(picture: torch.Tensor) -> float:
        return float((picture - picture.mean(-1, keepdim=True)).abs().mean())

    assert colourful(drawn) > 0.5 * colourful(truth)


@pytest.mark.parametrize("unbounded", [False, True])
@pytest.mark.parametrize("config", [SMALL, CONES])
def test_renders_the_same_in_any_pieces(config: NGPConfig, unbounded: bool) -> None:
    torch.manual_seed(0)
    renderer = NGP(config, box(unbounded), "white", 1)
    rays = some_rays(60)
    whole = renderer.render(rays)
    parts = [renderer.render(part) for part in rays.split(17)]
    torch.testing.assert_close(torch.cat([part.rgb for part in parts]), whole.rgb, rtol=0, atol=1e-6)
    assert whole.depth is not None
    assert torch.isfinite(whole.depth).all()
    assert ((whole.rgb >= 0) & (whole.rgb <= 1)).all()


def test_a_stored_field_is_the_same_field() -> None:
    torch.manual_seed(0)
    first, second = NGP(SMALL, box(), "white", 1), NGP(SMALL, box(), "white", 1)
    second.load_state_dict(first.state_dict())
    rays = some_rays(40)
    assert torch.equal(first.render(rays).rgb, second.render(rays).rgb)


@pytest.mark.parametrize("config", [SMALL, CONES])
def test_density_is_that_of_the_render(config: NGPConfig) -> None:
    """Opacity of a ray of no width, from densities asked for directly: 1 - exp(-integral)."""
    torch.manual_seed(0)
    renderer = NGP(config, Bounds(torch.full((3,), -2.0), torch.full((3,), 2.0)), "black", 1)
    rays = some_rays(20, radius=0.0)
    opacity = renderer.render(rays).opacity
    t = torch.linspace(0.1, 9, 4000)
    points = rays.origins[:, None] + t[:, None] * rays.directions[:, None]
    inside = (points.abs() <= 2).all(-1)
    with torch.no_grad():
        density = renderer.density(points.reshape(-1, 3)).reshape(inside.shape) * inside
    length = rays.directions.norm(dim=1) * (t[1] - t[0])
    assert opacity is not None
    torch.testing.assert_close(opacity, 1 - torch.exp(-density.sum(1) * length), rtol=0, atol=0.02)


def test_cones_see_what_a_whole_pixel_sees() -> None:
    """Of wide pixels nothing is left but coarse cells: what the two finest levels hold hardly changes them, and changes
    fine ones. Lines see all pixels alike."""
    for config in (SMALL, CONES):
        torch.manual_seed(0)
        renderer = NGP(config, box(), "white", 1)
        torch.nn.init.normal_(renderer.grid.table)
        pixels = some_rays(50, 0.001), some_rays(50, 0.5)
        fine, wide = (renderer.render(rays).rgb for rays in pixels)
        with torch.no_grad():
            renderer.grid.table[int(renderer.layout.offsets[2]) :] = 0
        changed = [
            float((renderer.render(rays).rgb - before).abs().mean())
            for rays, before in zip(pixels, (fine, wide), strict=True)
        ]
        assert renderer.sees_cones == config.cones
        assert torch.allclose(fine, wide, atol=1e-3) != config.cones
        assert (changed[1] < 0.2 * changed[0]) == config.cones


def test_points_are_what_the_finest_pixel_sees() -> None:
    """A pixel of the training cameras that sees the middle of the scene, and a question about points there."""
    scene = load_scene("builtin:still:64", scales=2)
    torch.manual_seed(0)
    renderer = NGP.from_scene(CONES, scene.info)
    core = renderer._core_rays(scene.info.cameras["train"].view_rays(0).flatten())
    middle = torch.tensor([len(core.near) // 2 + 32])
    t = -(core.origins * core.directions).sum(1)[middle]
    points = unit_cube(core.origins[middle] + t[:, None] * core.directions[middle], False)
    sizes = core.sizes(Samples(points, t, torch.ones(1), torch.tensor([0, 1])), middle, False)
    assert sizes is not None
    assert 0.5 * renderer.finest == pytest.approx(float(sizes), rel=0.2)
    asked = torch.full((1,), 0.5 * renderer.finest)
    torch.testing.assert_close(renderer.features(points, None), renderer.grid.faded(points, asked))


@pytest.mark.parametrize("unbounded", [False, True])
def test_the_size_of_a_sample_is_that_of_its_pixel(unbounded: bool) -> None:
    """In sides of the cube: half the radius of the cone there, which contraction shrinks; box of half side 2."""
    bounds = Bounds(torch.full((3,), -2.0), torch.full((3,), 2.0), unbounded)
    renderer = NGP(CONES, bounds, "white", 1)
    rays = Rays(*(torch.tensor(v) for v in ([[0.0, 0, 0]], [[0.0, 0, 3.0]], [0.01], [0.1], [50.0])))
    core = renderer._core_rays(rays)
    t = torch.tensor([0.5, 4.0])
    unit = unit_cube(core.origins + t[:, None] * core.directions, unbounded)
    samples = Samples(unit, t, torch.ones(2), torch.tensor([0, 2]))
    radius = 0.01 * t / 1.5 / 2
    scale = torch.tensor([0.25, 0.25 * (2 - 1 / 4) / 4]) if unbounded else 0.5
    sizes = core.sizes(samples, torch.zeros(2, dtype=torch.long), unbounded)
    torch.testing.assert_close(sizes, 0.5 * radius * scale)


def test_cones_of_photos_of_one_size_are_warned_for(caplog) -> None:
    for config, scales, warned in ((SMALL, 1, False), (CONES, 2, False), (CONES, 1, True)):
        info = load_scene("builtin:still:16", scales=scales).info
        NGP.from_scene(config, info).read_for_training(info)
        assert ("--scales 4 teaches them larger ones" in caplog.text) == warned


@pytest.mark.slow
def test_cones_know_pictures_of_several_sizes() -> None:
    """Three sizes of the same photos, after as many steps: the smallest are much better known than by lines, the
    largest as well."""
    scene = load_scene("builtin:still:64", scales=3)
    views = scene.split("test")
    assert views.pixel_areas is not None
    of_size = [(views.pixel_areas == area).nonzero()[:, 0].tolist() for area in (1, 16)]
    batches = [PhotoSource(views.subset(chosen), 0).batch(0, 2000) for chosen in of_size]
    config = replace(SMALL, levels=6, finest_resolution=256, log2_entries=14, steps=192, samples=8192)
    found = []
    for cones in (False, True):
        torch.manual_seed(0)
        renderer = NGP.from_scene(replace(config, cones=cones), scene.info)
        train(renderer, PhotoSource(scene.split("train"), 0), 300)
        with torch.no_grad():
            errors = [renderer.losses(batch, 300, 0).squared_error.mean() for batch in batches]
        found.append(-10 * torch.stack(errors).log10())
    large, small = (found[1] - found[0]).tolist()
    assert large > -0.5
    assert small > 1.5


def test_query_has_gradients() -> None:
    torch.manual_seed(0)
    renderer = NGP(SMALL, box(), "white", 1)
    density, rgb = renderer.query(torch.rand(8, 3), torch.nn.functional.normalize(torch.randn(8, 3), dim=1))
    (density.sum() + rgb.sum()).backward()
    assert density.shape == (8,)
    assert rgb.shape == (8, 3)
    assert renderer.grid.table.grad is not None


@pytest.mark.parametrize("background", ["white", "black", "random", "opaque"])
def test_every_background_trains(background: Background) -> None:
    torch.manual_seed(0)
    config = NGPConfig(**{**vars(SMALL), "opacity_weight": 1e-3, "distortion_weight": 1e-3})
    renderer = NGP(config, box(), background, 1)
    losses = renderer.losses(a_batch(), 0, 0)
    assert set(losses.terms) == {"rgb", "opacity", "distortion"}
    torch.stack(list(losses.terms.values())).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in renderer.parameters() if p.grad is not None)


def test_refined_cameras_get_gradients() -> None:
    torch.manual_seed(0)
    renderer = NGP(NGPConfig(**{**vars(SMALL), "refine_cameras": True}), box(), "white", 2)
    torch.nn.init.normal_(renderer.grid.table)
    renderer.losses(a_batch(), 0, 0).terms["rgb"].backward()
    assert renderer.pose_corrections is not None
    gradient = renderer.pose_corrections.grad
    assert gradient is not None
    assert gradient[0].abs().min() > 0
    assert not gradient[1].any()


def corrected(scene: Scene) -> NGP:
    """Untrained, but with corrections of the cameras."""
    torch.manual_seed(0)
    renderer = NGP.from_scene(replace(SMALL, refine_cameras=True), scene.info)
    torch.nn.init.normal_(renderer.grid.table)
    assert renderer.pose_corrections is not None
    torch.nn.init.normal_(renderer.pose_corrections, std=0.02)
    return renderer


def test_students_are_given_the_cameras_that_were_found() -> None:
    scene = load_builtin("still:16")
    renderer = corrected(scene)
    captured = scene.info.cameras["train"]
    taught = taught_scene(scene.info, renderer)
    found = taught.cameras["train"]
    assert taught.refined
    assert not torch.allclose(found.camera_to_world, captured.camera_to_world, atol=1e-3)
    # Training meant these rays for the photo.
    meant, rays = renderer._refined(captured.view_rays(3).flatten()), found.view_rays(3).flatten()
    torch.testing.assert_close(meant.origins, rays.origins, atol=1e-5, rtol=0)
    torch.testing.assert_close(meant.directions, rays.directions, atol=1e-5, rtol=0)
    # The student's photos are read with them, at any size; held-out cameras stay.
    again = load_scene_like(taught, "builtin:still:16", downscale=2)
    assert torch.equal(again.split("train").cameras.camera_to_world, found.camera_to_world)
    assert torch.equal(again.info.cameras["test"].camera_to_world, scene.info.cameras["test"].camera_to_world)
    fewer = replace(taught, cameras={**taught.cameras, "train": found[:5]})
    with pytest.raises(LumigraphError, match="corrected the cameras of 5 photos"):
        load_scene_like(fewer, "builtin:still:16")


def test_bake_knows_the_cameras_that_were_found(tmp_path: Path) -> None:
    scene = load_builtin("still:16")
    renderer = corrected(scene)
    options = TrainOptions(run=tmp_path / "run", device="cpu")
    run = Run.create(options.run, "ngp", renderer.config, scene.info, options)
    run.save_weights(renderer, 1)
    assert (
        main(["bake", str(run.path), "--out", str(tmp_path / "views"), "--views", "2", "--device", "cpu"])
        == 0
    )
    info = Shards.open(tmp_path / "views").plan.info
    assert info.refined
    found = renderer.refined(scene.info.cameras["train"])
    assert torch.equal(info.cameras["train"].camera_to_world, found.camera_to_world)


@pytest.mark.parametrize(("schedule", "middle"), [("exponential", 0.1), ("cosine", 0.505)])
def test_learning_rate_falls(schedule: Literal["exponential", "cosine"], middle: float) -> None:
    config = replace(SMALL, schedule=schedule, hold=0.5, final_lr=0.01, warmup_steps=50)
    renderer = NGP(config, box(), "white", 1)
    scales = [renderer.lr_scale(49, progress) for progress in (0.0, 0.5, 0.75, 1.0)]
    assert scales == pytest.approx([1, 1, middle, 0.01])


def test_learning_rate_rises_first_where_a_wall_would_be_learnt() -> None:
    asked = NGP(replace(SMALL, warmup_steps=50), box(), "white", 100)
    assert [asked.lr_scale(step, 0.0) for step in (0, 24, 49, 50)] == pytest.approx([0.02, 0.5, 1, 1])
    walls = replace(SMALL, depth=DepthLoss(depth_loss="urf"))
    for config, photos, scale in ((walls, 19, 0.5), (walls, 20, 1), (SMALL, 19, 1)):
        # Spread over the 60 of the scene, whose numbers they keep.
        scene = load_scene("builtin:still:16", splits=SplitOptions(views=photos, select="uniform"))
        assert NGP.from_scene(config, scene.info).lr_scale(49, 0.0) == scale
    published = NGP(replace(SMALL, warmup_steps=PRESETS["paper"].warmup_steps), box(), "white", 3)
    assert published.lr_scale(0, 0.0) == 1


def moved(cameras: Cameras, correction: torch.Tensor, half: float) -> Cameras:
    """Cameras turned by [N, :3] radians and shifted by [N, 3:] of `half`."""
    pose = cameras.camera_to_world
    rotation = so3_exp(correction[:, :3]) @ pose[:, :, :3]
    position = pose[:, :, 3:] + half * correction[:, 3:, None]
    return replace(cameras, camera_to_world=torch.cat([rotation, position], 2))


@pytest.mark.slow
def test_refinement_finds_where_photos_were_taken() -> None:
    """Poses off by 0.01 radians and 1 % of the box: where points land in the pictures is corrected by more than half.

    Shifts along the view hardly show in a picture, and are not asked for.
    """
    scene = load_builtin("still:64")
    views, half = scene.split("train"), float(scene.info.bounds.half_extent.max())
    noise = 0.01 * torch.randn(len(views), 6, generator=torch.Generator().manual_seed(4))
    source = PhotoSource(views, 0)
    source.cameras = moved(views.cameras, noise, half)
    torch.manual_seed(0)
    config = replace(SMALL, finest_resolution=128, log2_entries=14, refine_cameras=True, camera_lr=1e-3)
    renderer = NGP.from_scene(config, scene.info)
    train(renderer, source, 1000)
    assert renderer.pose_corrections is not None
    found = moved(source.cameras, renderer.pose_corrections.detach(), half)
    points = torch.rand(200, 3, generator=torch.Generator().manual_seed(5)) - 0.5

    def pixels_off(cameras: Cameras) -> float:
        which = torch.arange(len(cameras)).repeat_interleave(len(points))
        all_points = points.repeat(len(cameras), 1)
        truth, _ = views.cameras.project(all_points, which)
        return float((cameras.project(all_points, which)[0] - truth).norm(dim=1).mean())

    assert pixels_off(found) < 0.5 * pixels_off(source.cameras)


def test_recovery_starts_over() -> None:
    torch.manual_seed(0)
    renderer = NGP(SMALL, box(), "white", 1)
    renderer.occupancy.occupied.zero_()
    before = renderer.grid.table.detach().clone()
    assert renderer.recover(7)
    assert renderer.occupancy.occupied.all()
    assert not torch.equal(before, renderer.grid.table)
