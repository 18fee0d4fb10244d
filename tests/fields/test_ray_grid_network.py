"""The convolutional network of MobileR2L: published sizes, folding, both ways to a finer grid."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from lumigraph.configs.mobile_r2l import PRESETS, MobileR2LConfig
from lumigraph.fields.ray_grid_network import RayGridNetwork, finer

SMALL = MobileR2LConfig(
    points=2, octaves=1, width=8, blocks=2, up_factors=(2, 3), up_widths=(6, 4), up_blocks=1
)


def network(config: MobileR2LConfig, normalised: bool = True) -> RayGridNetwork:
    torch.manual_seed(0)
    return RayGridNetwork(
        config.inputs,
        config.width,
        config.blocks,
        up_factors=config.up_factors,
        up_widths=config.up_widths,
        up_blocks=config.up_blocks,
        activation=config.activation,
        upsampling=config.upsampling,
        normalised=normalised,
    )


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_published_sizes() -> None:
    """29 blocks of the released code, 28 of the paper (8.3 MB), and patches of 12 pixels."""
    released = PRESETS["released"]
    with torch.device("meta"):
        whole = network(released)
    assert (count(whole), count(whole.folded())) == (4_305_539, 4_274_691)
    assert released.inputs == 312
    assert released.multiplications(800, 800) == pytest.approx(50.6e9, rel=1e-3)
    backbone = 312 * 256 + 2 * 29 * 256**2
    assert backbone * 100 * 100 == pytest.approx(38.8e9, rel=1e-3)
    with torch.device("meta"):
        assert count(network(PRESETS["paper"]).folded()) == 4_143_107
        wider = network(replace(released, up_factors=(2, 2, 3)))
    assert PRESETS["paper"].file_bytes == pytest.approx(8.29e6, rel=1e-3)
    assert count(wider.folded()) == 4_267_523
    assert replace(released, up_factors=(2, 2, 3)).multiplications(1008, 756) == pytest.approx(
        26.6e9, rel=2e-3
    )


@pytest.mark.parametrize("name", PRESETS)
def test_what_a_preset_says_of_itself_is_so(name: str) -> None:
    config = PRESETS[name]
    with torch.device("meta"):
        folded = network(config).folded()
    assert config.parameters == count(folded)
    assert f"{config.parameters:,} parameters" in config.about
    done = 0

    def add(module: nn.Module, given, made) -> None:
        nonlocal done
        assert isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
        places = given[0] if isinstance(module, nn.ConvTranspose2d) else made
        done += module.weight.numel() * places.shape[-2] * places.shape[-1]

    for module in folded.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_hook(add)
    patch = config.patch
    assert folded(torch.zeros(1, config.inputs, 2, 3, device="meta")).shape == (1, 3, 2 * patch, 3 * patch)
    assert config.multiplications(3 * patch, 2 * patch) == done
    # Part of a patch costs as much as all of it.
    assert config.multiplications(2 * patch + 1, patch + 1) == done


@pytest.mark.parametrize("upsampling", ["transposed", "depth-to-space"])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_folded_is_the_same_function(upsampling, activation) -> None:
    whole = network(replace(SMALL, upsampling=upsampling, activation=activation))
    code = torch.randn(3, SMALL.inputs, 4, 5, generator=torch.Generator().manual_seed(1))
    for _ in range(5):
        whole(code)  # running statistics that are neither 0 nor 1
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
        wanted = whole.eval()(code)
        torch.testing.assert_close(whole.folded()(code), wanted, atol=1e-5, rtol=1e-5)
    assert wanted.shape == (3, 3, 24, 30)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in whole.folded().modules())


def as_depth_to_space(up: nn.ConvTranspose2d, factor: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of the convolution before `PixelShuffle` that does what a transposed one does: output pixel
    f i + a sees input i + d through tap a + margin - f d."""
    margin = int(factor == 2)
    kernel = 3 if factor == 2 else 1
    inputs, outputs = up.weight.shape[:2]
    weight = torch.zeros(outputs, factor, factor, inputs, kernel, kernel)
    for places in torch.cartesian_prod(*[torch.arange(factor)] * 2, *[torch.arange(kernel)] * 2).tolist():
        row, column, *taps = places
        seen = [a + margin - factor * (tap - kernel // 2) for a, tap in zip((row, column), taps, strict=True)]
        if all(0 <= place < up.weight.shape[2] for place in seen):
            weight[:, row, column, :, taps[0], taps[1]] = up.weight[:, :, seen[0], seen[1]].T
    assert up.bias is not None
    return weight.flatten(0, 2), up.bias.repeat_interleave(factor**2)


@pytest.mark.parametrize("factor", [2, 3])
def test_depth_to_space_can_be_any_transposed_convolution(factor: int) -> None:
    torch.manual_seed(2)
    up, other = finer(3, 4, factor, "transposed"), finer(3, 4, factor, "depth-to-space")
    with torch.no_grad():
        weight, bias = as_depth_to_space(up, factor)
        other[0].weight.copy_(weight)
        other[0].bias.copy_(bias)
        x = torch.randn(2, 3, 5, 6)
        torch.testing.assert_close(other(x), up(x), atol=1e-5, rtol=1e-5)
    assert up(x).shape == (2, 4, 5 * factor, 6 * factor)


def test_only_the_stages_mix_neighbours() -> None:
    """A ray decides its patch, and the rim of the patches around it."""
    whole = network(replace(SMALL, up_factors=(2, 2))).folded()
    code = torch.zeros(1, SMALL.inputs, 7, 7)
    changed = code.clone()
    changed[..., 3, 3] = 1
    with torch.no_grad():
        different = (whole(changed) - whole(code)).abs().sum((0, 1)) > 1e-7
    rows = torch.nonzero(different.any(1)).flatten()
    assert (int(rows[0]), int(rows[-1])) == (4 * 3 - 3, 4 * 4 - 1 + 3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"up_factors": (2, 4)}, "up_factors must be some of"),
        ({"up_factors": ()}, "one for each of up_factors"),
        ({"up_widths": (8,)}, "one for each of up_factors"),
        ({"points": 1}, "points must be at least 2"),
        ({"pictures": 0}, "pictures must be positive"),
        ({"weight_decay": -1.0}, "weight_decay must not be negative"),
    ],
)
def test_impossible_options_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **wrong)


def test_batch_norm_that_processes_share_is_folded_alike() -> None:
    """What CUDA trains with on several devices, and what is left of it after that."""
    plain = network(SMALL)
    for module in plain.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.2, 1.5)
    code = torch.randn(1, SMALL.inputs, 3, 4)
    wanted = plain.folded()(code)
    shared = torch.nn.SyncBatchNorm.convert_sync_batchnorm(plain)
    assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in shared.modules())
    torch.testing.assert_close(shared.folded()(code), wanted, rtol=0, atol=0)
