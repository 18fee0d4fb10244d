"""The MLP of NeRF: its size, its topology written out, and directions shared by samples."""

import pytest
import torch

from lumigraph.fields.nerf_mlp import NeRFMLP


def test_published_size() -> None:
    """63*256+256, six layers of 256, the skip of 319, density, feature, 283*128+128, and colour."""
    network = NeRFMLP(63, 27)
    assert sum(parameter.numel() for parameter in network.parameters()) == 595_844
    assert [layer.in_features for layer in network.hidden] == [63, 256, 256, 256, 319, 256, 256, 256]  # pyright: ignore


@pytest.mark.parametrize("skip", [None, 2, 5, 7])
def test_topology(skip: int | None) -> None:
    torch.manual_seed(0)
    network = NeRFMLP(9, 5, depth=6, width=16, skip=skip, view_width=10)
    x, v = torch.randn(7, 9), torch.randn(7, 5)
    h = x
    for i, layer in enumerate(network.hidden):
        h = torch.relu(layer(torch.cat([x, h], -1) if i == skip else h))
    wanted = network.density(h)[:, 0]
    colour = network.colour(torch.relu(network.view(torch.cat([network.feature(h), v], -1)))).sigmoid()
    density, rgb = network(x, v)
    torch.testing.assert_close(density, wanted)
    torch.testing.assert_close(rgb, colour)
    torch.testing.assert_close(network.raw_density(x), wanted)


def test_a_direction_serves_all_samples_of_its_ray() -> None:
    torch.manual_seed(0)
    network = NeRFMLP(9, 5, depth=2, width=16)
    x, v = torch.randn(3, 4, 9), torch.randn(3, 1, 5)
    together, apart = network(x, v), network(x, v.expand(3, 4, 5))
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other)
        assert one.shape[:2] == (3, 4)


def test_colours_without_directions() -> None:
    network = NeRFMLP(9, 0, depth=2, width=16)
    assert not hasattr(network, "view")
    density, rgb = network(torch.randn(5, 9), None)
    assert (density.shape, rgb.shape) == ((5,), (5, 3))


def test_bfloat16_is_close_and_has_gradients() -> None:
    torch.manual_seed(0)
    network = NeRFMLP(9, 5, depth=3, width=32, skip=1)
    x, v = torch.randn(20, 9), torch.randn(20, 5)
    density, rgb = network(x, v, torch.bfloat16)
    exact_density, exact_rgb = network(x, v)
    assert density.dtype == rgb.dtype == torch.float32
    torch.testing.assert_close(density, exact_density, atol=0.05, rtol=0)
    torch.testing.assert_close(rgb, exact_rgb, atol=0.02, rtol=0)
    (density.sum() + rgb.sum()).backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in network.parameters())


@pytest.mark.parametrize("glorot", [True, False])
def test_begins_and_begins_again_as_asked(glorot: bool) -> None:
    torch.manual_seed(0)
    network = NeRFMLP(9, 5, depth=2, width=64, glorot=glorot)

    def begins_as_asked() -> bool:
        bound = (6 / (64 + 64)) ** 0.5 if glorot else 64**-0.5
        layer = network.hidden[1]
        largest = float(layer.weight.detach().abs().max())  # pyright: ignore
        return 0.98 * bound < largest <= bound and bool(layer.bias.any()) != glorot  # pyright: ignore

    assert begins_as_asked()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.reset()
    assert begins_as_asked()
    weights = {name: tensor for name, tensor in network.state_dict().items() if name.endswith(".weight")}
    assert not any(torch.equal(tensor, before[name]) for name, tensor in weights.items())
