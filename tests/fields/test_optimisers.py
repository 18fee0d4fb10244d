"""TableAdam: the kernel against its twin, rows that no sample reached, and the groups that are not tables."""

import copy

import pytest
import torch
from torch import Tensor, nn

from lumigraph.fields.optimisers import TableAdam, _step_cpu, _step_reference

GROUP = {"lr": 0.02, "betas": (0.9, 0.99), "eps": 1e-15}


def gradients(steps: int, rows: int = 200, columns: int = 3) -> list[Tensor]:
    """Sparse gradients: most rows without any, some with a zero in one column only, over many orders of magnitude."""
    generator = torch.Generator().manual_seed(0)
    size = 10.0 ** torch.randint(-9, 3, (steps, rows, 1), generator=generator)
    values = size * torch.randn(steps, rows, columns, generator=generator)
    values *= torch.rand(steps, rows, 1, generator=generator) < 0.3
    values[:, :5, -1] = 0
    return list(values)


def table(columns: int = 3) -> nn.Parameter:
    return nn.Parameter(torch.randn(200, columns, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("columns", [1, 2, 3, 4])
def test_kernel_equals_the_twin(columns: int) -> None:
    start = table(columns).detach()
    results = []
    for step in (_step_cpu, _step_reference):
        state = [start.clone(), torch.zeros_like(start), torch.zeros_like(start)]
        for number, gradient in enumerate(gradients(4, columns=columns), 1):
            scale = (1 - 0.99**number) ** -0.5
            step(state[0], gradient, *state[1:], 0.02 / (1 - 0.9**number), scale, 0.9, 0.99, 1e-15)
        results.append(state)
    for ours, twin in zip(*results, strict=True):
        torch.testing.assert_close(ours, twin, rtol=2e-5, atol=1e-7)


def test_rows_without_gradient_stay_as_they_are() -> None:
    parameter = table()
    optimiser = TableAdam([{"params": [parameter], "table": True, **GROUP}])
    parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    before, state = parameter.detach().clone(), copy.deepcopy(optimiser.state[parameter])
    parameter.grad = torch.zeros_like(parameter)
    parameter.grad[3:5, 0] = -1
    optimiser.step()
    others = torch.arange(200).gt(4) | torch.arange(200).lt(3)
    assert torch.equal(parameter[others], before[others])
    for name in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(optimiser.state[parameter][name][others], state[name][others])
    assert not torch.equal(parameter[3:5], before[3:5])


def test_rows_that_always_have_a_gradient_follow_adam() -> None:
    ours, theirs = table(), table()
    optimisers = TableAdam([{"params": [ours], "table": True, **GROUP}]), torch.optim.Adam([theirs], **GROUP)
    for seed in range(5):
        gradient = torch.randn(ours.shape, generator=torch.Generator().manual_seed(seed))
        for parameter, optimiser in zip((ours, theirs), optimisers, strict=True):
            parameter.grad = gradient.clone()
            optimiser.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_other_groups_are_adam_and_gradients_are_left() -> None:
    ours, theirs, rows = table(), table(), table()
    optimiser = TableAdam(
        [{"params": [rows], "table": True, **GROUP}, {"params": [ours], **GROUP | {"lr": 0.3}}]
    )
    adam = torch.optim.Adam([theirs], fused=True, **GROUP | {"lr": 0.3})
    for gradient in gradients(3):
        ours.grad, theirs.grad, rows.grad = gradient.clone(), gradient.clone(), gradient.clone()
        optimiser.step()
        adam.step()
        assert torch.equal(rows.grad, gradient)
    assert torch.equal(ours, theirs)


def test_parameters_without_gradient_are_passed_over() -> None:
    parameter = table()
    optimiser = TableAdam([{"params": [parameter], "table": True, **GROUP}])
    optimiser.step()
    assert torch.equal(parameter, table())
    assert not optimiser.state[parameter]


def test_a_closure_is_asked_first() -> None:
    parameter = table()
    optimiser = TableAdam([{"params": [parameter], "table": True, **GROUP}])

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = parameter.square().sum()
        loss.backward()
        return loss

    assert optimiser.step(closure).item() == pytest.approx(table().detach().square().sum().item())
    assert not torch.equal(parameter, table())


def test_changes_are_seen_by_autograd() -> None:
    parameter = table()
    optimiser = TableAdam([{"params": [parameter], "table": True, **GROUP}])
    version, kept = parameter._version, parameter.square()
    parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    assert parameter._version > version
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kept.sum().backward()


def test_stored_state_goes_on_bit_for_bit() -> None:
    whole, parts = table(), table()
    first = TableAdam([{"params": [whole], "table": True, **GROUP}])
    second = TableAdam([{"params": [parts], "table": True, **GROUP}])
    for step, gradient in enumerate(gradients(6)):
        if step == 3:
            stored = copy.deepcopy(second.state_dict())
            second = TableAdam([{"params": [parts], "table": True, **GROUP}])
            second.load_state_dict(stored)
        for parameter, optimiser in ((whole, first), (parts, second)):
            parameter.grad = gradient.clone()
            optimiser.step()
    assert torch.equal(whole, parts)
