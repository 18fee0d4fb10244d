"""Optimisers by name: each learns, and Lookahead is what its paper says, through a checkpoint too."""

import copy

import pytest
import torch
from torch import nn

from lumigraph.fields.dense_optimisers import OPTIMISERS, Ranger, make_optimiser, warm_up_tables
from lumigraph.training.checkpoints import pack_optimiser, unpack_optimiser


def group(parameter: nn.Parameter, lr: float = 0.05) -> list[dict]:
    values = {"lr": lr, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "momentum": 0.9}
    return [{"name": "all", "params": [parameter], **values}]


def descend(parameter: nn.Parameter, optimiser: torch.optim.Optimizer, steps: int, first: int = 0) -> None:
    """Towards 3, with gradients that also depend on the number of the step."""
    for step in range(first, first + steps):
        optimiser.zero_grad()
        ((parameter - 3).square().sum() * (1 + 0.1 * (step % 3))).backward()
        optimiser.step()


@pytest.mark.parametrize("name", OPTIMISERS)
def test_each_learns_and_goes_on_from_a_checkpoint(name: str) -> None:
    whole = nn.Parameter(torch.tensor([0.0, 5.0]))
    optimiser = make_optimiser(name, group(whole))
    descend(whole, optimiser, 11)
    tensors, numbers = pack_optimiser(optimiser)
    again = nn.Parameter(whole.detach().clone())
    resumed = make_optimiser(name, group(again))
    unpack_optimiser(resumed, {key: value.clone() for key, value in tensors.items()}, copy.deepcopy(numbers))
    descend(whole, optimiser, 500, 11)
    descend(again, resumed, 500, 11)
    assert torch.equal(whole, again)
    assert (whole - 3).abs().max() < 0.2


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match="no optimiser 'lion'"):
        make_optimiser("lion", group(nn.Parameter(torch.zeros(1))))


def test_ranger_is_lookahead_over_radam() -> None:
    """Every sixth step half of the way from the slow weights to RAdam's, and these start again from there."""
    ours, theirs = (nn.Parameter(torch.tensor([0.0, 5.0, -2.0])) for _ in range(2))
    ranger = make_optimiser("ranger", group(ours))
    assert isinstance(ranger, Ranger)
    radam = torch.optim.RAdam([theirs], lr=0.05, betas=(0.95, 0.999), eps=1e-8)
    slow = theirs.detach().clone()
    for step in range(1, 32):
        descend(ours, ranger, 1, step)
        descend(theirs, radam, 1, step)
        if step % 6 == 0:
            slow += 0.5 * (theirs.detach() - slow)
            with torch.no_grad():
                theirs.copy_(slow)
        torch.testing.assert_close(ours, theirs)


def test_tables_are_stepped_as_tables() -> None:
    """Rows without gradient stay where they are, whatever momentum they had."""
    table, weight = nn.Parameter(torch.ones(4, 2)), nn.Parameter(torch.ones(2))
    groups = [{**group(table)[0], "table": True}, {**group(weight)[0], "table": False}]
    optimiser = make_optimiser("adam", groups)
    warm_up_tables([table])
    assert torch.equal(table, torch.ones(4, 2))
    table.grad, weight.grad = torch.zeros(4, 2), torch.ones(2)
    table.grad[1] = 1.0
    optimiser.step()
    first = table.detach().clone(), weight.detach().clone()
    assert float(first[0][1].max()) < 1
    table.grad, weight.grad = torch.zeros(4, 2), torch.zeros(2)
    optimiser.step()
    assert torch.equal(table, first[0])
    assert not torch.equal(weight, first[1])
    with pytest.raises(ValueError, match="tables"):
        make_optimiser("radam", groups)
