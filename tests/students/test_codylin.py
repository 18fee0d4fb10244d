"""CoDyLiN: reduction to DyLiN, masks and their loss, unknown attributes, learning what attributes do."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from lumigraph.configs.codylin import PRESETS, CoDyLiNConfig
from lumigraph.configs.dylin import DyLiNConfig
from lumigraph.errors import LumigraphError
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.renderer import Batch
from lumigraph.scenes.procedural import make_scene
from lumigraph.scenes.scene import Views
from lumigraph.students.codylin import CoDyLiN
from lumigraph.students.dylin import DyLiN
from lumigraph.training.sources import PhotoSource
from lumigraph.training.validation import mask_of, of_known_state

SMALL = {
    "width": 16, "depth": 6, "points": 4, "octaves": 3, "rays": 32, "motion_octaves": 2, "offset_width": 12,
    "hyper_width": 10, "hyper_dims": 2,
}  # fmt: skip
TINY = CoDyLiNConfig(**SMALL, mask_width=10)


def student(config: CoDyLiNConfig = TINY, attributes: int = 2, timed: bool = True) -> CoDyLiN:
    torch.manual_seed(0)
    return CoDyLiN(config, 2.0, 6.0, "white", None, attributes, timed)


def rays(attributes: int = 2, count: int = 40) -> Rays:
    generator = torch.Generator().manual_seed(1)
    ones = torch.ones(count)
    return Rays(
        torch.randn(count, 3, generator=generator),
        torch.randn(count, 3, generator=generator),
        0.01 * ones,
        2 * ones,
        6 * ones,
        times=torch.rand(count, generator=generator),
        attributes=torch.rand(count, attributes, generator=generator) * 2 - 1 if attributes else None,
    )


def batch(masks: bool = True) -> Batch:
    generator = torch.Generator().manual_seed(2)
    rgba = torch.cat([torch.rand(40, 3, generator=generator), torch.ones(40, 1)], 1)
    told = torch.rand(40, 2, generator=generator)
    return Batch(rays(), rgba, attribute_masks=told if masks else None)


def test_without_attributes_it_is_dylin() -> None:
    """Bit for bit, in rendering, losses and gradients, with weights that are not zero."""
    controlled = student(replace(TINY, zero_heads=False, perturb=True), attributes=0)
    moving = DyLiN(DyLiNConfig(**SMALL, zero_heads=False, perturb=True), 2.0, 6.0, "white")
    moving.load_state_dict(controlled.state_dict())
    seen = rays(attributes=0)
    assert controlled.conditions == ("times",)
    assert torch.equal(controlled.render(seen).rgb, moving.render(seen).rgb)
    assert torch.equal(controlled.hyper_code(seen), moving.hyper_code(seen))
    losses = [model.losses(Batch(seen, batch().rgba), 3, 0).terms["rgb"] for model in (controlled, moving)]
    assert torch.equal(*losses)
    for loss in losses:
        loss.backward()
    for first, second in zip(controlled.parameters(), moving.parameters(), strict=True):
        assert torch.equal(first.grad, second.grad)


def test_code_is_weighed_by_masks() -> None:
    model, seen = student(replace(TINY, zero_heads=False)), rays()
    shown = model.render(seen)
    masks = shown.extras["attribute_masks"]
    assert masks.shape == (40, 2)
    torch.testing.assert_close(masks, torch.full((40, 2), 1 / 3))  # equal shares at first
    lines = model.lines_of(seen)
    own = model.hyper(model.encoded(lines, seen.times)) / 3
    parts = [
        network(model.encoded(lines, seen.attributes[:, number])) / 3
        for number, network in enumerate(model.attribute_hypers)
    ]
    torch.testing.assert_close(model.hyper_code(seen), torch.cat([own, *parts], 1).detach())
    assert model.channels == 6
    with torch.no_grad():
        model.mask.output.bias.copy_(torch.tensor([30.0, -30.0]))
    code = model.hyper_code(seen)
    assert float(code[:, :2].abs().max()) == 0
    assert float(code[:, 4:].abs().max()) < 1e-9
    assert float(code[:, 2:4].abs().max()) > 1e-3


def test_masks_are_pulled_to_the_teachers_where_these_are_known() -> None:
    model, drawn = student(), batch()
    drawn.attribute_masks[::2] = math.nan
    drawn.attribute_masks[1::4] = 1.0  # shares at the ends of their range
    told = torch.isfinite(drawn.attribute_masks)
    wanted = drawn.attribute_masks[told]
    share = 0.001 + 0.998 / 3  # a third, kept from 0 and 1 as `mask_cross_entropy` keeps shares
    expected = -(wanted * math.log(share) + (1 - wanted) * math.log(1 - share)).mean()
    losses = model.losses(drawn, 0, 0)
    torch.testing.assert_close(losses.terms["masks"].detach(), 0.05 * expected)
    losses.terms["masks"].backward()
    assert float(model.mask.output.weight.grad.abs().sum()) > 0
    assert "masks" not in model.losses(batch(masks=False), 0, 0).terms
    # Of rays whose attributes are not known, masks say nothing either.
    drawn.rays.attributes[10:, 0] = math.nan
    known = Batch(drawn.rays[:10], drawn.rgba[:10], attribute_masks=drawn.attribute_masks[:10])
    torch.testing.assert_close(
        model.losses(drawn, 0, 0).terms["masks"], model.losses(known, 0, 0).terms["masks"]
    )


def test_without_a_code_attributes_would_have_no_effect() -> None:
    with pytest.raises(ValueError, match="hyper_dims"):
        replace(TINY, hyper_dims=0)


def test_photos_are_drawn_of_which_attributes_are_known() -> None:
    info = make_scene("attributes", 3, 0, 0, size=8).info
    cameras = info.cameras["train"]
    assert cameras.attributes is not None
    values = cameras.attributes.clone()
    values[0], values[1, 0] = math.nan, math.nan
    sparse = replace(cameras, attributes=values)
    model = CoDyLiN.from_scene(TINY, replace(info, cameras={"train": sparse}))
    assert model.wants_attribute_masks
    views = Views.from_arrays(sparse, ["a", "b", "c"], np.zeros((3, 8, 8, 4), np.uint8))
    drawn = PhotoSource(views, 0, sampling=model.pixel_sampling()).batch(0, 64).rays.attributes
    assert drawn is not None
    assert torch.equal(drawn, values[2].expand(64, 2))
    views.cameras = replace(sparse, attributes=torch.full_like(values, math.nan))
    with pytest.raises(LumigraphError, match="of no photo all attributes are known"):
        PhotoSource(views, 0, sampling=model.pixel_sampling())


def test_rays_without_a_known_attribute_are_not_learnt_from() -> None:
    model, drawn = student(), batch(masks=False)
    drawn.rays.attributes[10:, 1] = math.nan
    known = Batch(drawn.rays[:10], drawn.rgba[:10])
    torch.testing.assert_close(model.losses(drawn, 0, 0).terms["rgb"], model.losses(known, 0, 0).terms["rgb"])
    error = model.losses(drawn, 0, 0).squared_error
    assert (error[:10] > 0).all(), "what is learnt from may be hard"
    assert not error[10:].any()
    drawn.rays.attributes[:, 0] = math.nan
    with pytest.raises(LumigraphError, match="no ray of the batch has known attributes"):
        model.losses(drawn, 0, 0)
    middle = replace(drawn.rays, attributes=drawn.rays.attributes.nan_to_num(0.0))
    assert torch.equal(model.render(drawn.rays).rgb, model.render(middle).rgb)
    with pytest.raises(LumigraphError, match="attributes"):
        model.render(rays(attributes=0))


def test_views_of_unknown_attributes_say_nothing_of_it(caplog: pytest.LogCaptureFixture) -> None:
    scene = make_scene("attributes", 3, 0, 0, size=8)
    cameras = scene.info.cameras["train"]
    assert cameras.attributes is not None
    values = cameras.attributes.clone()
    values[1, 0] = math.nan
    part = replace(cameras, attributes=values)
    pictures = np.arange(3, dtype=np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2).repeat(3, 3)
    views = Views.from_arrays(
        part, ["a", "b", "c"], pictures, masks=[np.full((8, 8), i == 0) for i in range(3)]
    )
    model = student(timed=False)
    assert model.knows_state(part).tolist() == [True, False, True]
    kept = of_known_state(model, views)
    assert kept is not None
    assert "of 1 of 3 validation views the attributes are not known" in caplog.text
    assert len(kept) == 2
    assert torch.equal(kept.cameras.attributes, values[[0, 2]])
    assert [int(kept.image(index)[0, 0, 0]) for index in range(2)] == [0, 2]
    assert [bool(mask_of(kept, index).all()) for index in range(2)] == [True, False]
    assert of_known_state(model, views.subset([1])) is None
    assert of_known_state(student(attributes=0), views) is views


def test_scene_decides_what_it_knows() -> None:
    still = CoDyLiN.from_scene(TINY, make_scene("attributes", 2, 0, 0, size=8).info)
    assert isinstance(still, CoDyLiN)
    assert (still.attributes, still.conditions) == (2, ("attributes",))
    assert still.render(replace(rays(), times=None)).rgb.shape == (40, 3)
    assert student().conditions == ("times", "attributes")


def test_paper_preset_has_dylins_sizes_and_masks_of_the_moved_ray() -> None:
    with torch.device("meta"):
        model = CoDyLiN(PRESETS["paper"], 2.0, 6.0, "white", None, 0)
        controlled = CoDyLiN(PRESETS["paper"], 2.0, 6.0, "white", None, 2)
    assert sum(p.numel() for p in model.parameters()) == 6_138_001
    assert controlled.mask.hidden[0].in_features == 6 * 21
    assert controlled.network.head.in_features == (48 + 3 * 8) * 21


def test_plain_and_fused_steps_agree() -> None:
    models = [student(replace(TINY, zero_heads=False)) for _ in range(2)]
    models[1].network.fusible = False
    for model in models:
        sum(model.losses(batch(), 0, 0).terms.values()).backward()
    for (name, first), second in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(first.grad, second.grad, atol=1e-6, rtol=1e-3, msg=name)


def test_rendering_is_the_exported_function() -> None:
    model, seen = student(replace(TINY, zero_heads=False)), rays()
    colours = model.network(
        model.ray_codes(seen.origins, seen.directions, seen.times, seen.attributes)
    ).detach()
    torch.testing.assert_close(model.render(seen).rgb, colours, atol=1e-5, rtol=1e-4)


def test_attributes_are_learnt() -> None:
    """Two halves of the picture, each as bright as an attribute says; and whose half it is."""

    def truth(count: int, seed: int) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        u = torch.rand(count, generator=generator) * 2 - 1
        values = torch.rand(count, 2, generator=generator) * 2 - 1
        directions = torch.stack([u, torch.zeros(count), torch.ones(count)], 1)
        left = torch.sigmoid(-20 * u)
        bright = 0.5 + 0.4 * (left * values[:, 0] + (1 - left) * values[:, 1])
        ones = torch.ones(count)
        eye = torch.tensor([0, 0, -4.0]).expand(count, 3)
        seen = Rays(eye, directions, ones, ones, ones, attributes=values)
        rgba = torch.cat([bright[:, None].expand(-1, 3), ones[:, None]], 1)
        return Batch(seen, rgba, attribute_masks=torch.stack([left, 1 - left], 1))

    config = replace(TINY, width=32, depth=8, octaves=1, lr=5e-3, schedule="constant", warmup_steps=0)
    model = student(replace(config, mask_weight=0.1), timed=False)
    optimiser = model.make_optimiser()
    for step in range(150):
        optimiser.zero_grad()
        torch.stack(list(model.losses(truth(128, step), step, 0).terms.values())).sum().backward()
        optimiser.step()
    held = truth(1000, 10**6)
    assert float(model.losses(held, 0, 0).squared_error.mean()) < 1e-3
    found = model.render(held.rays).extras["attribute_masks"]
    assert float((found - held.attribute_masks).abs().mean()) < 0.06
