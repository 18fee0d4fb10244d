"""mip-NeRF 360: it learns, its parts reduce to simpler ones, and it has the published sizes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lumigraph.configs.common import TrainOptions
from lumigraph.configs.depth import DepthLoss
from lumigraph.configs.mipnerf360 import PRESETS, MipNeRF360Config
from lumigraph.errors import LumigraphError
from lumigraph.evaluation.evaluate import evaluate
from lumigraph.geometry.bounds import Bounds
from lumigraph.geometry.ndc import ForwardFrame
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.background import Background
from lumigraph.rendering.renderer import Batch
from lumigraph.rendering.volume.histogram import interlevel_loss
from lumigraph.rendering.volume.proposals import LevelDraws, level_draws
from lumigraph.scenes.procedural import load_builtin
from lumigraph.scenes.scene import Scene, SceneInfo, Views
from lumigraph.teachers import mipnerf360
from lumigraph.teachers.mipnerf360 import MipNeRF360, charbonnier
from lumigraph.training.fit import fit
from lumigraph.training.runs import Run
from lumigraph.training.sources import PhotoSource
from lumigraph.training.task import clip_gradients

SMALL = MipNeRF360Config(
    rays=256,
    proposal_samples=(24, 16),
    samples=12,
    levels=4,
    log2_entries=12,
    finest_resolution=64,
    proposal_levels=3,
    proposal_log2_entries=12,
    proposal_resolution=32,
)
NETWORKS = replace(
    SMALL,
    rays=64,
    field="mlp",
    resampler="dilate",
    layers=6,
    width=32,
    proposal_width=16,
    octaves=4,
    solid="icosahedron",
    subdivisions=2,
    lr=2e-3,
)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return load_builtin("still:16", downscale=4)


def made(config: MipNeRF360Config, info: SceneInfo, unbounded: bool = False, seed: int = 0) -> MipNeRF360:
    torch.manual_seed(seed)
    bounds = Bounds(info.bounds.lower, info.bounds.upper, unbounded)
    return MipNeRF360(config, bounds, info.background, info.cameras["train"])


def a_batch(scene: Scene, count: int = 64) -> Batch:
    return PhotoSource(scene.split("train"), 0).batch(0, count)


def draws_of(renderer: MipNeRF360, rays: int, generator: torch.Generator | None) -> LevelDraws:
    return level_draws(renderer.config, rays, generator, renderer.device)


def train(renderer: MipNeRF360, source: PhotoSource, steps: int) -> float:
    """A plain loop; returns the PSNR of the last ten batches."""
    optimiser = renderer.make_optimiser()
    errors = []
    for step in range(steps):
        renderer.begin_step(step, step / steps, 0)
        losses = renderer.losses(source.batch(step, renderer.rays_per_step), step, 0)
        optimiser.zero_grad()
        torch.stack(list(losses.terms.values())).sum().backward()
        clip_gradients(optimiser)
        optimiser.step()
        errors.append(float(losses.squared_error.mean()))
    return -10 * torch.tensor(errors[-10:]).mean().log10().item()


# ------------------------------------------------------------------ it learns


def test_learns_a_scene() -> None:
    scene = load_builtin("still", downscale=4)
    renderer = made(SMALL, scene.info)
    assert train(renderer, PhotoSource(scene.split("train"), 0), 150) > 20


def test_networks_on_gaussians_learn(scene: Scene) -> None:
    renderer = made(NETWORKS, scene.info, unbounded=True)
    source = PhotoSource(scene.split("train"), 0)
    before = float(renderer.losses(source.batch(0, 256), 0, 0).squared_error.mean())
    train(renderer, source, 60)
    assert float(renderer.losses(source.batch(0, 256), 0, 0).squared_error.mean()) < 0.5 * before


@pytest.mark.parametrize("resampler", ["blur", "dilate"])
def test_proposals_find_what_the_field_sees(resampler) -> None:
    """After a little training, less of the final histogram is left uncovered than when proposals do not learn."""
    scene = load_builtin("still:16", downscale=4)

    def uncovered(weight: float) -> float:
        config = replace(SMALL, resampler=resampler, proposal_weight=weight)
        renderer = made(config, scene.info)
        train(renderer, PhotoSource(scene.split("train"), 0), 80)
        levels = renderer._see(a_batch(scene, 256).rays).levels
        final = levels[-1]
        return sum(float(interlevel_loss(final.s, final.weights, p.s, p.weights).mean()) for p in levels[:-1])

    assert uncovered(1.0) < 0.5 * uncovered(0.0)


# ------------------------------------------------------------------ what is seen


@pytest.mark.parametrize("unbounded", [False, True])
@pytest.mark.parametrize("config", [SMALL, NETWORKS])
def test_renders_the_same_in_any_pieces(scene: Scene, config: MipNeRF360Config, unbounded: bool) -> None:
    renderer = made(config, scene.info, unbounded)
    rays = a_batch(scene).rays
    whole = renderer.render(rays)
    renderer.begin_step(3, 0.5, 0)
    parts = [renderer.render(part) for part in rays.split(17)]
    torch.testing.assert_close(torch.cat([part.rgb for part in parts]), whole.rgb, rtol=0, atol=1e-5)
    assert whole.depth is not None
    assert torch.isfinite(whole.depth).all()
    assert ((whole.rgb >= 0) & (whole.rgb <= 1)).all()
    assert set(whole.extras) == {"depth_raw", "depth_median"}


@pytest.mark.parametrize("spacing", ["linear", "disparity"])
@pytest.mark.parametrize("resampler", ["blur", "dilate"])
@pytest.mark.parametrize("trained", [False, True])
def test_edges_are_in_order_between_near_and_far(scene: Scene, resampler, spacing, trained: bool) -> None:
    config = replace(SMALL, resampler=resampler, spacing=spacing, field="mlp", octaves=4)
    renderer = made(config, scene.info)
    rays = a_batch(scene).rays
    draws = draws_of(renderer, len(rays), torch.Generator().manual_seed(0) if trained else None)
    for level, count in zip(renderer._see(rays, draws).levels, (24, 16, 12), strict=True):
        assert level.edges.shape == (len(rays), count + 1)
        assert (level.edges.diff(dim=1) >= 0).all()
        assert (level.edges >= rays.near[:, None] * 0.999).all()
        assert (level.edges <= rays.far[:, None] * 1.001).all()
        assert (level.weights.sum(1) <= 1 + 1e-5).all()


def test_a_ray_that_misses_the_box_sees_nothing(scene: Scene) -> None:
    renderer = made(SMALL, scene.info)
    rays = a_batch(scene, 4).rays
    missing = replace(rays, origins=rays.origins + 1e3)
    rendering = renderer.render(missing)
    assert rendering.opacity is not None
    assert not rendering.opacity.any()
    assert torch.equal(rendering.rgb, torch.ones(4, 3))


def test_an_opaque_background_lets_no_light_through(scene: Scene) -> None:
    config = replace(SMALL, opaque_background=True)
    renderer = made(config, scene.info, unbounded=True)
    batch = a_batch(scene)
    levels = renderer._see(batch.rays).levels
    for level in levels:
        torch.testing.assert_close(level.weights.sum(1), torch.ones(len(batch.rays)))
    torch.stack(list(renderer.losses(batch, 0, 0).terms.values())).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in renderer.parameters() if p.grad is not None)


def test_density_is_that_of_the_render(scene: Scene) -> None:
    """Opacity of a ray, from densities asked for directly: 1 - exp(-integral)."""
    config = replace(SMALL, proposal_samples=(256,), samples=512)
    renderer = made(config, scene.info)
    rays = a_batch(scene, 20).rays
    opacity = renderer.render(rays).opacity
    edges = renderer._see(rays).final.edges
    t = torch.linspace(0, 1, 2000) * (edges[:, -1:] - edges[:, :1]) + edges[:, :1]
    with torch.no_grad():
        density = renderer.density(rays.points(t).reshape(-1, 3)).reshape(t.shape)
    length = rays.directions.norm(dim=1) * (t[:, 1] - t[:, 0])
    assert opacity is not None
    torch.testing.assert_close(opacity, 1 - torch.exp(-density.sum(1) * length), rtol=0, atol=0.02)


def test_query_has_gradients(scene: Scene) -> None:
    renderer = made(replace(SMALL, codes=2), scene.info)
    density, rgb = renderer.query(torch.rand(8, 3), torch.nn.functional.normalize(torch.randn(8, 3), dim=1))
    (density.sum() + rgb.sum()).backward()
    assert density.shape == (8,)
    assert rgb.shape == (8, 3)
    assert renderer.field.trunk[0].weight.grad is not None


def test_hardly_visible_samples_hardly_count(scene: Scene) -> None:
    renderer = made(SMALL, scene.info)
    rays = a_batch(scene).rays
    some = renderer.render(rays).rgb
    renderer.config = replace(SMALL, least_weight=0.0)
    torch.testing.assert_close(some, renderer.render(rays).rgb, atol=12e-4, rtol=0)


@pytest.mark.parametrize("config", [SMALL, NETWORKS])
def test_normals_are_unit_vectors_down_the_density(scene: Scene, config: MipNeRF360Config) -> None:
    renderer = made(replace(config, normals=True), scene.info)
    if config.field == "grid":
        torch.nn.init.normal_(renderer.field.encoder.grid.table)  # pyright: ignore
    rendering = renderer.render(a_batch(scene).rays)
    normals = rendering.extras["normals"]
    assert rendering.opacity is not None
    seen = (rendering.opacity > 0).float()
    assert seen.sum() > 32
    torch.testing.assert_close(normals.norm(dim=1), seen, atol=1e-4, rtol=0)
    assert not normals.requires_grad


def test_normals_do_not_change_the_picture(scene: Scene) -> None:
    """Where no camera looks there is nothing, whether normals are asked for or not."""
    renderer = MipNeRF360.from_scene(SMALL, scene.info)
    torch.nn.init.normal_(renderer.field.encoder.grid.table)  # pyright: ignore
    surroundings, rays = renderer.surroundings, a_batch(scene).rays
    assert surroundings is not None
    surroundings.near &= torch.rand(surroundings.near.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    plain = renderer.render(rays)
    renderer.config = replace(SMALL, normals=True)
    rendering = renderer.render(rays)
    torch.testing.assert_close(rendering.rgb, plain.rgb)
    torch.testing.assert_close(rendering.opacity, plain.opacity)
    torch.testing.assert_close(rendering.depth, plain.depth)
    surroundings.near.fill_(False)
    assert not renderer.render(rays).extras["normals"].any()


def test_a_grid_is_asked_for_normals_where_something_shows(scene: Scene) -> None:
    """They are those of the density there, and nothing elsewhere."""
    renderer = made(replace(SMALL, finest_resolution=4096, base_resolution=16, levels=1), scene.info)
    points = 1.8 * torch.rand(400, 3, generator=torch.Generator().manual_seed(0)) - 0.9
    torch.nn.init.normal_(renderer.field.encoder.grid.table)  # pyright: ignore
    shown = torch.arange(400) % 2 == 0
    learnt = renderer._slope_around(points, shown)
    assert learnt.requires_grad
    learnt = learnt.detach()
    assert not learnt[~shown].any()
    with torch.no_grad():
        renderer.surroundings = None
        _, _, exact = renderer._looked_at(points, None, 0.0, True)
    assert exact is not None
    assert float((learnt * exact)[shown].sum(1).median()) > 0.99
    torch.testing.assert_close(learnt[shown].norm(dim=1), torch.ones(200), rtol=0, atol=1e-3)
    assert not renderer._slope_around(points, torch.zeros_like(shown)).any()


@pytest.mark.parametrize("config", [SMALL, NETWORKS])
def test_predicted_normals_come_to_be_those_of_the_density(scene: Scene, config: MipNeRF360Config) -> None:
    torch.manual_seed(0)
    config = replace(config, normals=True, predicted_normals_weight=1.0, orientation_weight=0.1)
    renderer, batch = made(config, scene.info), a_batch(scene)
    if config.field == "grid":
        torch.nn.init.normal_(renderer.field.encoder.grid.table)  # pyright: ignore
    layer = renderer.field.normal
    assert layer is not None
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.02)
    history = []
    for _ in range(60):
        losses = renderer.losses(batch, 0, 0)
        assert "orientation" in losses.terms
        optimiser.zero_grad()
        torch.stack(list(losses.terms.values())).sum().backward()
        assert any(bool(p.grad.any()) for p in layer.parameters() if p.grad is not None)
        optimiser.step()
        history.append(float(losses.terms["normals"].detach()))
    assert history[-1] < 0.8 * history[0]
    rendering = renderer.render(batch.rays)
    assert rendering.opacity is not None
    seen = (rendering.opacity > 0).float()
    torch.testing.assert_close(rendering.extras["normals"].norm(dim=1), seen, atol=1e-4, rtol=0)


# ------------------------------------------------------------------ losses


@pytest.mark.parametrize("background", ["white", "black", "random", "opaque"])
def test_every_background_trains(scene: Scene, background: Background) -> None:
    renderer = made(replace(NETWORKS, density_noise=0.1, orientation_weight=0.1, codes=3), scene.info, True)
    renderer.background = background
    losses = renderer.losses(a_batch(scene), 0, 0)
    assert set(losses.terms) == {"rgb", "proposals", "distortion", "codes", "orientation"}
    torch.stack(list(losses.terms.values())).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in renderer.parameters())


def test_what_is_known_to_be_empty_is_passed_by_and_nothing_else(scene: Scene) -> None:
    renderer = made(SMALL, scene.info)
    surroundings = renderer.surroundings
    assert surroundings is not None
    surroundings.grid.update(lambda points: 100.0 * (points.norm(dim=-1) < 0.3), 1.0, torch.Generator())
    surroundings._widen()
    points = 2 * torch.rand(500, 3, generator=torch.Generator().manual_seed(0)) - 1
    kept, noise = surroundings.hold(points), torch.randn(500, generator=torch.Generator().manual_seed(1))
    hidden, density = renderer._where_something_may_be(renderer.field, points, None, noise)
    whole = renderer.field.hidden(points, None)
    assert 0 < int(kept.sum()) < 250
    torch.testing.assert_close(hidden[kept], whole[kept])
    torch.testing.assert_close(density[kept], renderer.field.density_of(whole, noise)[kept])
    assert not density[~kept].any()
    renderer.begin_step(16, 0.1, 0)
    assert surroundings.near.float().mean() > 0.5  # what the field holds, not the ball
    assert made(replace(SMALL, cells=0), scene.info).surroundings is None


@pytest.mark.parametrize("name", ["l2", "swb"])
def test_the_sum_of_chunks_is_the_whole(monkeypatch: pytest.MonkeyPatch, scene: Scene, name) -> None:
    depth = DepthLoss(depth_loss=name, depth_weight=1.0, depth_epsilon=0.3)
    config = replace(
        NETWORKS, codes=2, distortion_weight=0.1, depth=depth, density_noise=0.1, depth_guided=0.25,
        depth_guided_learnt=True, normal_loss="cosine", normal_weight=1.0,
    )  # fmt: skip
    batch = PhotoSource(scene.split("train"), 0, depths=True, normals=True).batch(0, 128)
    batch.weight = torch.tensor([1.0, 4.0]).repeat(64)

    def learnt(kept: int) -> tuple[dict[str, float], Tensor, Tensor]:
        monkeypatch.setattr(mipnerf360, "_KEPT_SAMPLES", {"cpu": kept})
        renderer = made(config, scene.info)
        losses = renderer.losses(batch, 0, 0)
        torch.stack(list(losses.terms.values())).sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in renderer.parameters() if p.grad is not None])
        return {k: float(v.detach()) for k, v in losses.terms.items()}, losses.squared_error, gradient

    whole, parts = learnt(1 << 20), learnt(1 << 10)
    assert set(whole[0]) == {"rgb", "proposals", "distortion", "codes", "depth", "normal_maps"}
    assert parts[0] == pytest.approx(whole[0], rel=1e-4, abs=1e-7)
    torch.testing.assert_close(parts[1], whole[1], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(parts[2], whole[2], rtol=1e-3, atol=1e-5 * float(whole[2].abs().max()))


def test_published_sizes_fit_into_the_memory_of_a_laptop(scene: Scene) -> None:
    for name in ("paper", "swb-lego", "swb-room"):
        renderer = made(PRESETS[name], scene.info)
        assert renderer.memory_estimate(renderer.rays_per_step) < 4e9, name


def test_what_is_published_lets_pixels_count_by_their_area() -> None:
    published = [name for name in PRESETS if name.startswith(("paper", "swb"))]
    assert len(published) > 1
    assert all(PRESETS[name].area_power == 1 for name in published)


def test_pixels_count_by_their_area(scene: Scene) -> None:
    batch, weight = a_batch(scene), torch.tensor([1.0, 4.0, 16.0, 64.0]).repeat(16)
    config = replace(NETWORKS, charbonnier=1e-9)
    losses = made(config, scene.info).losses(replace(batch, weight=weight), 0, 0)
    error = made(replace(config, area_power=0.0), scene.info).losses(replace(batch, weight=weight), 0, 0)
    plain = made(config, scene.info).losses(batch, 0, 0)
    assert torch.equal(error.terms["rgb"], plain.terms["rgb"])
    assert torch.equal(losses.squared_error, plain.squared_error)
    sizes = [
        made(config, scene.info).losses(replace(batch, weight=one), 0, 0).terms["rgb"]
        for one in torch.eye(64)
    ]
    expected = (weight * torch.stack(sizes)).sum() / weight.sum()
    torch.testing.assert_close(losses.terms["rgb"], expected)


def test_golden_charbonnier() -> None:
    squared_error = torch.full((1, 3), 0.01, dtype=torch.float64)
    assert float(charbonnier(squared_error, 0.001, True)) == pytest.approx(0.10000500, abs=1e-8)
    assert float(charbonnier(squared_error, 0.001, False)) == pytest.approx(0.10488088, abs=1e-8)


def test_only_proposals_learn_from_the_proposals_loss(scene: Scene) -> None:
    renderer = made(SMALL, scene.info)
    renderer.losses(a_batch(scene), 0, 0).terms["proposals"].backward()
    assert all(p.grad is None for p in renderer.field.parameters())
    assert any(p.grad is not None and p.grad.any() for p in renderer.proposal.parameters())


def test_proposals_rest_between_their_steps(scene: Scene) -> None:
    renderer = made(replace(SMALL, proposal_warmup=4, proposal_interval=8), scene.info)
    for step, learns in ((3, True), (4, False), (8, True), (9, False)):
        renderer.zero_grad(set_to_none=True)
        torch.stack(list(renderer.losses(a_batch(scene), step, 0).terms.values())).sum().backward()
        assert all((p.grad is not None) == learns for p in renderer.proposal.parameters())
        assert all(p.grad is not None for p in renderer.field.parameters())


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_depth_is_a_term_of_every_level(scene: Scene, share: float) -> None:
    depth = DepthLoss(depth_loss="swb", depth_sky_weight=0.1)
    renderer = made(replace(SMALL, depth=depth, proposal_depth_weight=share), scene.info)
    batch = a_batch(scene)
    batch.depth = torch.where(torch.arange(64) % 2 == 0, 3.0, torch.nan)
    losses = renderer.losses(batch, 0, 0)
    assert {"depth", "sky"} <= set(losses.terms)
    losses.terms["depth"].backward()
    assert all(torch.isfinite(p.grad).all() for p in renderer.parameters() if p.grad is not None)
    learns = any(p.grad is not None and p.grad.any() for p in renderer.proposal.parameters())
    assert learns == (share > 0)


@pytest.mark.parametrize("spacing", ["linear", "disparity"])
def test_guided_samples_are_near_the_depth(scene: Scene, spacing) -> None:
    config = replace(
        SMALL,
        spacing=spacing,
        field="mlp",
        octaves=4,
        depth_guided=0.5,
        depth_guided_spread=0.01,
        depth=DepthLoss(depth_loss="swb"),
    )
    renderer = made(config, scene.info)
    batch = a_batch(scene)
    depth = torch.where(torch.arange(64) % 2 == 0, 0.5 * (batch.rays.near + batch.rays.far), torch.nan)
    draws = draws_of(renderer, 64, torch.Generator().manual_seed(0))
    seen = renderer._see(batch.rays, draws, depth=depth).levels[0].edges
    near = ((seen - depth[:, None]).abs() < 0.05).sum(1)
    assert (near[::2] >= 12).all()
    without = renderer._see(batch.rays, draws).levels[0].edges
    assert torch.equal(seen[1::2], without[1::2])
    assert (seen.diff(dim=1) >= 0).all()
    torch.testing.assert_close(seen[:, [0, -1]], without[:, [0, -1]])


@pytest.mark.parametrize("config", [SMALL, NETWORKS])
def test_the_spread_of_guided_samples_is_learnt(scene: Scene, config: MipNeRF360Config) -> None:
    depth = DepthLoss(depth_loss="swb", depth_weight=1.0)
    config = replace(config, depth_guided=0.5, depth_guided_learnt=True, depth=depth)
    renderer, batch = made(config, scene.info), a_batch(scene)
    spread = renderer.log_spread
    assert spread is not None
    assert float(spread.detach().exp()) == pytest.approx(0.0498)
    torch.stack(list(renderer.losses(batch, 0, 0).terms.values())).sum().backward()
    assert spread.grad is None  # no depth, no samples around it
    for known, learns in ((torch.arange(64) % 2 == 0, True), (torch.zeros(64, dtype=torch.bool), False)):
        batch.depth = torch.where(known, 4.0, torch.nan)
        renderer.zero_grad(set_to_none=True)
        torch.stack(list(renderer.losses(batch, 0, 0).terms.values())).sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in renderer.parameters() if p.grad is not None)
        assert spread.grad is not None
        assert bool(spread.grad != 0) == learns
    assert [group.name for group in renderer.optimisers()][-1] == "spread"
    with torch.no_grad():
        spread.fill_(3.0)
    renderer.recover(1)
    assert float(spread.detach().exp()) == pytest.approx(0.0498)


def test_the_spread_of_guided_samples_is_in_units_of_the_capture(scene: Scene) -> None:
    depth = DepthLoss(depth_loss="swb", depth_epsilon=0.1)
    config = replace(SMALL, depth=depth, depth_guided=0.5, depth_guided_spread=0.2, depth_guided_learnt=True)
    halved = torch.diag(torch.tensor([0.5, 0.5, 0.5, 1.0], dtype=torch.float64))
    renderer = MipNeRF360.from_scene(config, replace(scene.info, world_transform=halved))
    assert renderer.config.depth.depth_epsilon == pytest.approx(0.05)
    assert renderer.log_spread is not None
    assert float(renderer.log_spread.detach().exp()) == pytest.approx(0.1)


@pytest.mark.parametrize("config", [SMALL, NETWORKS])
@pytest.mark.parametrize("kind", ["cosine", "chord", "l1"])
def test_given_normals_turn_those_of_the_density(scene: Scene, config: MipNeRF360Config, kind) -> None:
    """On a grid, too, which has no second derivatives."""
    renderer = made(replace(config, normal_loss=kind, normal_weight=1.0), scene.info)
    assert renderer.wants_normals
    batch = PhotoSource(scene.split("train"), 0, normals=True).batch(0, 64)
    assert 10 < int(batch.normals.isfinite().all(1).sum()) < 64  # pyright: ignore
    if config.field == "grid":
        torch.nn.init.normal_(renderer.field.encoder.grid.table)  # pyright: ignore
    optimiser = torch.optim.Adam(renderer.field.parameters(), lr=0.01)
    history = []
    for _ in range(25):
        terms = renderer.losses(batch, 0, 0).terms
        optimiser.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimiser.step()
        history.append(float(terms["normal_maps"].detach()))
    assert history[-1] < 0.85 * history[0]
    batch.normals = None
    assert "normal_maps" not in renderer.losses(batch, 0, 0).terms


# ------------------------------------------------------------------ normalised device coordinates

FRAME = ForwardFrame(torch.eye(3, 4), (0.7, 0.5), 1.0)


def forward_rays(count: int) -> Rays:
    generator = torch.Generator().manual_seed(0)
    origins = 0.2 * torch.randn(count, 3, generator=generator) * torch.tensor([1, 1, 0])
    slopes = torch.rand(count, 2, generator=generator) - 0.5
    directions = torch.cat([slopes, torch.ones(count, 1)], 1)
    near, far = torch.full((count,), 0.1), torch.full((count,), 100.0)
    return Rays(origins, directions, torch.full((count,), 0.01), near, far)


def in_frame(config: MipNeRF360Config, info: SceneInfo) -> MipNeRF360:
    torch.manual_seed(0)
    bounds = Bounds(torch.full((3,), -1.0), torch.full((3,), 1.0), True)
    return MipNeRF360(config, bounds, "opaque", info.cameras["train"], FRAME)


@pytest.mark.parametrize("config", [SMALL, NETWORKS])
def test_forward_facing_scenes_are_sampled_in_ndc(scene: Scene, config: MipNeRF360Config) -> None:
    depth = DepthLoss(depth_loss="swb", depth_weight=1.0, depth_epsilon=0.1)
    renderer = in_frame(replace(config, depth=depth, depth_guided=0.5), scene.info)
    rays = forward_rays(32)
    known = torch.full((32,), 3.0)
    seen = renderer._see(rays, draws_of(renderer, 32, torch.Generator().manual_seed(0)), depth=known)
    assert all(((level.edges >= 0) & (level.edges <= 1)).all() for level in seen.levels)
    # Guided by depths of the scene, which are known along the rays of the cameras.
    edges = renderer._scene_edges(seen.levels[0].edges, rays)
    assert (((edges - 3.0).abs() < 0.3).sum(1) >= 12).all()
    assert (edges.diff(dim=1) >= 0).all()
    rendering = renderer.render(rays)
    assert rendering.depth is not None
    assert ((rendering.depth > 0.9) & (rendering.depth <= 100)).all()
    losses = renderer.losses(Batch(rays, torch.rand(32, 4).clamp(min=0.5), depth=known), 0, 0)
    torch.stack(list(losses.terms.values())).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in renderer.parameters() if p.grad is not None)
    with pytest.raises(LumigraphError, match="--ndc off"):
        renderer.density(torch.zeros(1, 3))
    with pytest.raises(LumigraphError, match="looks backwards"):
        renderer.render(replace(rays, directions=-rays.directions))


def test_cones_are_cylinders_in_ndc(scene: Scene) -> None:
    """Gaussians are as wide at the far end as at the near one, and as pixels are on the near plane."""
    renderer, rays = in_frame(NETWORKS, scene.info), forward_rays(4)
    sampled = renderer._sampled(rays)
    edges = torch.tensor([[0.0, 1e-4, 0.9999, 1.0]]).expand(4, 4)
    _, covariances = renderer.field.encoder.along(renderer._cones(sampled), edges)
    widths = torch.linalg.eigvalsh(covariances)[:, -1].reshape(4, 3)
    torch.testing.assert_close(widths[:, 0], widths[:, 2], rtol=1e-3, atol=0)
    torch.testing.assert_close(widths[:, 0], sampled.radii.square() / 4, rtol=1e-3, atol=0)


def test_what_is_impossible_in_ndc_is_refused(scene: Scene) -> None:
    with pytest.raises(LumigraphError, match="forward-facing"):
        MipNeRF360.from_scene(replace(SMALL, ndc="on"), scene.info)
    assert MipNeRF360.from_scene(replace(SMALL, ndc="auto"), scene.info).frame is None
    forward = replace(scene.info, forward=FRAME)
    assert MipNeRF360.from_scene(SMALL, forward).frame is None
    with pytest.raises(LumigraphError, match="impossible .*: --normal-loss .*--ndc off"):
        MipNeRF360.from_scene(replace(SMALL, ndc="auto", normal_loss="cosine"), forward)
    # Of a preset all at once.
    with pytest.raises(LumigraphError, match="--near-plane, --far-plane, --spacing disparity .*--ndc off"):
        MipNeRF360.from_scene(replace(PRESETS["paper-360"], ndc="on"), forward)
    with pytest.raises(LumigraphError, match="looks backwards"):
        MipNeRF360.from_scene(replace(SMALL, ndc="on"), forward)


# ------------------------------------------------------------------ codes of cameras


def test_codes_of_zeros_are_no_codes(scene: Scene) -> None:
    with_codes, without = made(replace(SMALL, codes=3), scene.info), made(SMALL, scene.info)
    assert with_codes.field.ray_layer is not None and without.field.ray_layer is not None
    weights = {k: v for k, v in with_codes.state_dict().items() if k != "codes.table"}
    weights["field.ray_layer.weight"] = weights["field.ray_layer.weight"][:, :-3].contiguous()
    without.load_state_dict(weights)
    batch = a_batch(scene)
    torch.testing.assert_close(with_codes.render(batch.rays).rgb, without.render(batch.rays).rgb)
    torch.testing.assert_close(
        with_codes.losses(batch, 0, 0).terms["rgb"], without.losses(batch, 0, 0).terms["rgb"]
    )


def tinted(scene: Scene) -> Scene:
    """The scene's photos, every second one half as bright."""
    views = {}
    for split, part in scene.views.items():
        images = [part.image(i).numpy().copy() for i in range(len(part))]
        for i in range(0, len(images), 2):
            images[i][..., :3] //= 2
        views[split] = Views.from_arrays(part.cameras, part.names, images)
    return Scene(scene.info, views)


def test_codes_explain_exposure_and_are_fitted_to_half_a_picture() -> None:
    scene = tinted(load_builtin("still:16", downscale=4))
    renderer = made(replace(SMALL, codes=4), scene.info)
    train(renderer, PhotoSource(scene.split("train"), 0), 200)
    assert renderer.codes is not None
    table = renderer.codes.table.detach()
    bright, dark = table[1::2].mean(0), table[::2].mean(0)
    spread = 0.5 * (table[1::2].std(0) + table[::2].std(0)).norm()
    assert (bright - dark).norm() > 2 * spread
    test = scene.split("test").subset([0, 1, 2, 3])
    mean, fitted = evaluate(renderer, test), evaluate(renderer, test, fit_half=True)
    assert fitted.psnr > mean.psnr + 0.5
    assert renderer.codes._fitted is None
    # The left half was not measured.
    seen = []
    evaluate(
        renderer,
        test,
        fit_half=True,
        watch=lambda i, view, truth, image: seen.append((truth.shape, image.shape)),
    )
    height, width = test.image(0).shape[:2]
    assert seen[0] == ((height, width - width // 2, 3),) * 2


def test_renderers_without_codes_say_so(scene: Scene) -> None:
    renderer = made(SMALL, scene.info)
    with pytest.raises(LumigraphError, match="no codes of cameras"):
        renderer.choose_codes("mean")
    with pytest.raises(LumigraphError, match="no codes of cameras"):
        evaluate(renderer, scene.split("test"), fit_half=True)


# ------------------------------------------------------------------ training


def test_golden_learning_rate() -> None:
    paper = PRESETS["paper"]
    assert (paper.lr, paper.final_lr, paper.lr_delay_steps) == (2e-3, 2e-5, 512)
    rates = {
        "lr": paper.lr,
        "final_lr": paper.final_lr,
        "lr_delay_steps": paper.lr_delay_steps,
        "training_steps": 50_000,
    }
    renderer = made(replace(NETWORKS, **rates), load_builtin("still:16", downscale=8).info)
    golden = {0: 2e-5, 256: 1.386980e-3, 512: 1.907875e-3, 25_000: 2e-4, 50_000: 2e-5}
    for step, wanted in golden.items():
        assert 2e-3 * renderer.lr_scale(step, step / 50_000) == pytest.approx(wanted, rel=1e-6)


def test_gradients_are_clipped_network_by_network(scene: Scene) -> None:
    renderer = made(replace(NETWORKS, clip_norm=1e-3, codes=2), scene.info)
    optimiser = renderer.make_optimiser()
    torch.stack(list(renderer.losses(a_batch(scene), 0, 0).terms.values())).sum().backward()
    before = {p: p.grad.clone() for p in renderer.parameters() if p.grad is not None}

    def norm(group, gradients) -> float:
        return float(torch.cat([gradients[p].flatten() for p in group["params"]]).norm())

    assert [group["name"] for group in optimiser.param_groups] == ["proposal", "field", "codes"]
    clip_gradients(optimiser)
    after = {p: p.grad for p in before}
    for group in optimiser.param_groups:
        wanted = min(norm(group, before), 1e-3)
        assert norm(group, after) == pytest.approx(wanted, rel=1e-2)
    assert norm(optimiser.param_groups[1], before) > 1e-2


def test_resuming_is_exact(scene: Scene, tmp_path: Path) -> None:
    config = replace(SMALL, rays=64, codes=2, training_steps=12, clip_norm=0.1)

    def trained(name: str, *stops: int) -> dict[str, torch.Tensor]:
        for stop in stops:
            options = TrainOptions(
                run=tmp_path / name, max_steps=stop, device="cpu", precision="float32", resume=True
            )
            run = (
                Run.open(options.run)
                if options.run.exists()
                else Run.create(options.run, "mipnerf360", config, scene.info, options)
            )
            torch.manual_seed(0)
            renderer = run.new_renderer()
            fit(renderer, PhotoSource(scene.split("train"), 0), run, options)
        return {k: v.clone() for k, v in renderer.state_dict().items()}

    whole, halves = trained("whole", 12), trained("halves", 5, 12)
    assert all(torch.equal(whole[name], halves[name]) for name in whole)


def test_recovery_starts_over(scene: Scene) -> None:
    renderer = made(SMALL, scene.info)
    before = {name: value.clone() for name, value in renderer.state_dict().items()}
    assert renderer.recover(7)
    assert all(
        not torch.equal(before[name], value)
        for name, value in renderer.state_dict().items()
        if not name.startswith("surroundings") and not name.endswith("bias")
    )


# ------------------------------------------------------------------ published sizes


@pytest.mark.parametrize(
    ("preset", "proposal", "field"), [("paper", 222_465, 612_740), ("paper-360", 326_913, 8_680_580)]
)
def test_networks_have_the_published_sizes(preset: str, proposal: int, field: int) -> None:
    """Mip-NeRF's network has 612 thousand parameters; mip-NeRF 360's two have 9.0 million together."""
    info = load_builtin("still:16", downscale=8).info
    renderer = made(PRESETS[preset], info, unbounded=preset == "paper-360")
    assert sum(p.numel() for p in renderer.proposal.parameters()) == proposal
    assert sum(p.numel() for p in renderer.field.parameters()) == field


@pytest.mark.parametrize(
    "options",
    [
        {"proposal_samples": ()},
        {"samples": 1},
        {"lr": 0.0},
        {"near_plane": 2.0, "far_plane": 1.0},
        {"depth_guided_learnt": True},
        {"normal_weight": -0.1},
        {"finest_resolution": 8},
        {"depth_guided": 1.5},
        {"depth_guided": 0.25},
        {"depth_guided": 0.005, "depth_guided_learnt": True, "depth": DepthLoss(depth_loss="swb")},
        {"depth_guided": 1.0, "depth": DepthLoss(depth_loss="swb")},
        {"levels": 0},
        {"codes": -1},
    ],
)
def test_impossible_options_are_refused(options: dict) -> None:
    with pytest.raises(ValueError):
        MipNeRF360Config(**options)


def test_renders_rays_of_any_shape(scene: Scene) -> None:
    rays = a_batch(scene, 6).rays
    assert made(SMALL, scene.info).render(rays.reshape(2, 3)).rgb.shape == (2, 3, 3)
