"""CoNeRF: attributes that are given and told, masks that claim, what it learns from, and what it refuses."""

import math
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from lumigraph.configs.conerf import PRESETS, CoNeRFConfig
from lumigraph.configs.hypernerf import HyperNeRFConfig
from lumigraph.configs.warped import WarpedConfig
from lumigraph.errors import LumigraphError
from lumigraph.fields.attribute_sheets import AttributeSheets
from lumigraph.geometry.bounds import Bounds
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.renderer import Batch
from lumigraph.scenes.procedural import make_scene
from lumigraph.teachers.conerf import CoNeRF, focal_cross_entropy
from lumigraph.teachers.hypernerf import HyperNeRF
from lumigraph.training.sources import PhotoSource

TINY = CoNeRFConfig(
    rays=48, samples=8, importance=6, depth=2, width=16, skip=1, view_width=8, position_octaves=4, direction_octaves=2,
    code_width=4, warp_octaves=2, warp_depth=2, warp_width=8, sheet_octaves=2, sheet_depth=2, sheet_width=8,
    attribute_depth=2, attribute_width=8, mask_depth=2, mask_width=16, mask_branch_width=8, mask_noise=0.0,
    training_steps=100, warp_alpha_steps=40, ambient_delay_steps=10, ambient_rise_steps=20,
)  # fmt: skip
BOX = Bounds(torch.full((3,), -1.2), torch.full((3,), 1.2))
NAN = math.nan


def some_cameras(times: bool = True, attributes: list[list[float]] | None = None) -> Cameras:
    attributes = [[-1.0, NAN], [NAN, NAN], [1.0, 0.5]] if attributes is None else attributes
    poses = torch.eye(3, 4).repeat(3, 1, 1)
    poses[:, 2, 3] = -4
    return Cameras(
        camera_to_world=poses,
        focal=torch.full((3, 2), 20.0),
        principal=torch.full((3, 2), 8.0),
        size=torch.full((3, 2), 16),
        near=torch.full((3,), 2.0),
        far=torch.full((3,), 6.0),
        distortion=torch.zeros(3, 6),
        ids=torch.arange(3),
        times=torch.tensor([0.0, 0.5, 1.0]) if times else None,
        attributes=torch.tensor(attributes),
    )


def some_rays(attributes: Tensor | None, times: bool = True, count: int = 30) -> Rays:
    generator = torch.Generator().manual_seed(0)
    origins = torch.randn(count, 3, generator=generator)
    origins = 4 * origins / origins.norm(dim=1, keepdim=True)
    directions = 0.2 * torch.randn(count, 3, generator=generator) - origins / 4
    numbers = torch.full((count,), 2.0)
    moments = torch.tensor([0.0, 0.5, 1.0]).repeat(count)[:count] if times else None
    given = None if attributes is None else attributes.expand(count, -1)
    return Rays(origins, directions, 0.01 * numbers, numbers, 3 * numbers, times=moments, attributes=given)


def lively(config: CoNeRFConfig = TINY, cameras: Cameras | None = None) -> CoNeRF:
    torch.manual_seed(3)
    renderer = CoNeRF(config, "white", cameras or some_cameras(), BOX)
    with torch.no_grad():
        for name, parameter in renderer.named_parameters():
            wide = 1.4 / parameter.shape[-1] ** 0.5 if parameter.ndim == 2 else 0.3
            parameter.normal_(std=0.3 if "table" in name else wide)
        renderer.warp_alpha.fill_(config.warp_octaves)
        renderer.ambient_beta.fill_(config.ambient_octaves)
    return renderer


def test_published_sizes() -> None:
    paper = PRESETS["paper"]
    assert (paper.rays, paper.samples, paper.importance, paper.training_steps) == (512, 128, 128, 250_000)
    assert (paper.attribute_depth, paper.attribute_width) == (6, 32)
    assert (paper.mask_depth, paper.mask_width, paper.mask_branch_width) == (8, 256, 128)
    assert (paper.attribute_weight, paper.mask_weight, paper.latent_weight) == (0.1, 0.01, 1e-4)
    assert (paper.mask_noise, paper.annotated_share) == (0.01, 0.1)


def test_given_attributes_stand_in_for_those_that_the_code_tells() -> None:
    renderer = lively()
    told = renderer.attribute_values(some_rays(None))
    assert told.shape == (30, 2)
    some = renderer.attribute_values(some_rays(torch.tensor([0.3, NAN])))
    assert torch.equal(some[:, 0], torch.full((30,), 0.3))
    assert torch.equal(some[:, 1], told[:, 1])
    low, high = (renderer.render(some_rays(torch.tensor([value, NAN]))).rgb for value in (-1.0, 1.0))
    assert (low - high).abs().max() > 1e-3


def sheets(attributes: int = 2, code_width: int = 3) -> AttributeSheets:
    torch.manual_seed(0)
    return AttributeSheets(
        attributes, code_width, dims=2, sheet_octaves=2, sheet_depth=2, sheet_width=8, position_octaves=2,
        ambient_octaves=1, mask_depth=2, mask_width=8, mask_branch_width=8, skip=1,
    )  # fmt: skip


def test_an_attribute_bends_its_own_sheet_where_its_mask_says() -> None:
    module, points = sheets(), torch.randn(5, 7, 3)
    code, values, shut = torch.rand(5, 1, 3), torch.rand(5, 1, 2), torch.tensor(0.0)
    for sheet in module.sheets:
        torch.nn.init.normal_(sheet.network.output.weight)  # pyright: ignore
    ambient, masks = module(points, points, values, code, shut)
    assert (ambient.shape, masks.shape) == ((5, 7, 6), (5, 7, 2))
    other, same = module(points, points, values * torch.tensor([1.0, -1.0]), code, shut)
    assert torch.equal(masks, same)
    changed = (ambient != other).any(0).any(0)
    assert changed.tolist() == [False, False, True, True, False, False]
    # The first attribute claims everything: nothing is left to the second and to the code.
    with torch.no_grad():
        module.masks.logits.weight.zero_()
        module.masks.logits.bias.copy_(torch.tensor([50.0, -50.0]))
    claimed, _ = module(points, points, values, code, shut)
    assert (claimed.abs().amax((0, 1)) > 1e-6).tolist() == [True, True, False, False, False, False]
    assert sheets(code_width=0)(points, points, values, None, shut)[0].shape == (5, 7, 4)


def test_where_no_mask_claims_anything_it_is_hypernerf() -> None:
    """Of the ambient coordinates only those by code are left, which see no attribute."""
    controlled = lively()
    shared = {field.name: getattr(TINY, field.name) for field in fields(WarpedConfig)}
    moving = HyperNeRF(HyperNeRFConfig(**shared), "white", some_cameras(), BOX)
    own, others = moving.state_dict(), controlled.state_dict()
    with torch.no_grad():
        controlled.sheets.masks.logits.weight.zero_()
        controlled.sheets.masks.logits.bias.fill_(-200.0)
        for name, values in own.items():
            source = others[name.replace("sheet.", "sheets.sheets.2.")]
            if source.shape == values.shape:
                values.copy_(source)
                continue
            # Behind 27 numbers of the position come the sines, then the cosines, of the ambient coordinates: 2 of each
            # attribute, then 2 by code.
            seen, hidden = source[:, : 27 + 12], source[:, 27 + 12 :]
            kept = [*range(27), 31, 32, 37, 38]
            values.copy_(torch.cat([seen[:, kept], hidden], 1))
            seen[:, [place for place in range(39) if place not in kept]] = 0.0
    rays = some_rays(torch.tensor([0.3, -0.8]))
    found, wanted = controlled.render(rays), moving.render(rays)
    assert wanted.rgb.std() > 0.02
    torch.testing.assert_close(found.rgb, wanted.rgb, rtol=0, atol=1e-5)
    assert found.opacity is not None
    torch.testing.assert_close(found.opacity, wanted.opacity, rtol=0, atol=1e-5)
    assert not found.extras["attribute_masks"].any()


def test_focal_cross_entropy() -> None:
    shares, true = torch.tensor([0.8, 0.8, 0.5]), torch.tensor([1.0, 0.0, 0.5])
    wanted = [
        -0.5 * 0.2**1.5 * math.log(0.8),
        -0.5 * 0.8**1.5 * math.log(0.2),
        -0.5 * 0.5**1.5 * math.log(0.5),
    ]
    assert focal_cross_entropy(shares, true).tolist() == pytest.approx(wanted)
    assert torch.isfinite(focal_cross_entropy(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0]))).all()


def test_masks_are_rendered_as_shares_of_pixels() -> None:
    rendering = lively().render(some_rays(None).reshape(6, 5))
    masks = rendering.extras["attribute_masks"]
    assert masks.shape == (6, 5, 2)
    assert masks.min() >= 0
    assert rendering.opacity is not None
    assert (masks <= rendering.opacity[..., None] + 1e-5).all()


def a_batch(masks: Tensor | None) -> Batch:
    generator = torch.Generator().manual_seed(1)
    rgba = torch.cat([torch.rand(30, 3, generator=generator), torch.ones(30, 1)], 1)
    given = some_cameras().attributes
    assert given is not None
    rays = replace(some_rays(None), attributes=given.repeat(10, 1))
    return Batch(rays, rgba, attribute_masks=masks)


def test_it_learns_from_what_is_annotated_and_from_nothing_else() -> None:
    masks = torch.full((30, 2), NAN)
    renderer = lively(replace(TINY, attribute_weight=1.0, mask_weight=1.0, latent_weight=1.0))
    terms = renderer.losses(a_batch(masks), 0, 0).terms
    assert set(terms) == {"rgb", "coarse", "masks", "codes", "attributes"}
    assert float(terms["masks"].detach()) == 0
    assert renderer.values is not None
    assert renderer.codes is not None
    told = renderer.values(renderer.codes(torch.tensor([0.0, 1.0]))).detach()
    errors = [told[0, 0] + 1, told[1, 0] - 1, told[1, 1] - 0.5]
    assert float(terms["attributes"].detach()) == pytest.approx(
        float(torch.stack(errors).square().mean()), rel=1e-5
    )
    length = renderer.codes.table.detach().square().sum(1).mean()
    assert float(terms["codes"].detach()) == pytest.approx(float(length), rel=1e-5)
    masks[:10, 0], masks[:10, 1] = 1.0, 0.0
    terms = renderer.losses(a_batch(masks), 0, 0).terms
    assert float(terms["masks"].detach()) > 0
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in renderer.parameters())


def test_outlines_say_nothing_of_where_something_is() -> None:
    """Their loss has no gradient in the density; in the masks it has."""
    masks, found = torch.zeros(30, 2), {}
    masks[:10, 0] = 1.0
    for weight in (0.0, 1.0):
        renderer = lively(replace(TINY, mask_weight=weight))
        torch.stack(list(renderer.losses(a_batch(masks), 0, 0).terms.values())).sum().backward()
        found[weight] = [
            [p.grad.clone() for p in part.parameters() if p.grad is not None]
            for part in (renderer.coarse.density, renderer.fine.density, renderer.sheets)
        ]
    for place in (0, 1):
        for without, with_masks in zip(found[0.0][place], found[1.0][place], strict=True):
            torch.testing.assert_close(with_masks, without)
    assert any(
        not torch.allclose(one, other) for one, other in zip(found[0.0][2], found[1.0][2], strict=True)
    )


def test_without_times_attributes_are_all_there_is() -> None:
    known = some_cameras(False, [[-1.0, 0.0], [0.0, 1.0], [1.0, -1.0]])
    renderer = lively(cameras=known)
    assert renderer.codes is renderer.warp is renderer.values is None
    assert renderer.conditions == ("attributes",)
    assert renderer.render(some_rays(torch.tensor([0.2, 0.4]), times=False)).rgb.shape == (30, 3)
    with pytest.raises(LumigraphError, match="these rays have no attributes"):
        renderer.render(some_rays(None, times=False))
    with pytest.raises(LumigraphError, match="some are not given"):
        renderer.render(some_rays(torch.tensor([0.2, NAN]), times=False))


@pytest.mark.parametrize(
    ("times", "attributes", "what"),
    [
        (False, [[0.0, 1.0], [0.0, NAN], [0.0, 1.0]], "some have not"),
        (True, [[0.0, NAN], [0.0, NAN], [0.0, NAN]], "nobody has said"),
    ],
)
def test_what_cannot_be_learnt_is_refused(times: bool, attributes: list[list[float]], what: str) -> None:
    info = make_scene("moving", 3, 0, 0, 8).info
    info = replace(info, cameras={"train": some_cameras(times, attributes)})
    with pytest.raises(LumigraphError, match=what):
        CoNeRF.from_scene(TINY, info)


def test_it_learns_to_turn_and_to_raise() -> None:
    """On the scene with two attributes: colours, and which attribute moves what."""
    scene = make_scene("attributes", 8, 1, 0, 16)
    config = replace(
        TINY, rays=192, samples=16, importance=12, depth=3, width=48, view_width=24, sheet_width=16, mask_width=32,
        position_octaves=5, lr=5e-3, final_lr=1e-3, training_steps=100,
    )  # fmt: skip
    torch.manual_seed(0)
    renderer = CoNeRF.from_scene(config, scene.info)
    source = PhotoSource(
        scene.split("train"),
        0,
        sampling=renderer.pixel_sampling(),
        attribute_masks=renderer.wants_attribute_masks,
    )
    optimiser = renderer.make_optimiser()
    errors = []
    for step in range(config.training_steps):
        renderer.begin_step(step, step / config.training_steps, 0)
        losses = renderer.losses(source.batch(step, config.rays), step, 0)
        for group in optimiser.param_groups:
            group["lr"] = config.lr * renderer.lr_scale(step, step / config.training_steps)
        optimiser.zero_grad()
        torch.stack(list(losses.terms.values())).sum().backward()
        optimiser.step()
        errors.append(float(losses.squared_error.mean()))
    assert -10 * torch.tensor(errors[-10:]).mean().log10() > 18
    # What the head's attribute moves is known better than by chance.
    views = scene.split("val")
    true = views.attribute_masks(0)
    assert true is not None
    found = renderer.view(views.cameras[0]).extras["attribute_masks"]
    inside, outside = found[..., 0][true[..., 0] > 0.5], found[..., 0][true[..., 0] == 0]
    assert inside.mean() > outside.mean() + 0.2
