"""A loss in chunks is the loss at once: value, and gradients scaled term by term."""

import pytest
import torch
from torch import nn

from lumigraph.rendering.accumulation import accumulated


@pytest.mark.parametrize("chunk", [1, 7, 20, 100])
def test_chunks_give_the_same_values_and_gradients(chunk: int) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(20, 3), torch.randn(20, 4)
    first, second = nn.Linear(3, 4), nn.Linear(4, 1)

    def terms(start: int, end: int) -> list[torch.Tensor]:
        seen = first(x[start:end])
        # As fine samples do: what the second sees of the first has no gradient.
        return [(seen - y[start:end]).square().sum(), second(seen.detach()).tanh().sum()]

    groups = [list(first.parameters()), list(second.parameters())]
    values = accumulated(terms, 20, chunk, groups)
    wanted = terms(0, 20)
    (2 * values[0] + 5 * values[1]).backward()
    found = [p.grad for group in groups for p in group]
    gradients = torch.autograd.grad(2 * wanted[0] + 5 * wanted[1], [p for group in groups for p in group])
    for one, other in zip((*values, *found), (*wanted, *gradients), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
