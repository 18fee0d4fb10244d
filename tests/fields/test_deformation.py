"""The deformation network: its size, its skip, and that a ray's time counts for all of its samples."""

import torch
from torch import Tensor

from lumigraph.fields.deformation import DeformationMLP


def test_published_size() -> None:
    network = DeformationMLP(63, 21)
    count = sum(parameter.numel() for parameter in network.parameters())
    # 84 inputs, 7 layers of 256 of which one has 63 inputs more, 3 outputs.
    assert count == 84 * 256 + 7 * 256**2 + 63 * 256 + 8 * 256 + 256 * 3 + 3 == 499_203


def written_out(network: DeformationMLP, x: Tensor, t: Tensor, skip: int | None) -> Tensor:
    h = torch.cat([x, t], -1)
    for i, layer in enumerate(network.hidden):
        h = torch.relu(layer(torch.cat([x, h], -1) if i == skip else h))
    return network.displacement(h)


def test_times_of_rays_are_those_of_their_samples() -> None:
    torch.manual_seed(0)
    x, t = torch.randn(5, 7, 9), torch.randn(5, 1, 3)
    for depth, skip in ((4, 2), (2, 2), (3, None)):
        network = DeformationMLP(9, 3, depth=depth, width=16, skip=skip)
        wanted = written_out(network, x, t.expand(5, 7, 3), skip)
        torch.testing.assert_close(network(x, t), wanted)
        torch.testing.assert_close(network(x, t.expand(5, 7, 3)), wanted)


def test_bfloat16_and_new_weights() -> None:
    torch.manual_seed(0)
    network = DeformationMLP(9, 3, depth=4, width=32, skip=2)
    x, t = torch.randn(20, 9), torch.randn(20, 3)
    before = network(x, t)
    rounded = network(x, t, torch.bfloat16)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, before, atol=0.02, rtol=0.05)
    network.reset()
    assert not torch.equal(network(x, t), before)
