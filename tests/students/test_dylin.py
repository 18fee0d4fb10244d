"""DyLiN: published sizes, reduction to R2L, moved rays and hyper code, gradients, learning a scene that moves."""

from dataclasses import replace

import pytest
import torch

from lumigraph.configs.dylin import PRESETS, DyLiNConfig
from lumigraph.configs.r2l import R2LConfig
from lumigraph.errors import LumigraphError
from lumigraph.fields.encodings import octave_window
from lumigraph.fields.ray_code import positional_encoding
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.renderer import Batch
from lumigraph.students.dylin import DyLiN
from lumigraph.students.r2l import R2L

TINY = DyLiNConfig(
    width=16,
    depth=6,
    points=4,
    octaves=3,
    rays=32,
    motion_octaves=3,
    offset_width=12,
    hyper_width=10,
    hyper_dims=2,
)


def student(config: DyLiNConfig = TINY) -> DyLiN:
    torch.manual_seed(0)
    return DyLiN(config, 2.0, 6.0, "white")


def rays(count: int = 40, times: bool = True) -> Rays:
    generator = torch.Generator().manual_seed(1)
    ones = torch.ones(count)
    return Rays(
        torch.randn(count, 3, generator=generator),
        torch.randn(count, 3, generator=generator),
        0.01 * ones,
        2 * ones,
        6 * ones,
        times=torch.rand(count, generator=generator) if times else None,
    )


def batch(count: int = 40) -> Batch:
    rgba = torch.rand(count, 4, generator=torch.Generator().manual_seed(2))
    rgba[:, :3] *= rgba[:, 3:]
    return Batch(rays(count), rgba)


def scrambled(model: DyLiN) -> DyLiN:
    """With heads that are not zero."""
    torch.manual_seed(5)
    with torch.no_grad():
        for head in (model.offset.output, model.hyper.output):
            head.weight.normal_(0, 0.3)
            head.bias.normal_(0, 0.3)
    return model


def test_published_sizes() -> None:
    with torch.device("meta"):
        model = DyLiN(PRESETS["paper"], 2.0, 6.0, "white")
    parts = [model.network, model.offset, model.hyper]
    assert [sum(p.numel() for p in part.parameters()) for part in parts] == [5_960_195, 137_606, 40_200]
    assert sum(p.numel() for p in model.parameters()) == 6_138_001
    weights = sum(p.numel() for p in model.parameters() if p.ndim == 2)
    assert 2 * weights == pytest.approx(12.23e6, abs=5e3)  # FLOPs per ray
    assert model.network.head.in_features == 1176
    with torch.device("meta"):
        wide = DyLiN(replace(PRESETS["paper"], hyper_per_point=True), 2.0, 6.0, "white")
    assert wide.network.head.in_features == 16 * (3 + 8) * 21


@pytest.mark.parametrize("fused", [True, False])
def test_without_motion_it_is_r2l(fused: bool) -> None:
    """Heads of zeros and no hyper code: bit for bit, in rendering, losses and gradients."""
    moving = student(replace(TINY, hyper_dims=0, perturb=True))
    still = R2L(R2LConfig(width=16, depth=6, points=4, octaves=3, rays=32, perturb=True), 2.0, 6.0, "white")
    still.network.load_state_dict(moving.network.state_dict())
    moving.network.fusible = still.network.fusible = fused
    assert torch.equal(moving.render(rays()).rgb, still.render(rays()).rgb)
    later = replace(rays(), times=torch.ones(40))
    assert torch.equal(moving.render(later).rgb, still.render(later).rgb)
    losses = [model.losses(batch(), 3, 0) for model in (moving, still)]
    assert torch.equal(losses[0].terms["rgb"], losses[1].terms["rgb"])
    for loss in losses:
        loss.terms["rgb"].backward()
    for first, second in zip(moving.network.parameters(), still.network.parameters(), strict=True):
        assert torch.equal(first.grad, second.grad)


def test_offsets_and_code_by_hand() -> None:
    model, seen = scrambled(student()), rays()
    lines = model.lines_of(seen)
    code = positional_encoding(torch.cat([seen.origins, seen.directions, seen.times[:, None]], 1), 3)
    offset, hyper = model.offset(code), model.hyper(code)
    t = torch.linspace(2, 6, 4)
    points = (seen.origins + offset[:, :3])[:, None] + t[:, None] * (seen.directions + offset[:, 3:])[:, None]
    expected = torch.cat([points.flatten(1), hyper], 1).T
    rows = model.describe(lines, model._depths(None)).rows
    torch.testing.assert_close(rows, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.hyper_code(seen.reshape(5, 8)), hyper.detach().reshape(5, 8, 2))
    wide = scrambled(student(replace(TINY, hyper_per_point=True)))
    rows = wide.describe(lines, wide._depths(None)).rows
    each = wide.hyper(code)[:, None].expand(-1, 4, -1)
    shifted = wide.offset(code)
    points = (seen.origins + shifted[:, :3])[:, None] + t[:, None] * (seen.directions + shifted[:, 3:])[
        :, None
    ]
    torch.testing.assert_close(rows, torch.cat([points, each], 2).flatten(1).T, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("per_point", [True, False])
def test_plain_and_fused_steps_agree(per_point: bool) -> None:
    models = [scrambled(student(replace(TINY, hyper_per_point=per_point))) for _ in range(2)]
    models[1].network.fusible = False
    for model in models:
        sum(model.losses(batch(), 0, 0).terms.values()).backward()
    for (name, first), second in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(first.grad, second.grad, atol=1e-6, rtol=1e-3, msg=name)
        assert float(first.grad.abs().sum()) > 0


def test_rendering_is_the_exported_function() -> None:
    model, seen = scrambled(student()), rays()
    colours = model.network(model.ray_codes(seen.origins, seen.directions, seen.times)).detach()
    torch.testing.assert_close(model.render(seen).rgb, colours, atol=1e-5, rtol=1e-4)
    later = replace(seen, times=1 - seen.times)
    assert not torch.allclose(model.render(later).rgb, colours, atol=1e-4)
    assert model.conditions == ("times",)


def test_rays_without_times_are_refused() -> None:
    with pytest.raises(LumigraphError, match="times"):
        student().render(rays(times=False))


def test_hyper_code_is_edited_within_the_block_only() -> None:
    model, seen = scrambled(student()), rays()
    before = model.render(seen).rgb
    with model.edited(1, 0.7):
        assert bool((model.hyper_code(seen)[:, 1] == 0.7).all())
        changed = model.render(seen).rgb
        with model.edited(0, -0.2):
            assert torch.equal(model.hyper_code(seen), torch.tensor([-0.2, 0.7]).expand(40, 2))
        assert torch.equal(model.render(seen).rgb, changed)
    assert torch.equal(model.render(seen).rgb, before)
    assert not torch.equal(changed, before)
    with pytest.raises(LumigraphError, match="no channel 2"), model.edited(2, 0.0):
        pass


def test_window_opens_octave_by_octave_and_never_closes() -> None:
    model = student(replace(TINY, motion_window=0.5))
    assert "motion_alpha" in model.state_dict()
    assert "motion_alpha" not in student().state_dict()
    for progress in (0.25, 0.0):
        model.begin_step(10, progress, 0)
        assert octave_window(3, model.motion_alpha).tolist() == pytest.approx([1.0, 0.5, 0.0])
    model = student(replace(TINY, motion_window=0.5))
    seen = model.lines_of(rays())
    code = model.encoded(seen, seen.times).unflatten(1, (7, 7))
    assert float(code[..., :6].abs().max()) == 0  # waves are closed, the numbers themselves are not
    model.begin_step(10, 0.5, 0)
    open_code = model.encoded(seen, seen.times)
    torch.testing.assert_close(open_code, student().encoded(seen, seen.times))


def test_heads_begin_as_asked() -> None:
    assert bool((student().offset.output.weight == 0).all())
    assert bool((student(replace(TINY, zero_heads=False)).offset.output.weight != 0).all())
    assert bool((student().hyper_code(rays()) == 0).all())


def test_a_scene_that_moves_is_learnt() -> None:
    """A bright edge that passes through the picture: what a still light field can only blur."""

    def truth(count: int, seed: int) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        u, times = torch.rand(count, generator=generator) * 2 - 1, torch.rand(count, generator=generator)
        directions = torch.stack([u, 0.1 * torch.randn(count, generator=generator), torch.ones(count)], 1)
        bright = torch.sigmoid((u - (1.4 * times - 0.7)) * 12)[:, None].expand(-1, 3)
        ones = torch.ones(count)
        seen = Rays(
            torch.zeros(count, 3) - torch.tensor([0, 0, 4.0]), directions, ones, ones, ones, times=times
        )
        return Batch(seen, torch.cat([bright, ones[:, None]], 1))

    config = replace(
        TINY, width=32, depth=8, octaves=2, hyper_dims=2, motion_octaves=2, lr=5e-3, schedule="constant"
    )
    model = student(replace(config, warmup_steps=0))
    optimiser = model.make_optimiser()
    for step in range(300):
        optimiser.zero_grad()
        model.losses(truth(256, step), step, 0).terms["rgb"].backward()
        optimiser.step()
    held = truth(1000, 10**6)
    error = float(model.losses(held, 0, 0).squared_error.mean())
    still = float((held.rgba[:, 0] - held.rgba[:, 0].mean()).square().mean())
    assert error < 1e-3 < 0.02 * still
    assert float(model.offset.output.weight.detach().abs().max()) > 1e-3


@pytest.mark.parametrize(
    "wrong", [{"offset_width": 0}, {"hyper_dims": -1}, {"motion_window": 1.5}, {"motion_lr": 0.0}]
)
def test_impossible_options_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(TINY, **wrong)
