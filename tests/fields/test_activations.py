"""The truncated exponential: exact where it is not truncated, finite everywhere."""

import math

import torch

from lumigraph.fields.activations import BOX_SIDE, LARGEST, box_density, truncated_exp


def test_is_the_exponential_within_its_range() -> None:
    x = torch.linspace(-LARGEST, LARGEST, 301, dtype=torch.float64, requires_grad=True)
    y = truncated_exp(x)
    torch.testing.assert_close(y, x.exp())
    y.sum().backward()
    torch.testing.assert_close(x.grad, x.detach().exp())


def test_value_and_gradient_are_finite_and_alive_everywhere() -> None:
    x = torch.tensor([-1e30, -200.0, -15.1, 15.1, 200.0, 1e30], requires_grad=True)
    y = truncated_exp(x)
    y.sum().backward()
    low, high = math.exp(-LARGEST), math.exp(LARGEST)
    torch.testing.assert_close(y.detach()[3:], torch.full((3,), high))
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.tensor([low, low, low, high, high, high]))


def test_what_is_no_number_is_not_hidden() -> None:
    assert torch.isnan(truncated_exp(torch.tensor(float("nan"))))


def test_a_box_density_is_published_for_a_whole_side_of_the_box() -> None:
    """So that a ray through what is not yet learnt, exp(0), keeps exp(-1) of its light, whatever the units."""
    raw = torch.zeros(3)
    torch.testing.assert_close((-BOX_SIDE * box_density(raw)).exp(), torch.full((3,), math.exp(-1)))
