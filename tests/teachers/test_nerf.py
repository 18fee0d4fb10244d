"""NeRF: published sizes and schedules, that it learns, and that it renders the same through every door."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lumigraph.cli.main import main
from lumigraph.cli.opening import open_renderer
from lumigraph.configs.common import TrainOptions
from lumigraph.configs.nerf import PRESETS, NeRFConfig
from lumigraph.errors import LumigraphError
from lumigraph.fields.nerf_mlp import NeRFMLP
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.ndc import ForwardFrame
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.background import Background
from lumigraph.rendering.renderer import Batch
from lumigraph.scenes.procedural import load_builtin, make_scene
from lumigraph.teachers.nerf import NeRF
from lumigraph.training.begin import begin
from lumigraph.training.fit import Cadence, fit
from lumigraph.training.runs import Run
from lumigraph.training.sources import PhotoSource

SMALL = NeRFConfig(
    rays=256, samples=24, importance=16, depth=3, width=48, coarse_depth=2, coarse_width=32, skip=1,
    position_octaves=5, direction_octaves=2, lr=5e-3, training_steps=300,
)  # fmt: skip
TINY = replace(SMALL, rays=48, samples=6, importance=4, width=16, coarse_width=8)


def some_rays(count: int) -> Rays:
    generator = torch.Generator().manual_seed(0)
    origins = torch.randn(count, 3, generator=generator)
    origins = 4 * origins / origins.norm(dim=1, keepdim=True)
    directions = 0.2 * torch.randn(count, 3, generator=generator) - origins / 4
    numbers = torch.full((count,), 2.0)
    return Rays(origins, directions, 0.01 * numbers, numbers, 3 * numbers)


def a_batch(count: int = 64) -> Batch:
    generator = torch.Generator().manual_seed(1)
    alpha = torch.rand(count, 1, generator=generator)
    rgba = torch.cat([alpha * torch.rand(count, 3, generator=generator), alpha], 1)
    return Batch(some_rays(count), rgba)


def lively(renderer: NeRF) -> NeRF:
    """Weights as of a trained network: densities and colours that differ from place to place."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in renderer.parameters():
            parameter.normal_(std=1.6 / math.sqrt(parameter.shape[-1]) if parameter.ndim == 2 else 0.3)
    return renderer


def train(renderer: NeRF, source: PhotoSource, steps: int) -> float:
    """A plain loop; returns the PSNR of the last ten batches."""
    optimiser = renderer.make_optimiser()
    errors = []
    for step in range(steps):
        losses = renderer.losses(source.batch(step, renderer.rays_per_step), step, 0)
        for group in optimiser.param_groups:
            group["lr"] = renderer.config.lr * renderer.lr_scale(step, step / steps)
        optimiser.zero_grad()
        torch.stack(list(losses.terms.values())).sum().backward()
        optimiser.step()
        errors.append(float(losses.squared_error.mean()))
    return -10 * torch.tensor(errors[-10:]).mean().log10().item()


# ------------------------------------------------------------------ what is published


def test_published_sizes() -> None:
    paper = PRESETS["paper"]
    renderer = NeRF(paper, "white")
    counts = [sum(p.numel() for p in network.parameters()) for network in (renderer.coarse, renderer.fine)]
    assert counts == [595_844, 595_844]
    assert (paper.rays, paper.samples, paper.importance) == (4096, 64, 128)
    assert (paper.density, paper.optimiser, paper.density_noise, paper.perturb) == ("relu", "adam", 0.0, 1.0)


def biased(config: NeRFConfig) -> bool:
    """Whether a network begins with biases: torch's first weights have them, Glorot's have none."""
    return bool(NeRF(replace(config, width=8, depth=2), "white").fine.hidden[0].bias.any())  # pyright: ignore


def test_published_first_weights() -> None:
    """Keras began the first NeRF with Glorot's weights; nerf_pl begins with torch's."""
    assert not biased(PRESETS["paper"])
    assert biased(PRESETS["nerf_pl-blender"]) and biased(PRESETS["nerf_pl-llff"])


def test_recipes_of_nerf_pl() -> None:
    blender, llff = PRESETS["nerf_pl-blender"], PRESETS["nerf_pl-llff"]
    for recipe in (blender, llff):
        assert (recipe.rays, recipe.samples, recipe.importance, recipe.lr) == (1024, 64, 64, 5e-4)
        assert (recipe.schedule, recipe.schedule_unit, recipe.decay_gamma) == ("steplr", "epoch", 0.5)
    assert (blender.decay_steps, blender.density_noise) == ((2, 4, 8), 0.0)
    assert (llff.decay_steps, llff.density_noise) == ((10, 20), 1.0)
    per_epoch = math.ceil(100 * 400 * 400 / 1024)
    assert blender.training_steps == 16 * per_epoch
    renderer = NeRF(blender, "white", steps_per_epoch=per_epoch)
    steps = [0, 2 * per_epoch - 1, 2 * per_epoch, 4 * per_epoch, 8 * per_epoch, 250_000]
    scales = [renderer.lr_scale(step, step / 250_000) for step in steps]
    assert scales == pytest.approx([1, 1, 0.5, 0.25, 0.125, 0.125])


def rate(step: int, **changes: object) -> float:
    config = replace(PRESETS["paper"], **changes)  # pyright: ignore[reportArgumentType]
    renderer = NeRF(replace(config, width=8, depth=2), "white", steps_per_epoch=10)
    return config.lr * renderer.lr_scale(step, step / config.training_steps)


def test_schedules() -> None:
    # nerf-pytorch after 200,000 steps: lego (decay 500), fern (decay 250).
    assert rate(200_000, decay_steps=(500_000,)) == pytest.approx(1.99054e-4, rel=1e-5)
    assert rate(200_000, decay_steps=(250_000,)) == pytest.approx(7.92447e-5, rel=1e-5)
    assert rate(300_000) == pytest.approx(5e-5)
    assert rate(150_000, schedule="cosine") == pytest.approx((5e-4 + 1e-8) / 2)
    assert rate(300_000, schedule="cosine") == pytest.approx(1e-8)
    assert rate(150_000, schedule="poly", poly_exponent=2.0) == pytest.approx(5e-4 / 4)
    assert rate(300_000, schedule="constant") == 5e-4
    steps = {"schedule": "steplr", "decay_steps": (100, 200), "decay_gamma": 0.5}
    assert [rate(step, **steps) for step in (99, 100, 200)] == pytest.approx([5e-4, 2.5e-4, 1.25e-4])
    # Epochs of ten steps: the rate changes when one is over.
    epochs = {**steps, "schedule_unit": "epoch"}
    assert [rate(step, **epochs) for step in (999, 1000)] == pytest.approx([5e-4, 2.5e-4])
    rise = {**steps, "warmup": 50, "warmup_multiplier": 8.0}
    found = [rate(step, **rise) for step in (0, 25, 50, 149, 150)]
    assert found == pytest.approx([5e-4, 22.5e-4, 40e-4, 40e-4, 20e-4])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"perturb": 1.5}, "perturb must lie in 0..1"),
        ({"samples": 2}, "3 with importance"),
        ({"schedule": "steplr", "decay_steps": ()}, "steplr needs decay_steps"),
        ({"decay_steps": (4, 2)}, "must be positive and rise"),
        ({"width": 0}, "width must be positive"),
        ({"position_octaves": 40}, "beyond what float32 resolves"),
        ({"warmup": 5}, "need each other"),
        ({"warmup_multiplier": 2.0}, "need each other"),
    ],
)
def test_impossible_options(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NeRFConfig(**changes)


# ------------------------------------------------------------------ training


@pytest.mark.parametrize("density", ["softplus", "relu"])
def test_learns_a_scene(density: str) -> None:
    scene = make_scene("still", 16, 0, 0, size=24)
    torch.manual_seed(0)
    config = replace(SMALL, rays=128, density=density, foreground_share=0.3)  # pyright: ignore
    renderer = NeRF.from_scene(config, scene.info)
    source = PhotoSource(scene.split("train"), 0, sampling=renderer.pixel_sampling())
    assert train(renderer, source, 130) > 15.5


@pytest.mark.parametrize("background", ["white", "black", "random", "opaque"])
@pytest.mark.parametrize("loss", ["mse", "huber"])
def test_every_background_trains(background: Background, loss: str) -> None:
    torch.manual_seed(0)
    renderer = NeRF(replace(TINY, loss=loss, density_noise=1.0), background)  # pyright: ignore
    losses = renderer.losses(a_batch(), 0, 0)
    assert set(losses.terms) == {"rgb", "coarse"}
    torch.stack(list(losses.terms.values())).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in renderer.parameters())


def test_error_is_that_of_the_fine_colours() -> None:
    renderer = NeRF(replace(TINY, perturb=0.0), "white")
    losses = renderer.losses(a_batch(), 0, 0)
    seen = renderer.render(a_batch().rays).rgb
    rgba = a_batch().rgba
    wanted = (seen - (rgba[:, :3] + 1 - rgba[:, 3:])).square()
    torch.testing.assert_close(losses.squared_error, wanted.mean(1), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(losses.terms["rgb"], wanted.mean(), atol=1e-6, rtol=1e-4)


def test_randomness_is_that_of_seed_and_step() -> None:
    renderer = lively(NeRF(replace(TINY, density_noise=0.5), "white"))
    first = [
        renderer.losses(a_batch(), step, seed).terms["rgb"].item()
        for step, seed in ((3, 1), (3, 1), (4, 1), (3, 2))
    ]
    assert first[0] == first[1]
    assert len(set(first)) == 3


def test_extremes_are_finite() -> None:
    """Densities beyond what float32 multiplies, and none: finite colours and gradients."""
    for density in ("relu", "softplus"):
        for bias in (-1e8, 0.0, 1e8):
            renderer = NeRF(replace(TINY, density=density), "white")  # pyright: ignore
            with torch.no_grad():
                renderer.fine.density.bias.fill_(bias)
                renderer.coarse.density.bias.fill_(bias)
            losses = renderer.losses(a_batch(), 0, 0)
            torch.stack(list(losses.terms.values())).sum().backward()
            assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in renderer.parameters())
            seen = renderer.render(some_rays(20))
            assert seen.depth is not None and torch.isfinite(seen.depth).all()


def test_starts_over_after_a_collapse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relu density that died shows the background everywhere and has no gradient: only new weights help."""
    monkeypatch.setattr("lumigraph.training.watch.COLLAPSE_STEPS", 100)
    scene = make_scene("still", 4, 2, 0, size=24)
    options = TrainOptions(run=tmp_path / "run", max_steps=400, device="cpu", precision="float32")
    config = replace(TINY, importance=0, density="relu", depth=2, lr=0.01)
    run = begin("nerf", config, scene.info, options)
    renderer = run.new_renderer()
    assert isinstance(renderer, NeRF)
    with torch.no_grad():
        renderer.coarse.density.bias.fill_(-100)
    source = PhotoSource(scene.split("train"), 0)
    cadence = Cadence(probe=0.1, share=math.inf)
    result = fit(renderer, source, run, options, scene.views["val"], cadence=cadence)
    assert "the nerf starts over" in capsys.readouterr().err
    dead = result.history[0]["val_psnr"]
    assert result.val_psnr is not None
    assert result.val_psnr > dead + 2


# ------------------------------------------------------------------ rendering


@pytest.mark.parametrize("importance", [0, 16])
def test_renders_the_same_in_any_pieces(importance: int) -> None:
    renderer = lively(NeRF(replace(SMALL, importance=importance), "white"))
    rays = some_rays(700)
    whole = renderer.render(rays)
    parts = [renderer.render(part) for part in rays.split(97)]
    torch.testing.assert_close(torch.cat([part.rgb for part in parts]), whole.rgb, rtol=0, atol=1e-5)
    assert torch.equal(renderer.train().render(rays).rgb, whole.rgb)
    assert whole.rgb.std() > 0.02
    assert ((whole.rgb >= 0) & (whole.rgb <= 1)).all()


def test_coarse_only_has_one_network() -> None:
    renderer = NeRF(replace(TINY, importance=0), "white")
    assert [name for name, _ in renderer.named_children()] == ["coarse"]
    assert renderer.finest is renderer.coarse
    assert set(renderer.losses(a_batch(), 0, 0).terms) == {"rgb"}


def test_fine_samples_contain_the_coarse_ones() -> None:
    renderer = lively(NeRF(TINY, "white"))
    rays = some_rays(5)
    _, seen = renderer._trace(rays, None)
    assert seen.t.shape == (5, TINY.samples + TINY.importance)
    assert (seen.t.diff(dim=1) >= 0).all()
    even = torch.linspace(2, 6, TINY.samples)
    assert all((seen.t - t).abs().min(1).values.max() < 1e-6 for t in even)


def test_density_is_that_of_the_render() -> None:
    """Opacity of a ray, from densities asked for directly: 1 - exp(-integral)."""
    renderer = lively(NeRF(replace(SMALL, importance=0, samples=400), "black"))
    rays = some_rays(20)
    t = torch.linspace(2, 6, 400)
    points = rays.points(t.expand(20, 400))
    with torch.no_grad():
        density = renderer.density(points.reshape(-1, 3)).reshape(20, 400)
        same, rgb = renderer.query(points[:, 0], rays.view_directions)
    torch.testing.assert_close(same, density[:, 0])
    assert rgb.shape == (20, 3)
    length = rays.directions.norm(dim=1) * (t[1] - t[0])
    opacity = renderer.render(rays).opacity
    assert opacity is not None
    torch.testing.assert_close(opacity, 1 - torch.exp(-density.sum(1) * length), rtol=0, atol=1e-4)


def wall(renderer: NeRF, axis: int, place: float, sign: float) -> NeRF:
    """Weights of a red wall: opaque where sign * (coordinate - place) is above 0, empty before it."""
    for network in renderer.children():
        assert isinstance(network, NeRFMLP)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.zero_()
            network.hidden[0].weight[0, axis] = sign  # pyright: ignore
            network.hidden[0].bias[0] = -sign * place  # pyright: ignore
            network.density.weight[0, 0] = 1e5
            network.colour.bias.copy_(torch.tensor([20.0, -20.0, -20.0]))
    return renderer


WALL = NeRFConfig(
    samples=400, importance=100, depth=1, width=4, coarse_depth=1, coarse_width=4, skip=None, density="relu",
    position_octaves=2,
)  # fmt: skip


def forward_rays() -> Rays:
    """From about the origin into +z, depth along z."""
    generator = torch.Generator().manual_seed(0)
    origins = 0.2 * torch.randn(30, 3, generator=generator)
    slopes = 0.3 * torch.randn(30, 2, generator=generator)
    one = torch.ones(30)
    return Rays(origins, torch.cat([slopes, one[:, None]], 1), 0.01 * one, 0.5 * one, 50 * one)


def test_ndc_and_space_see_the_same_wall() -> None:
    """A wall at z = 4 of a forward-facing scene: z of NDC is 1 - 2 near / depth there."""
    frame = ForwardFrame(torch.eye(3, 4), (0.6, 0.4), 1.0)
    rays = forward_rays()
    for config in (WALL, replace(WALL, view_frame="ndc")):
        in_ndc = wall(NeRF(config, "black", frame), 2, 1 - 2 / 4, 1.0).render(rays)
        in_space = wall(NeRF(replace(config, disparity=True), "black"), 2, 4.0, 1.0).render(rays)
        for seen in (in_ndc, in_space):
            assert seen.depth is not None
            torch.testing.assert_close(seen.depth, 4 - rays.origins[:, 2], atol=0.1, rtol=0)
            torch.testing.assert_close(seen.extras["depth_median"], 4 - rays.origins[:, 2], atol=0.1, rtol=0)
            torch.testing.assert_close(seen.rgb, torch.tensor([1.0, 0, 0]).expand(30, 3), atol=1e-3, rtol=0)
        torch.testing.assert_close(in_ndc.extras["depth_raw"], torch.full((30,), 0.75), atol=0.01, rtol=0)


def test_depth_is_that_of_the_far_plane_where_nothing_is() -> None:
    rays = forward_rays()
    for frame in (None, ForwardFrame(torch.eye(3, 4), (0.6, 0.4), 1.0)):
        seen = wall(NeRF(WALL, "white", frame), 2, 1e6, 1.0).render(rays)
        assert seen.depth is not None
        assert torch.equal(seen.depth, rays.far)
        assert torch.equal(seen.extras["depth_median"], rays.far)
        assert torch.equal(seen.rgb, torch.ones(30, 3))


def test_views_are_encoded_in_the_frame_of_the_scene() -> None:
    """Two rays that differ in direction alone get other colours by it, in NDC as in space."""
    frame = ForwardFrame(torch.eye(3, 4), (0.6, 0.4), 1.0)
    rays = forward_rays()
    renderer = NeRF(TINY, "black", frame)
    views = renderer._views(rays, renderer._sampled(rays))
    assert views is not None
    torch.testing.assert_close(views[:, 0, :3], rays.view_directions)


def test_distances_and_depths() -> None:
    """Bounded by distance, rays end on a sphere; a wall is seen at the same depth either way."""
    rays = forward_rays()
    by_distance = NeRF(replace(WALL, ray_length="distance"), "black")
    sampled = by_distance._sampled(rays)
    torch.testing.assert_close(sampled.far * rays.directions.norm(dim=1), rays.far)
    seen = wall(by_distance, 2, 4.0, 1.0).render(rays)
    assert seen.depth is not None
    torch.testing.assert_close(seen.depth, 4 - rays.origins[:, 2], atol=0.3, rtol=0)


def test_scenes_that_do_not_fit() -> None:
    info = make_scene("still", 2, 0, 0, size=16).info
    with pytest.raises(LumigraphError, match="forward-facing"):
        NeRF.from_scene(replace(TINY, ndc="on"), info)
    frame = ForwardFrame(torch.eye(3, 4), (0.6, 0.4), 1.0)
    with pytest.raises(LumigraphError, match="looks backwards, or stands behind the near plane.*--ndc off"):
        NeRF.from_scene(TINY, replace(info, forward=frame))
    ahead = replace(
        info.cameras["train"], camera_to_world=torch.eye(3, 4).repeat(2, 1, 1), near=torch.full((2,), 0.5)
    )
    forward = replace(info, forward=frame, cameras={"train": ahead})
    assert NeRF.from_scene(TINY, forward).frame is frame
    assert NeRF.from_scene(replace(TINY, ndc="off"), forward).frame is None
    # Where nothing bounds the scene, and no frame does, samples are even in inverse depth.
    far_off = replace(forward, bounds=replace(info.bounds, unbounded=True))
    assert [NeRF.from_scene(replace(TINY, ndc=ndc), far_off).disparity for ndc in ("off", "on")] == [
        True,
        False,
    ]
    assert not NeRF.from_scene(replace(TINY, ndc="off", disparity=False), far_off).disparity
    assert not NeRF.from_scene(replace(TINY, ndc="off"), forward).disparity
    with pytest.raises(LumigraphError, match="inverse depth.*--ndc off"):
        NeRF.from_scene(replace(TINY, disparity=True), forward)
    with pytest.raises(LumigraphError, match="looks backwards"):
        NeRF.from_scene(TINY, forward).render(some_rays(20))
    with pytest.raises(LumigraphError, match="--ndc off"):
        NeRF.from_scene(TINY, forward).density(torch.zeros(1, 3))


def test_corners_of_pixels() -> None:
    """Such a network is rendered half a pixel away, and not trained on."""
    camera = make_scene("still", 1, 0, 0, size=16).info.cameras["train"]
    centre = lively(NeRF(TINY, "white"))
    corner = NeRF(replace(TINY, pixel_corner=True), "white")
    corner.load_state_dict(centre.state_dict())
    shifted = replace(camera, principal=camera.principal + 0.5)
    assert torch.equal(corner.view(camera).rgb, centre.view(shifted).rgb)
    assert not torch.equal(corner.view(camera).rgb, centre.view(camera).rgb)
    with pytest.raises(LumigraphError, match="can only be rendered"):
        corner.make_optimiser()


# ------------------------------------------------------------------ packed runs


@pytest.fixture
def run(tmp_path: Path) -> Run:
    scene = load_builtin("still:16")
    options = TrainOptions(run=tmp_path / "run", device="cpu")
    run = Run.create(options.run, "nerf", TINY, scene.info, options)
    run.save_weights(lively(NeRF.from_scene(TINY, scene.info)), 5)
    return run


def view_of(path: Path, cameras: Cameras) -> Tensor:
    return open_renderer(path, "cpu")[0].view(cameras[0]).rgb


def test_a_packed_run_renders_anywhere(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed = tmp_path / "elsewhere" / "scene.safetensors"
    assert main(["pack", str(run.path), "--out", str(packed)]) == 0
    assert sorted(path.name for path in packed.parent.iterdir()) == ["scene.json", "scene.safetensors"]
    before = view_of(run.path, run.info.cameras["train"])
    run.path.rename(tmp_path / "gone")
    assert torch.equal(view_of(packed, run.info.cameras["train"]), before)
    assert main(["eval", str(packed), "--device", "cpu", "--json", str(tmp_path / "result.json")]) == 0
    movie = ["render", str(packed), "--device", "cpu", "--out", str(tmp_path / "a.gif"), "--frames", "2"]
    assert main(movie) == 0
    views = ["bake", str(packed), "--out", str(tmp_path / "views"), "--views", "2", "--device", "cpu"]
    assert main(views) == 0
    assert sorted(path.name for path in packed.parent.iterdir()) == ["scene.json", "scene.safetensors"]
    capsys.readouterr()
    assert main(["export", str(packed), "--out", str(tmp_path / "bundle")]) == 2
    assert "nerf" in capsys.readouterr().err


def test_packing_refuses_what_it_would_destroy(run: Run, tmp_path: Path) -> None:
    packed = tmp_path / "scene.safetensors"
    with pytest.raises(LumigraphError, match=r"NAME\.safetensors"):
        run.pack(tmp_path / "scene")
    run.pack(packed)
    with pytest.raises(LumigraphError, match="exists already.*--overwrite"):
        run.pack(packed)
    run.pack(packed, overwrite=True)
    packed.with_suffix(".json").unlink()
    with pytest.raises(LumigraphError, match=r"scene\.json is not beside these weights"):
        open_renderer(packed)
