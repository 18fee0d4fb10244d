"""Analytic scenes: solids against brute force, tracing, pictures, and the Blender folder."""

import math

import numpy as np
import pytest
import torch

from lumigraph.errors import LumigraphError
from lumigraph.geometry.rays import Rays, concatenate
from lumigraph.scenes.load import load_scene
from lumigraph.scenes.procedural import NAMES, load_builtin, make_scene, shapes, stages, write_blender
from lumigraph.scenes.procedural.builtin import ProceduralViews
from lumigraph.scenes.procedural.painting import paint

SHAPES = [
    shapes.Sphere(0.4),
    shapes.Ellipsoid((0.5, 0.3, 0.2)),
    shapes.Box((0.3, 0.2, 0.4)),
    shapes.Cylinder(0.3, 0.2),
    shapes.Cylinder(0.05, 0.5),
    shapes.Capsule(0.1, 0.4),
    shapes.Torus(0.4, 0.1),
    shapes.Torus(0.3, 0.25),
]


def aimed_rays(shape: shapes.Shape, count: int = 600) -> tuple[torch.Tensor, torch.Tensor]:
    """Origins on a sphere well outside, unit directions towards points around the solid; float64."""
    generator = torch.Generator().manual_seed(1)
    ends = torch.randn(2, count, 3, generator=generator, dtype=torch.float64)
    origins = 2 * torch.nn.functional.normalize(ends[0], dim=-1)
    targets = ends[1] * shape.radius * 0.5
    return origins, torch.nn.functional.normalize(targets - origins, dim=-1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_entry_is_the_first_point_inside(shape: shapes.Shape) -> None:
    o, d = aimed_rays(shape)
    t = shape.intersect(o, d)
    grid = torch.linspace(0.5, 3.5, 1501, dtype=torch.float64)
    inside = shape.distance((o[:, None] + grid[:, None] * d[:, None]).reshape(-1, 3)).reshape(len(o), -1) < 0
    marched = torch.where(inside.any(1), grid[inside.int().argmax(1)], torch.inf)
    step = float(grid[1] - grid[0])
    found = torch.isfinite(marched)
    assert found.any()
    assert (~found).any()
    # Every marched hit is a hit at most one step earlier; the few others only graze the solid between two samples.
    late = marched[found] - t[found]
    assert float(late.min()) >= -1e-9
    assert float(late.max()) <= step + 1e-9 or float((late > step).double().mean()) < 0.01
    grazes = ~found & torch.isfinite(t)
    assert float(grazes.double().mean()) < 0.02
    hits = o + torch.where(torch.isfinite(t), t, 0.0)[:, None] * d
    assert float(shape.distance(hits[torch.isfinite(t)]).abs().max()) < 1e-6


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_normals_are_the_slope_of_the_distance(shape: shapes.Shape) -> None:
    o, d = aimed_rays(shape, 500)
    t = shape.intersect(o, d)
    p = (o + t[:, None] * d)[torch.isfinite(t)]
    steps = 1e-5 * torch.eye(3, dtype=torch.float64)
    slope = torch.stack([shape.distance(p + step) - shape.distance(p - step) for step in steps], -1)
    off = torch.linalg.cross(torch.nn.functional.normalize(slope, dim=-1), shape.normal(p)).norm(dim=-1)
    assert float(off.median()) < 1e-4
    # Edges have no slope; everywhere else the two agree.
    assert float((off > 1e-3).double().mean()) < 0.02
    assert bool(((shape.normal(p) * d[torch.isfinite(t)]).sum(-1) < 1e-9).all())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_beads_hold_the_solid(shape: shapes.Shape) -> None:
    o, d = aimed_rays(shape)
    t = shape.intersect(o, d)
    p = (o + t[:, None] * d)[torch.isfinite(t)]
    centres, radius = shape.beads()
    assert float(torch.cdist(p, centres.double()).amin(1).max()) <= radius + 1e-5
    assert float(p.norm(dim=-1).max()) <= shape.radius + 1e-6


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_clearance_is_the_least_ratio(shape: shapes.Shape) -> None:
    o, d = aimed_rays(shape, 400)
    grid = torch.linspace(0.3, 4, 2000, dtype=torch.float64)
    distance = shape.distance((o[:, None] + grid[:, None] * d[:, None]).reshape(-1, 3)).reshape(len(o), -1)
    least = (distance / grid).amin(1)
    near = least.abs() < 0.1  # only there it decides about shade
    assert float((shape.clearance(o, d) - least)[near].abs().max()) < 0.02


def scene_rays(name: str, size: int = 40, **states: float) -> Rays:
    scene = make_scene(name, 2, 0, 0, size=size)
    rays = scene.split("train").cameras.view_rays(1).flatten()
    for key, value in states.items():
        rays = Rays(**{**rays.__dict__, key: torch.full((len(rays),), value)})
    return rays


@pytest.mark.parametrize("name", NAMES)
def test_order_and_company_of_rays_do_not_matter(name: str) -> None:
    stage, rays = NAMES[name](), scene_rays(name)
    order = torch.randperm(len(rays), generator=torch.Generator().manual_seed(0))
    together, apart = stage.trace(rays), stage.trace(rays[order])
    assert torch.equal(together.alpha[order], apart.alpha)
    assert torch.equal(together.attribute[order], apart.attribute)
    assert torch.allclose(together.depth[order], apart.depth, atol=1e-5, equal_nan=True)
    assert float((together.rgb[order] - apart.rgb).abs().max()) < 2e-3


def test_each_ray_has_its_own_time() -> None:
    stage = NAMES["moving"]()
    early, late = scene_rays("moving", times=0.1), scene_rays("moving", times=0.55)
    mixed = stage.trace(concatenate([early, late]))
    parts = [stage.trace(early), stage.trace(late)]
    assert not torch.equal(parts[0].alpha, parts[1].alpha)
    assert torch.equal(mixed.alpha, torch.cat([part.alpha for part in parts]))
    assert torch.allclose(mixed.depth, torch.cat([part.depth for part in parts]), atol=1e-4, equal_nan=True)
    assert float((mixed.rgb - torch.cat([part.rgb for part in parts])).abs().max()) < 2e-3


@pytest.mark.parametrize("name", NAMES)
def test_what_is_seen_lies_in_the_bounds_at_its_depth(name: str) -> None:
    rays = scene_rays(name)
    traced = NAMES[name]().trace(rays)
    seen = traced.alpha > 0
    assert torch.equal(seen, torch.isfinite(traced.depth))
    assert 0.1 < float(seen.float().mean()) < 0.9
    points = rays.points(traced.depth[:, None])[seen]
    assert float(points.abs().max()) < stages.EXTENT
    assert not traced.rgb[~seen].any()
    assert 0 <= float(traced.rgb.min()) <= float(traced.rgb.max()) <= 1


def test_depth_is_known_exactly() -> None:
    """Straight down beside everything on it, the table's top is at FLOOR."""
    rays = Rays(
        origins=torch.tensor([[0.75, 0.6, 3.0]]),
        directions=torch.tensor([[0.0, 0.0, -2.0]]),
        radii=torch.zeros(1),
        near=torch.zeros(1),
        far=torch.full((1,), 9.0),
    )
    depth = float(NAMES["still"]().trace(rays).depth)
    assert depth == pytest.approx((3.0 - stages.FLOOR) / 2, abs=1e-5)


def test_colours_depend_on_the_view() -> None:
    """The top of the red ball, seen along the mirrored sun and from the other side."""
    point = torch.tensor([0.52, -0.55, stages.FLOOR + 0.34])
    eyes = point + 0.1 * torch.tensor([[-1.35, 1.65, 2.85], [1.35, -1.65, 2.85]])
    rays = Rays(eyes, point - eyes, torch.zeros(2), torch.zeros(2), torch.full((2,), 2.0))
    traced = NAMES["still"]().trace(rays)
    assert torch.allclose(traced.depth, torch.ones(2), atol=1e-4)
    assert float((traced.rgb[0] - traced.rgb[1]).min()) > 0.05


def test_a_pixel_is_the_mean_of_its_samples() -> None:
    scene = make_scene("still", 2, 0, 0, size=18)
    camera = scene.split("train").cameras[0]
    stage = NAMES["still"]()
    traced = stage.trace(camera.resized(72, 72).view_rays(0))
    samples = torch.cat([traced.rgb, traced.alpha[..., None]], -1)
    expected = samples.reshape(18, 4, 18, 4, 4).mean((1, 3))
    rgba = paint(stage, camera).rgba[0]
    assert float((rgba - expected).abs().max()) < 2e-3
    assert bool((rgba[..., :3] <= rgba[..., 3:] + 1e-6).all())


def test_the_split_changes_topology() -> None:
    """Seen from above, the extra ball is in one piece at times 0 and 1, and in two at time 0.5."""
    label = pytest.importorskip("skimage.measure").label
    steps = torch.linspace(-0.6, 0.6, 60)
    x, y = torch.meshgrid(steps, 0.25 * steps - 0.68, indexing="ij")
    origins = torch.stack([x, y, torch.full_like(x, 3.0)], -1)
    down = torch.tensor([0.0, 0.0, -1.0]).expand_as(origins)
    flat = torch.zeros_like(x)
    pieces = []
    for time in (0.0, 0.5, 1.0):
        rays = Rays(origins, down, flat, flat, flat + 9, times=flat + time)
        height = 3 - NAMES["moving-split"]().trace(rays).depth
        pieces.append(int(label((height > stages.FLOOR + 0.02).numpy()).max()))
    assert pieces == [1, 2, 1]


def test_attributes_move_what_their_masks_show() -> None:
    scene = make_scene("attributes", 6, 0, 0, size=48)
    views = scene.split("train")
    assert isinstance(views, ProceduralViews)
    masks = torch.stack([views.attribute_masks(index) for index in range(6)])
    assert masks.shape == (6, 48, 48, 2)
    assert bool((masks.amax((0, 1, 2)) > 0.9).all())
    assert bool((masks[0].sum(-1) <= views.image(0)[..., 3] / 255 + 0.01).all())
    stage, camera = views.stage, views.cameras[0]
    rays = camera.view_rays(0).flatten()
    for attribute in (0, 1):
        states = torch.tensor([[-1.0, -1.0], [-1.0, -1.0]])
        states[1, attribute] = 1.0
        before, after = (
            stage.trace(Rays(**{**rays.__dict__, "attributes": state.expand(len(rays), 2)}))
            for state in states
        )
        moved = torch.isfinite(before.depth) != torch.isfinite(after.depth)
        moved |= (before.depth - after.depth).abs() > 1e-3
        own = (before.attribute == attribute) | (after.attribute == attribute)
        assert moved.any()
        assert not (moved & ~own).any()


@pytest.mark.parametrize("name", NAMES)
def test_scenes_are_repeatable_and_complete(name: str) -> None:
    first, second = (make_scene(name, 4, 2, 3, size=12, seed=5) for _ in range(2))
    assert [len(first.split(split)) for split in ("train", "val", "test")] == [4, 2, 3]
    for split, views in first.views.items():
        again = second.split(split)
        assert torch.equal(views.image(1), again.image(1))
        for key, value in views.cameras.tensors().items():
            assert torch.equal(value, again.cameras.tensors()[key])
        assert views.has_alpha
        assert views.cameras is first.info.cameras[split]
    ids = torch.cat([views.cameras.ids for views in first.views.values()])
    assert ids.tolist() == list(range(9))
    times, attributes = first.split("train").cameras.times, first.split("train").cameras.attributes
    assert (times is not None) == name.startswith("moving")
    assert (attributes is not None) == (name == "attributes")
    if times is not None:
        assert float(times[0]) == 0
        assert sorted(times.tolist()) == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_more_views_of_another_seed_are_others() -> None:
    one, other = (make_scene("still", 3, 0, 0, size=8, seed=seed) for seed in (0, 1))
    assert set(one.views) == {"train"}
    assert not torch.equal(one.split("train").cameras.positions, other.split("train").cameras.positions)
    with pytest.raises(LumigraphError, match="no test views"):
        one.split("test")


def test_builtin_sizes_and_their_errors() -> None:
    scene = load_builtin("still:96", downscale=3)
    assert scene.info.cameras["train"].size[0].tolist() == [32, 32]
    assert (scene.info.source, scene.info.downscale, scene.info.background) == (
        "builtin:still:96",
        3,
        "white",
    )
    assert load_builtin("still:32").split("test") is load_builtin("still:96", downscale=3).split("test")
    assert load_scene("builtin:still:64").info.cameras["train"].size[0].tolist() == [64, 64]
    for name, downscale, message in (
        ("stil", 1, r"There are builtin:still, .*builtin:moving-split, builtin:attributes\.$"),
        ("still:big", 1, "no usable size"),
        ("still:99999999", 1, "no usable size"),
        ("still:", 1, "no usable size"),
        ("still:64", 65, "downscale"),
    ):
        with pytest.raises(LumigraphError, match=message):
            load_builtin(name, downscale=downscale)
    with pytest.raises(LumigraphError, match="cannot be made"):
        make_scene("still", 0)


@pytest.mark.parametrize("name", ["still", "moving", "attributes"])
def test_a_written_folder_reads_back_equal(name: str, tmp_path) -> None:
    scene = make_scene(name, 3, 1, 2, size=20)
    write_blender(scene, tmp_path / "scene")
    back = load_scene(tmp_path / "scene")
    assert back.info.background == scene.info.background
    assert torch.equal(back.info.bounds.upper, scene.info.bounds.upper)
    for split, views in scene.views.items():
        others = back.split(split)
        assert others.names == views.names
        for key, value in views.cameras.tensors().items():
            # A reader makes rotations exact, which may change their last bit.
            tolerance = 1e-6 if key == "camera_to_world" else 0
            assert torch.allclose(
                others.cameras.tensors()[key].double(), value.double(), rtol=0, atol=tolerance
            )
        for index in range(len(views)):
            assert torch.equal(others.image(index), views.image(index))
            ours, theirs = views.depth(index), others.depth(index)
            assert ours is not None
            assert theirs is not None
            assert torch.equal(ours.nan_to_num(-1), theirs.nan_to_num(-1))
            shares, read = views.attribute_masks(index), others.attribute_masks(index)
            assert (shares is None) == (read is None) == (name != "attributes")
            if shares is not None and read is not None:
                assert torch.equal((shares * 255).round(), (read * 255).round())
    assert back.info.attributes == scene.info.attributes
    assert scene.info.attributes == (("head", "arm") if name == "attributes" else ())
    masks = sorted(path.name for path in (tmp_path / "scene" / "val").glob("*attribute*"))
    assert masks == (["r_000_attribute_0.png", "r_000_attribute_1.png"] if name == "attributes" else [])
    with pytest.raises(LumigraphError, match="exists already"):
        write_blender(scene, tmp_path / "scene")


def test_straight_alpha_loses_nothing() -> None:
    from lumigraph.scenes.formats.pictures import premultiplied, straight

    alpha, colour = np.meshgrid(np.arange(256), np.arange(256), indexing="ij")
    colour = np.minimum(colour, alpha)
    image = np.stack([colour, colour // 2, colour // 3, alpha], -1).astype(np.uint8)
    assert np.array_equal(premultiplied(straight(image)), image)


def test_cameras_look_at_the_scene_from_the_usual_distance() -> None:
    cameras = make_scene("still", 20, 5, 5, size=16).info.cameras["train"]
    assert torch.allclose(cameras.positions.norm(dim=-1), torch.full((20,), 4.0), atol=1e-5)
    assert float((cameras.forwards * cameras.positions).sum(-1).max()) == pytest.approx(-4.0, abs=1e-4)
    assert float(cameras.positions[:, 2].min()) > 0
    assert float(cameras.focal[0, 0]) == pytest.approx(8 / math.tan(0.5 * 0.6911112), rel=1e-6)
