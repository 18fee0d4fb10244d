"""Sines and cosines: order, sizes, and the same in any shape."""

import pytest
import torch

from lumigraph.fields.encodings import frequency_encoding, frequency_size


def test_the_order_is_the_published_one() -> None:
    """x, then for each octave the sines of all coordinates and their cosines; no factor pi."""
    x = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64)
    wanted = [x]
    for octave in range(4):
        wanted += [(2**octave * x).sin(), (2**octave * x).cos()]
    assert torch.equal(frequency_encoding(x, 4), torch.cat(wanted))
    assert torch.equal(frequency_encoding(x, 4, identity=False), torch.cat(wanted[1:]))
    assert torch.equal(frequency_encoding(x, 0), x)


@pytest.mark.parametrize(("octaves", "size"), [(10, 63), (4, 27), (0, 3)])
def test_sizes(octaves: int, size: int) -> None:
    assert frequency_size(3, octaves) == size
    assert frequency_encoding(torch.zeros(5, 2, 3), octaves).shape == (5, 2, size)
    assert frequency_encoding(torch.zeros(5, 3), octaves, identity=False).shape == (5, size - 3)


def test_linear_frequencies() -> None:
    x = torch.tensor([[0.2]], dtype=torch.float64)
    encoded = frequency_encoding(x, 3, identity=False, linear=True)
    for place, k in enumerate((1.0, 2.5, 4.0)):
        torch.testing.assert_close(encoded[:, 2 * place], (k * x[:, 0]).sin())
        torch.testing.assert_close(encoded[:, 2 * place + 1], (k * x[:, 0]).cos())


def test_gradients_are_finite_far_away() -> None:
    x = torch.tensor([[0.0, 1e6, -1e6]], requires_grad=True)
    frequency_encoding(x, 10).sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
