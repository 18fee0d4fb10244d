"""The small networks of what moves: which layer sees the input again, and how they begin."""

import pytest
import torch

from lumigraph.fields.skip_mlp import SkipMLP


@pytest.mark.parametrize(
    ("skip", "sizes"), [(2, [5, 8, 13, 8]), (0, [5, 8, 8, 8]), (4, [5, 8, 8, 8]), (None, [5, 8, 8, 8])]
)
def test_one_layer_sees_the_input_again(skip: int | None, sizes: list[int]) -> None:
    network = SkipMLP(5, 3, depth=4, width=8, skip=skip)
    assert [layer.in_features for layer in network.hidden] == sizes
    x = torch.randn(2, 7, 5)
    h = x
    for number, layer in enumerate(network.hidden):
        h = layer(torch.cat([x, h], -1) if number == skip and skip == 2 else h).relu()
    torch.testing.assert_close(network(x), network.output(h))


@pytest.mark.parametrize("glorot", [True, False])
def test_first_weights(glorot: bool) -> None:
    torch.manual_seed(0)
    network = SkipMLP(5, 3, depth=3, width=40, skip=1, glorot=glorot)
    first = network.hidden[0]
    spread = (6 / (5 + 40)) ** 0.5 if glorot else 5**-0.5
    assert 0.8 * spread < float(first.weight.detach().abs().max()) <= spread
    assert bool(first.bias.any()) != glorot
    before = first.weight.detach().clone()
    network.reset()
    assert not torch.equal(first.weight, before)


@pytest.mark.parametrize("glorot", [True, False])
def test_outputs_begin_as_asked(glorot: bool) -> None:
    x = torch.randn(6, 5)
    nothing = SkipMLP(5, 3, depth=2, width=8, glorot=glorot, last=0.0)
    assert not nothing(x).any()
    nothing(x).sum().backward()
    assert nothing.output.weight.grad is not None
    assert nothing.output.weight.grad.any()
    little = SkipMLP(5, 3, depth=2, width=8, glorot=glorot, last=1e-4).output
    assert 0 <= float(little.weight.detach().min()) < float(little.weight.detach().max()) < 1e-4
    assert not little.bias.any()
    assert SkipMLP(5, 3, depth=2, width=8, glorot=glorot)(x).any()
