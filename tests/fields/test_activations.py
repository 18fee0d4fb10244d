"""The truncated exponential: exact where it is not truncated, finite everywhere."""

import math

import torch

from lumigraph.fields.activations import LARGEST, truncated_exp


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
