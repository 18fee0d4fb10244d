"""The residual MLP, and its fused step against plain autograd."""

import pytest
import torch

from lumigraph.fields.ray_code import positional_encoding
from lumigraph.fields.residual_mlp import (
    FusedError,
    PackedMLP,
    ResidualMLP,
    Workspace,
    fused_forward,
    fusible_parameters,
)

SCALARS, OCTAVES, RAYS = 6, 3, 50


def parts(width: int = 24, depth: int = 8, outputs: int = 4, **options):
    torch.manual_seed(0)
    network = ResidualMLP(SCALARS * 7, outputs, width, depth, **options)
    rows = torch.randn(SCALARS, RAYS)
    return network, rows, torch.rand(RAYS, outputs), torch.rand(RAYS, outputs)


def fused(network, rows, targets, weights, dtype=torch.float32, chunk=16):
    parameters = fusible_parameters(network)
    packed = PackedMLP(list(parameters), dtype, OCTAVES, network.global_skip)
    work = Workspace()
    loss, error = FusedError.apply(rows, targets, weights, packed, chunk, work, *parameters)
    return loss, error, fused_forward(packed, rows, chunk, work)


@pytest.mark.parametrize("global_skip", [True, False])
def test_fused_step_is_plain_autograd(global_skip: bool) -> None:
    network, rows, targets, weights = parts(global_skip=global_skip)
    rows.requires_grad_()
    outputs = network(positional_encoding(rows.T, OCTAVES))
    plain = (weights * (outputs - targets) ** 2).sum()
    plain.backward()
    expected = [parameter.grad.clone() for parameter in network.parameters()]
    network.zero_grad()
    of_rows, rows.grad = rows.grad, None
    loss, error, forward = fused(network, rows, targets, weights)
    (3 * loss).backward()
    torch.testing.assert_close(rows.grad, 3 * of_rows, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(error, (outputs - targets).square().detach(), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(forward, outputs.detach())
    for parameter, gradient in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, 3 * gradient, atol=1e-5, rtol=1e-4)


def test_bfloat16_is_near_float32() -> None:
    network, rows, targets, weights = parts()
    rows.requires_grad_()
    loss, _, _ = fused(network, rows, targets, weights)
    loss.backward()
    exact = [parameter.grad.clone() for parameter in (*network.parameters(), rows)]
    network.zero_grad()
    rows.grad = None
    low, _, _ = fused(network, rows, targets, weights, torch.bfloat16)
    low.backward()
    assert float((low - loss).detach().abs() / loss.detach()) < 0.02
    for parameter, gradient in zip((*network.parameters(), rows), exact, strict=True):
        assert parameter.grad.dtype == torch.float32
        assert float((parameter.grad - gradient).norm() / gradient.norm()) < 0.1


def test_gradients_are_finite_for_saturated_outputs() -> None:
    network, rows, targets, weights = parts()
    with torch.no_grad():
        network.tail.bias.fill_(200.0)
    loss, _, _ = fused(network, rows, targets, weights)
    loss.backward()
    assert all(bool(torch.isfinite(parameter.grad).all()) for parameter in network.parameters())


@pytest.mark.parametrize(
    "options",
    [
        {"residual": False},
        {"layers_per_block": 3},
        {"residual_scale": 0.5},
        {"inner_activation": "leaky_relu"},
        {"outer_activation": "relu"},
    ],
)
def test_other_structures_are_left_to_autograd(options: dict) -> None:
    network, rows, _, _ = parts(**options)
    assert not network.fusible
    assert network(positional_encoding(rows.T, OCTAVES)).shape == (RAYS, 4)


def test_residual_block_by_hand() -> None:
    network, *_ = parts(residual_scale=0.5, outer_activation="relu")
    block, x = network.body[0], torch.randn(3, 24)
    first, second = block.layers
    y = torch.relu(x @ first.weight.T + first.bias) @ second.weight.T + second.bias
    torch.testing.assert_close(block(x), torch.relu(0.5 * y + x))
