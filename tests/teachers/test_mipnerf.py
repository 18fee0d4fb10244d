"""Mip-NeRF: cones, two levels of one field, the published schedule and weights, and that it learns."""

from dataclasses import replace

import pytest
import torch

from lumigraph.configs.common import TrainOptions
from lumigraph.configs.mipnerf import PRESETS, MipNeRFConfig
from lumigraph.distillation.origins import taught_scene
from lumigraph.errors import LumigraphError
from lumigraph.fields.cone_fields import GaussianMLP
from lumigraph.fields.conical import integrated_encoding
from lumigraph.geometry.bounds import Bounds
from lumigraph.geometry.ndc import ForwardFrame
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.background import Background
from lumigraph.rendering.renderer import Batch
from lumigraph.rendering.volume.histogram import blurred
from lumigraph.scenes.load import load_scene
from lumigraph.teachers.mipnerf import _KEPT_SAMPLES, MipNeRF, _Seen
from lumigraph.training.begin import begin
from lumigraph.training.checkpoints import list_checkpoints, load_checkpoint
from lumigraph.training.fit import fit
from lumigraph.training.interrupts import Interrupts
from lumigraph.training.sources import PhotoSource

GRID = MipNeRFConfig(
    levels=4, log2_entries=12, finest_resolution=64, hidden=32, rays=512, coarse_samples=32, fine_samples=16
)
MLP = replace(
    PRESETS["cpu-mlp"],
    depth=2,
    width=32,
    view_width=16,
    octaves=6,
    coarse_samples=16,
    fine_samples=16,
    rays=256,
    lr=5e-3,
    final_lr=5e-4,
    lr_delay_steps=0,
)
FRAME = ForwardFrame(torch.eye(3, 4), (0.7, 0.5), 1.0)


def box(unbounded: bool = False, half: float = 1.0) -> Bounds:
    return Bounds(torch.full((3,), -half), torch.full((3,), half), unbounded)


def some_rays(count: int, radius: float = 0.01) -> Rays:
    generator = torch.Generator().manual_seed(0)
    origins = torch.randn(count, 3, generator=generator)
    origins = 3 * origins / origins.norm(dim=1, keepdim=True)
    directions = 0.3 * torch.randn(count, 3, generator=generator) - origins / 3
    near, far = torch.full((count,), 0.1), torch.full((count,), 9.0)
    ids = torch.zeros(count, dtype=torch.long)
    return Rays(origins, directions, torch.full((count,), radius), near, far, camera_ids=ids)


def forward_rays(count: int) -> Rays:
    generator = torch.Generator().manual_seed(0)
    origins = 0.2 * torch.randn(count, 3, generator=generator) * torch.tensor([1, 1, 0])
    slopes = torch.rand(count, 2, generator=generator) - 0.5
    directions = torch.cat([slopes, torch.ones(count, 1)], 1)
    near, far = torch.full((count,), 0.1), torch.full((count,), 100.0)
    return Rays(origins, directions, torch.full((count,), 0.01), near, far)


def a_batch(count: int = 64, weight: torch.Tensor | None = None) -> Batch:
    rgba = torch.rand(count, 4, generator=torch.Generator().manual_seed(1))
    return Batch(some_rays(count), rgba, weight=weight)


def made(config: MipNeRFConfig, bounds: Bounds | None = None, frame: ForwardFrame | None = None) -> MipNeRF:
    torch.manual_seed(0)
    renderer = MipNeRF(config, bounds or box(), "white", frame)
    if renderer.on_grid:
        torch.nn.init.normal_(renderer.field.grid.table)  # pyright: ignore
    return renderer


def train(renderer: MipNeRF, source: PhotoSource, steps: int) -> float:
    """A plain loop; returns the PSNR of the last ten batches."""
    optimiser = renderer.make_optimiser()
    rates = [group["lr"] for group in optimiser.param_groups]
    errors = []
    for step in range(steps):
        losses = renderer.losses(source.batch(step, renderer.rays_per_step), step, 0)
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * renderer.lr_scale(step, step / steps)
        optimiser.zero_grad()
        torch.stack(list(losses.terms.values())).sum().backward()
        optimiser.step()
        errors.append(float(losses.squared_error.mean()))
    return -10 * torch.tensor(errors[-10:]).mean().log10().item()


@pytest.mark.parametrize(("config", "steps", "floor"), [(GRID, 120, 17.5), (MLP, 200, 17.5)])
def test_learns_a_scene_at_several_scales(config: MipNeRFConfig, steps: int, floor: float) -> None:
    """A picture of one colour has 12.8 dB."""
    scene = load_scene("builtin:still:32", scales=3)
    torch.manual_seed(0)
    renderer = MipNeRF.from_scene(config, scene.info)
    assert train(renderer, PhotoSource(scene.split("train"), 0), steps) > floor


def test_the_paper_has_its_size_and_sampling() -> None:
    renderer = made(PRESETS["paper"])
    assert sum(parameter.numel() for parameter in renderer.parameters()) == 612_740
    edges = renderer._trace(some_rays(3), None)[1].edges
    assert edges.shape == (3, 129)
    assert PRESETS["mipnerf_pl"].rays == 3072
    assert PRESETS["paper"].distortion_weight == 0
    published = ("paper", "paper-llff", "mipnerf_pl", "cpu-mlp")
    assert {name for name, config in PRESETS.items() if config.area_power == 1} == set(published)


def test_the_rate_is_the_published_one() -> None:
    renderer, steps = made(PRESETS["paper"]), 1_000_000
    rates = [5e-4 * renderer.lr_scale(step, step / steps) for step in (0, 1250, 2500, 500_000, 1_000_000)]
    assert rates == pytest.approx([5e-6, 3.529801e-4, 4.942765e-4, 5e-5, 5e-6], rel=1e-6)


def test_the_weights_that_are_drawn_from_are_the_published_ones() -> None:
    weights = torch.tensor([[0.04877058, 0.37427961, 0.44821491, 0.02847606]])
    expected = torch.tensor([[0.22152509, 0.42124726, 0.45821491, 0.24834548]])
    torch.testing.assert_close(blurred(weights, MipNeRFConfig().resample_padding), expected)


def test_points_in_the_middle_see_nerfs_encoding() -> None:
    """Cylinders (whose mean is the middle), no integration: NeRF's encoding of the middles; and without integration a
    cone's radius does not count."""
    config = replace(MLP, integrate=False)
    renderer = made(config, frame=FRAME)
    rays = forward_rays(6)
    sampled = renderer._sampled(rays)
    edges = torch.linspace(0, 1, 9).expand(6, 9)
    middles = 0.5 * (edges[:, 1:] + edges[:, :-1])
    points = FRAME.rays(rays).points(middles)
    plain = torch.cat([f(2.0**k * points) for f in (torch.sin, torch.cos) for k in range(config.octaves)], -1)
    where = renderer._gaussians(renderer._moments(sampled, edges), sampled)
    torch.testing.assert_close(integrated_encoding(where.means, where.variances, config.octaves), plain)
    cones = made(config)
    one, other = cones.render(some_rays(20, 0.001)), cones.render(some_rays(20, 0.3))
    assert torch.equal(one.rgb, other.rgb)


def test_short_intervals_without_radius_are_points() -> None:
    """The same with cones: what is left is the length of the interval."""
    renderer, rays = made(MLP), some_rays(6, 0.0)
    edges = 2 + torch.arange(5.0).expand(6, 5) * 1e-4
    sampled = renderer._sampled(rays)
    where = renderer._gaussians(renderer._moments(sampled, edges), sampled)
    middles = 0.5 * (edges[:, 1:] + edges[:, :-1])
    torch.testing.assert_close(where.means, rays.points(middles), rtol=0, atol=1e-5)
    assert float(where.variances.max()) < 1e-8


@pytest.mark.parametrize("config", [GRID, MLP])
def test_what_is_seen_depends_on_the_pixel(config: MipNeRFConfig) -> None:
    renderer = made(config)
    fine, wide = renderer.render(some_rays(50, 0.001)), renderer.render(some_rays(50, 0.5))
    assert not torch.allclose(fine.rgb, wide.rgb, atol=1e-3)
    assert renderer.sees_cones
    assert not made(replace(config, integrate=False)).sees_cones


@pytest.mark.parametrize("config", [GRID, MLP])
@pytest.mark.parametrize("unbounded", [False, True])
def test_renders_the_same_in_any_pieces(config: MipNeRFConfig, unbounded: bool) -> None:
    renderer, rays = made(config, box(unbounded)), some_rays(60)
    whole = renderer.render(rays)
    parts = [renderer.render(part) for part in rays.split(17)]
    torch.testing.assert_close(torch.cat([part.rgb for part in parts]), whole.rgb, rtol=0, atol=1e-5)
    assert torch.equal(renderer.render(rays).rgb, whole.rgb)
    assert ((whole.rgb >= 0) & (whole.rgb <= 1)).all()
    shaped = renderer.render(rays.reshape(6, 10))
    assert shaped.rgb.shape == (6, 10, 3)
    assert shaped.extras["depth_median"].shape == (6, 10)


@pytest.mark.parametrize(("config", "frame"), [(GRID, None), (MLP, None), (GRID, FRAME), (MLP, FRAME)])
def test_depths_are_where_a_wall_is(config: MipNeRFConfig, frame: ForwardFrame | None) -> None:
    """A field that is opaque everywhere: every depth is that of the first interval."""
    config = replace(config, coarse_samples=64, fine_samples=64)
    renderer = made(config, frame=frame)

    def wall(where, dtype):
        return torch.full(where.sizes.shape, 1e3 if isinstance(renderer.field, GaussianMLP) else 14.0)

    renderer.field.raw_density = wall  # type: ignore[method-assign]
    renderer.field.forward = lambda where, view_directions, dtype: (
        wall(where, dtype),
        torch.zeros_like(where.means),
    )
    rays = some_rays(20) if frame is None else forward_rays(20)
    seen = renderer.render(rays)
    sampled = renderer._sampled(rays)
    hit = sampled.far > sampled.near + 0.5 if frame is None else torch.ones(20, dtype=torch.bool)
    start = sampled.near if frame is None else FRAME.depth(torch.zeros(20), rays)
    assert seen.depth is not None
    assert seen.opacity is not None
    assert hit.sum() > 4
    torch.testing.assert_close(seen.opacity[hit], torch.ones(int(hit.sum())))
    for depth in (seen.depth, seen.extras["depth_median"]):
        torch.testing.assert_close(depth[hit], start[hit], rtol=0.1, atol=0.1)


def test_rays_that_miss_the_grid_see_the_background() -> None:
    renderer, rays = made(GRID), some_rays(10)
    away = Rays(**{**vars(rays), "directions": rays.origins})
    seen = renderer.render(away)
    assert torch.equal(seen.rgb, torch.ones(10, 3))
    assert seen.depth is not None
    assert torch.equal(seen.depth, rays.far)


def test_intervals_stay_inside_the_box() -> None:
    renderer, rays = made(GRID, box(half=0.8)), some_rays(200)
    edges = renderer._trace(rays, None)[1].edges
    hit = edges[:, -1] > edges[:, 0]
    assert int(hit.sum()) > 20
    points = rays.origins[:, None] + edges[..., None] * rays.directions[:, None]
    assert float(points[hit].abs().max()) < 0.8 + 1e-4


@pytest.mark.parametrize("config", [GRID, MLP])
@pytest.mark.parametrize("background", ["white", "black", "random", "opaque"])
def test_every_background_and_term_trains(config: MipNeRFConfig, background: Background) -> None:
    torch.manual_seed(0)
    config = replace(config, distortion_weight=1e-2, density_noise=0.5, coarse_weight=0.1)
    renderer = MipNeRF(config, box(), background)
    losses = renderer.losses(a_batch(), 3, 1)
    assert set(losses.terms) == {"rgb", "coarse", "distortion"}
    torch.stack(list(losses.terms.values())).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in renderer.parameters() if p.grad is not None)
    again, other = renderer.losses(a_batch(), 3, 1), renderer.losses(a_batch(), 4, 1)
    assert torch.equal(again.terms["rgb"], losses.terms["rgb"])
    assert not torch.equal(other.terms["coarse"], losses.terms["coarse"])


def test_pixels_count_by_their_area() -> None:
    """The loss is sum(w |error|^2) / sum(w), of the fine colours and a tenth of it of the coarse ones."""
    renderer = made(MLP)
    weight = torch.tensor([1.0, 4.0, 16.0, 64.0]).repeat(16)
    plain, weighted = renderer.losses(a_batch(), 0, 0), renderer.losses(a_batch(weight=weight), 0, 0)
    error = 3 * plain.squared_error
    assert torch.equal(plain.squared_error, weighted.squared_error)
    torch.testing.assert_close(plain.terms["rgb"].detach(), error.mean())
    torch.testing.assert_close(weighted.terms["rgb"].detach(), (weight * error).sum() / weight.sum())
    assert not torch.equal(plain.terms["coarse"], weighted.terms["coarse"])
    by_side = made(replace(MLP, area_power=0.5)).losses(a_batch(weight=weight), 0, 0)
    side = weight.sqrt()
    torch.testing.assert_close(by_side.terms["rgb"].detach(), (side * error).sum() / side.sum())
    unweighted = made(replace(MLP, area_power=0.0)).losses(a_batch(weight=weight), 0, 0)
    assert torch.equal(unweighted.terms["rgb"], plain.terms["rgb"])


def test_distortion_counts_all_of_a_ray_that_begins_close_to_the_camera() -> None:
    rays = replace(some_rays(1), near=torch.tensor([1e-4]))
    renderer = made(GRID, box(True))
    assert renderer.disparity
    whole = _Seen(torch.tensor([[1e-4, 9.0]]), torch.ones(1, 1), torch.ones(1, 3), torch.ones(1))
    torch.testing.assert_close(renderer._distortion(whole, rays), torch.tensor(1 / 3))


def test_the_sum_of_chunks_is_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients of the published loss do not depend on how many rays are looked at together."""
    config = replace(MLP, coarse_weight=0.1, distortion_weight=0.1, density_noise=1.0)
    weight = torch.rand(64, generator=torch.Generator().manual_seed(3))

    def found(samples: int) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
        monkeypatch.setitem(_KEPT_SAMPLES, "cpu", samples)
        renderer = made(config)
        terms = renderer.losses(a_batch(weight=weight), 5, 0).terms
        torch.stack(list(terms.values())).sum().backward()
        return terms, [p.grad for p in renderer.parameters() if p.grad is not None]

    (one, gradients), (other, parts) = found(1 << 20), found(1)
    assert set(one) == {"rgb", "coarse", "distortion"}
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-4, atol=1e-6)
    for whole, part in zip(gradients, parts, strict=True):
        torch.testing.assert_close(whole, part, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("config", [GRID, MLP])
def test_density_is_that_of_points(config: MipNeRFConfig) -> None:
    renderer = made(config, box(half=2.0))
    points = torch.rand(30, 3, generator=torch.Generator().manual_seed(4)) * 2 - 1
    directions = torch.nn.functional.normalize(points, dim=1)
    density, rgb = renderer.query(points, directions)
    torch.testing.assert_close(renderer.density(points), density)
    assert ((rgb >= 0) & (rgb <= 1)).all()
    rays = some_rays(20, 0.0)
    fine = made(replace(config, integrate=False, coarse_samples=512, fine_samples=512), box(half=2.0))
    fine.load_state_dict(renderer.state_dict())
    opacity = fine.render(rays).opacity
    t = torch.linspace(0.1, 9, 4000)
    along = rays.origins[:, None] + t[:, None] * rays.directions[:, None]
    inside = (along.abs() <= 2).all(-1) if renderer.on_grid else torch.ones(20, 4000)
    with torch.no_grad():
        values = renderer.density(along.reshape(-1, 3)).reshape(20, 4000) * inside
    length = rays.directions.norm(dim=1) * (t[1] - t[0])
    assert opacity is not None
    torch.testing.assert_close(opacity, 1 - torch.exp(-values.sum(1) * length), rtol=0, atol=0.03)


def test_forward_scenes_know_no_density_per_length() -> None:
    with pytest.raises(LumigraphError, match="normalised device coordinates"):
        made(GRID, frame=FRAME).density(torch.zeros(1, 3))


def test_scenes_that_do_not_fit_are_refused() -> None:
    info = load_scene("builtin:still:16").info
    with pytest.raises(LumigraphError, match="forward-facing capture"):
        MipNeRF.from_scene(replace(GRID, ndc="on"), info)
    with pytest.raises(LumigraphError, match="looks backwards"):
        MipNeRF.from_scene(GRID, replace(info, forward=FRAME))
    poses = torch.eye(3, 4).repeat(len(info.cameras["train"]), 1, 1)
    ahead = replace(info.cameras["train"], camera_to_world=poses)
    forward = replace(info, forward=FRAME, cameras={"train": ahead})
    with pytest.raises(LumigraphError, match="inverse depth"):
        MipNeRF.from_scene(replace(GRID, disparity=True), forward)
    renderer = MipNeRF.from_scene(GRID, forward)
    assert renderer.frame is FRAME
    with pytest.raises(LumigraphError, match="looks backwards"):
        renderer.render(some_rays(20))
    assert MipNeRF.from_scene(replace(GRID, ndc="off"), forward).frame is None


def test_unbounded_scenes_are_spread_in_inverse_depth() -> None:
    renderer = made(GRID, box(True))
    draws = renderer._drawn(4, torch.Generator().manual_seed(0))
    edges = renderer._trace(some_rays(4), draws)[1].edges
    assert renderer.disparity
    assert (edges[:, 1:] >= edges[:, :-1]).all()


@pytest.mark.parametrize(
    "changes",
    [{"rays": 0}, {"lr": 0.0}, {"octaves": 25}, {"distortion_weight": -1.0}, {"levels": 0}, {"skip": -1},
     {"base_resolution": 64, "finest_resolution": 32}],
)  # fmt: skip
def test_impossible_options_are_refused(changes) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        MipNeRFConfig(**changes)


@pytest.mark.parametrize("config", [replace(GRID, rays=64), replace(MLP, rays=64)])
def test_resumed_equals_uninterrupted(config: MipNeRFConfig, tmp_path) -> None:
    scene = load_scene("builtin:still:16", scales=2)

    def trained(name: str, stop_at: int | None = None, resume: bool = False):
        options = TrainOptions(
            run=tmp_path / name, max_steps=8, device="cpu", precision="float32", resume=resume
        )
        interrupts = Interrupts()

        class Source(PhotoSource):
            def batch(self, step: int, rays: int) -> Batch:
                if step == stop_at:
                    interrupts.request()
                return super().batch(step, rays)

        run = begin("mipnerf", config, scene.info, options)
        torch.manual_seed(0)
        fit(
            run.new_renderer(),
            Source(scene.split("train"), 0),
            run,
            options,
            scene.views["val"],
            interrupts=interrupts,
        )
        return load_checkpoint(list_checkpoints(run.checkpoints)[0])

    whole = trained("whole")
    trained("parts", stop_at=3)
    parts = trained("parts", resume=True)
    assert whole.step == parts.step == 8
    different = [name for name in whole.tensors if not torch.equal(whole.tensors[name], parts.tensors[name])]
    assert not different


def test_students_get_the_finest_views() -> None:
    whole, info = load_scene("builtin:still:16").info, load_scene("builtin:still:16", scales=3).info
    taught = taught_scene(info, made(GRID))
    assert taught.scales == 1
    for split, cameras in taught.cameras.items():
        assert torch.equal(cameras.size, whole.cameras[split].size)
        assert torch.equal(cameras.camera_to_world, whole.cameras[split].camera_to_world)


def test_recovery_starts_over() -> None:
    renderer = made(GRID)
    before = renderer.field.grid.table.detach().clone()  # pyright: ignore
    assert renderer.recover(7)
    assert not torch.equal(before, renderer.field.grid.table)  # pyright: ignore
    assert torch.isfinite(renderer.losses(a_batch(), 0, 0).terms["rgb"])


def test_what_is_known_to_be_empty_is_passed_by_and_nothing_else() -> None:
    renderer, rays = made(GRID), some_rays(200)
    # Some begin at cameras amid the scene, where the mean of a piece of a cone lies far beyond its middle.
    amid = torch.arange(200) < 50
    rays = replace(
        rays,
        origins=torch.where(amid[:, None], 0.1 * rays.origins, rays.origins),
        near=torch.where(amid, 1e-3, rays.near),
    )
    surroundings = renderer.surroundings
    assert surroundings is not None
    sampled, edges = renderer._sampled(rays), renderer._trace(rays, None)[1].edges
    where = renderer._gaussians(renderer._moments(sampled, edges), sampled)
    surroundings.grid.update(lambda points: 100.0 * (points.norm(dim=-1) < 0.3), 1.0, torch.Generator())
    surroundings._widen()
    away = where.means.norm(dim=-1)
    kept = torch.zeros(away.numel(), dtype=torch.bool)
    kept[renderer._occupied(sampled, edges)[0]] = True
    kept = kept.view(away.shape)
    assert kept[away < 0.3].all()
    assert not kept[away > 0.3 + 2 * 3**0.5 * 2 / renderer.config.cells].any()
    raw, rgb = renderer._seen_by_field(sampled, edges)
    all_raw, all_rgb = renderer.field(where, sampled.view_directions, torch.float32)
    torch.testing.assert_close(raw[kept], all_raw[kept])
    torch.testing.assert_close(rgb[kept], all_rgb[kept])
    torch.testing.assert_close(renderer._raw_density(sampled, edges)[kept], all_raw[kept])
    assert not renderer._activated(raw[~kept]).any()
    (rgb.sum() + renderer._activated(raw).sum()).backward()
    assert renderer.field.grid.table.grad is not None  # pyright: ignore


def test_space_that_has_emptied_is_passed_by_after_training_has_looked() -> None:
    renderer = made(replace(GRID, training_steps=40))
    surroundings = renderer.surroundings
    assert surroundings is not None
    with torch.no_grad():
        renderer.field.geometry[-1].weight[0].fill_(-5.0)  # pyright: ignore
    assert bool(surroundings.near.any())
    renderer.begin_step(16, 0.5, 0)
    assert not surroundings.near.any()
    seen = renderer.render(some_rays(10))
    assert (seen.rgb == 1).all()
    losses = renderer.losses(a_batch(), 17, 0)
    sum(losses.terms.values()).backward()  # pyright: ignore
    assert not renderer.field.grid.table.grad.any()  # pyright: ignore
    assert renderer.recover(3)
    assert bool(surroundings.near.any())
