"""R2L: sizes and schedule of the publication, jitter, losses, and what it refuses."""

from dataclasses import replace

import pytest
import torch

from lumigraph.configs.r2l import PRESETS, R2LConfig
from lumigraph.errors import LumigraphError
from lumigraph.geometry.bounds import Bounds
from lumigraph.geometry.ndc import ForwardFrame
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.renderer import Batch
from lumigraph.scenes.procedural import make_scene
from lumigraph.students.r2l import R2L

TINY = R2LConfig(width=16, depth=6, points=4, octaves=4, rays=32)


def student(config: R2LConfig = TINY, background="white") -> R2L:
    torch.manual_seed(0)
    return R2L(config, 2.0, 6.0, background)


def rays(count: int = 40) -> Rays:
    generator = torch.Generator().manual_seed(1)
    ones = torch.ones(count)
    return Rays(
        torch.randn(count, 3, generator=generator),
        torch.randn(count, 3, generator=generator),
        0.01 * ones,
        2 * ones,
        6 * ones,
    )


def batch(count: int = 40, depth: bool = False) -> Batch:
    rgba = torch.rand(count, 4, generator=torch.Generator().manual_seed(2))
    rgba[:, :3] *= rgba[:, 3:]
    values = torch.linspace(2, 6, count)
    values[::5] = float("nan")
    return Batch(rays(count), rgba, values if depth else None)


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (PRESETS["paper"], 5_917_187),
        (PRESETS["donerf"], 3_016_187),
        (replace(PRESETS["paper"], code="plucker"), 5_691_395),
    ],
)
def test_published_sizes(config: R2LConfig, parameters: int) -> None:
    with torch.device("meta"):
        network = R2L(config, 2.0, 6.0, "white").network
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    if parameters == 5_917_187:
        assert network.multiplications() == 5_894_912
        assert len(network.body) == 43


def test_where_the_points_lie() -> None:
    """Cameras at distance 4 of a box of half side 1.5, with near 2 and far 6; or as published, or as told."""
    info = make_scene("still", 2, 0, 0, size=8).info
    half = float(info.bounds.half_extent.max())
    ball = R2L.from_scene(TINY, info)
    assert (ball.near, ball.far) == pytest.approx((4 - half, 4 + half), abs=1e-5)
    cameras = R2L.from_scene(replace(TINY, extent="cameras"), info)
    assert (cameras.near, cameras.far) == (2.0, 6.0)
    given = R2L.from_scene(replace(TINY, near=1.0, far=9.0), info)
    assert (given.near, given.far) == (1.0, 9.0)
    # From within the box, the cameras' own near is the limit.
    inside = replace(info, bounds=Bounds(-torch.full((3,), 10.0), torch.full((3,), 10.0)))
    assert R2L.from_scene(TINY, inside).near == 2.0


FRAME = ForwardFrame(torch.tensor([[1.0, 0, 0, 0.1], [0, -1, 0, 0.2], [0, 0, -1, 0.3]]), (0.5, 0.4), 1.0)


def forward_student(config: R2LConfig = TINY) -> R2L:
    info = replace(make_scene("still", 2, 0, 0, size=8).info, forward=FRAME)
    torch.manual_seed(0)
    return R2L.from_scene(config, info)


def forward_rays(count: int = 40) -> Rays:
    """From about the origin, along -z."""
    drawn = rays(count)
    directions = 0.2 * drawn.directions
    directions[:, 2] = -1
    return replace(drawn, origins=0.2 * drawn.origins, directions=directions)


def test_points_of_forward_facing_scenes_lie_in_normalised_device_coordinates() -> None:
    model = forward_student()
    assert (model.near, model.far, model.frame) == (0.0, 1.0, FRAME)
    ndc = FRAME.rays(forward_rays())
    t = torch.linspace(0, 1, TINY.points)[:, None]
    wanted = (ndc.origins + t[..., None] * ndc.directions).permute(0, 2, 1).flatten(0, 1)
    lines = model.lines(forward_rays().origins, forward_rays().directions)
    torch.testing.assert_close(model.describe(lines, model._depths(None)).rows, wanted)
    exported = model.network(model.ray_codes(forward_rays().origins, forward_rays().directions)).detach()
    torch.testing.assert_close(model.render(forward_rays()).rgb, exported, atol=1e-5, rtol=1e-5)
    loss = model.losses(Batch(forward_rays(), batch().rgba, None), 0, 0).terms["rgb"]
    loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_where_points_lie_can_be_chosen() -> None:
    assert forward_student(replace(TINY, ray_space="ndc")).frame is FRAME
    world = forward_student(replace(TINY, ray_space="world"))
    still = R2L.from_scene(TINY, make_scene("still", 2, 0, 0, size=8).info)
    assert world.frame is None
    assert (world.near, world.far) == (still.near, still.far)
    published = forward_student(replace(PRESETS["paper-llff"], width=16, depth=6))
    assert (published.frame, published.near, published.far) == (None, 0.0, 1.0)
    with pytest.raises(LumigraphError, match="normalised device coordinates"):
        R2L.from_scene(replace(TINY, ray_space="ndc"), make_scene("still", 2, 0, 0, size=8).info)


def test_depth_in_normalised_device_coordinates() -> None:
    """Learnt as the part of the way from the near plane to infinity, told as depth in the scene."""
    model = forward_student(replace(TINY, learn_depth=True))
    seen = replace(forward_rays(), far=torch.full((40,), 100.0))
    with torch.no_grad():
        model.network.tail.weight.zero_()
        model.network.tail.bias.zero_()  # sigmoid: one half of the way, twice as deep as the near plane
    depth = model.render(seen).depth
    assert depth is not None
    torch.testing.assert_close(depth, FRAME.depth(torch.full((40,), 0.5), seen))
    assert float(depth.min()) > 0.5
    losses = model.losses(Batch(seen, batch().rgba, depth), 0, 0)
    assert float(losses.terms["depth"]) == pytest.approx(0.0, abs=1e-9)
    unknown = torch.full((40,), float("nan"))
    assert float(model.losses(Batch(seen, batch().rgba, unknown), 0, 0).terms["depth"]) == 0


def test_the_graph_of_a_forward_facing_scene_is_portable() -> None:
    pytest.importorskip("onnxruntime")
    from lumigraph.export.onnx import rays_graph
    from lumigraph.export.runtime import Session

    model, drawn = forward_student(), forward_rays()
    graph = rays_graph(model, torch.eye(4, dtype=torch.float64))
    found = Session(graph.data, "rays.onnx").run(
        {"origins": drawn.origins.numpy(), "directions": drawn.directions.numpy()}
    )
    torch.testing.assert_close(torch.from_numpy(found), model.render(drawn).rgb, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("step", "lr"),
    [(0, 1e-4), (100, 3e-4), (200, 5e-4), (600_000, 3.157e-5), (800_000, 1.257e-5), (1_200_000, 1.99e-6)],
)
def test_published_schedule(step: int, lr: float) -> None:
    model = student(replace(TINY, lr=5e-4, warmup_lr=1e-4, warmup_steps=200, schedule="steps"))
    assert model.optimisers()[0].lr * model.lr_scale(step, 0.3) == pytest.approx(lr, rel=2e-3)


def test_budget_schedule_falls_from_lr_to_its_last_part() -> None:
    model = student(replace(TINY, schedule="budget", final_lr=0.05, warmup_steps=10))
    assert model.lr_scale(10, 0.0) == pytest.approx(1)
    assert model.lr_scale(10, 0.5) == pytest.approx(0.525)
    assert model.lr_scale(10**9, 1.0) == pytest.approx(0.05)
    assert student(replace(TINY, schedule="constant", warmup_steps=0)).lr_scale(7, 0.9) == 1


def test_the_rise_ends_after_a_tenth_of_a_budget_of_few_steps() -> None:
    model = student(replace(TINY, schedule="budget", lr=1.0, warmup_lr=0.2, warmup_steps=200, final_lr=1.0))
    assert model.lr_scale(100, 0.0) == pytest.approx(0.6)
    assert model.lr_scale(0, 0.05) == pytest.approx(0.6)
    assert model.lr_scale(17, 0.1) == model.lr_scale(170, 1.0) == pytest.approx(1)


@pytest.mark.parametrize("code", ["points", "plucker"])
def test_fused_rendering_is_the_exported_network(code) -> None:
    model = student(replace(TINY, code=code))
    assert model.fused
    seen = model.render(rays())
    torch.testing.assert_close(
        seen.rgb,
        model.network(model.ray_codes(rays().origins, rays().directions))[:, :3].detach(),
        atol=1e-5,
        rtol=1e-5,
    )
    assert seen.depth is None
    assert model.render(rays().reshape(5, 8)).rgb.shape == (5, 8, 3)


def test_rendering_follows_the_weights() -> None:
    model = student()
    before = model.render(rays()).rgb
    with torch.no_grad():
        model.network.tail.bias.add_(1)
    assert not torch.equal(before, model.render(rays()).rgb)


def test_target_is_composited_on_the_display_background() -> None:
    for background, value in (("white", 1.0), ("random", 1.0), ("black", 0.0), ("opaque", 0.0)):
        model, drawn = student(background=background), batch()
        target = drawn.rgba[:, :3] + (1 - drawn.rgba[:, 3:]) * value
        expected = (model.render(drawn.rays).rgb - target).square().mean(1)
        losses = model.losses(drawn, 0, 0)
        torch.testing.assert_close(losses.squared_error, expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(losses.terms["rgb"].detach(), expected.mean())


def test_jitter_is_a_function_of_seed_and_step() -> None:
    model, drawn = student(replace(TINY, perturb=True)), batch()
    losses = [
        model.losses(drawn, step, seed).terms["rgb"].item() for step, seed in ((3, 0), (3, 0), (4, 0), (3, 1))
    ]
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3


def test_directions_of_length_one() -> None:
    """The colour then does not depend on how long a direction is; depth is still depth along the camera's axis."""
    model, seen = student(replace(TINY, unit_directions=True, learn_depth=True)), rays()
    longer = replace(seen, directions=3 * seen.directions)
    torch.testing.assert_close(model.render(seen).rgb, model.render(longer).rgb, atol=1e-5, rtol=1e-4)
    depth = model.render(seen).depth
    torch.testing.assert_close(depth, 3 * model.render(longer).depth, atol=1e-5, rtol=1e-4)
    losses = model.losses(Batch(seen, batch().rgba, depth), 0, 0)
    assert float(losses.terms["depth"]) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("residual", [True, False])
def test_depth_is_learnt_where_it_is_known(residual: bool) -> None:
    model, drawn = student(replace(TINY, learn_depth=True, residual=residual)), batch(depth=True)
    assert model.fused is residual
    losses = model.losses(drawn, 0, 0)
    known = torch.isfinite(drawn.depth)
    outputs = model.render(drawn.rays)
    expected = 0.1 * ((outputs.depth - drawn.depth)[known] / 4).square().mean()
    torch.testing.assert_close(losses.terms["depth"].detach(), expected, atol=1e-6, rtol=1e-4)
    sum(losses.terms.values()).backward()
    assert float(model.network.tail.weight.grad[3].abs().sum()) > 0


def test_plain_and_fused_steps_agree() -> None:
    models = [student(replace(TINY, learn_depth=True)) for _ in range(2)]
    models[1].network.fusible = False
    for model in models:
        sum(model.losses(batch(depth=True), 0, 0).terms.values()).backward()
    for first, second in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(first.grad, second.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    "wrong",
    [{"depth": 2}, {"depth": 7}, {"points": 1}, {"width": 0}, {"hard_ratio": (0.2, 1.5)}, {"final_lr": 2.0}],
)
def test_impossible_options_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong)).split("_")[0]):
        replace(TINY, **wrong)
