"""Adam for large tables of which a step touches few rows."""

import math
from typing import Any

import numba as nb
import numpy as np
import torch
from torch import Tensor


class TableAdam(torch.optim.Adam):
    """Adam (Kingma and Ba 2015) that in groups with `table` set leaves rows without gradient as they are, moments
    included.

    A hash grid has millions of entries and a step reaches a few percent of them; ordinary Adam would move all of
    them by old momentum, and read and write all of the state (Instant-NGP, appendix B). Other groups get torch's
    fused Adam.
    """

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__([{"table": False, **group} for group in groups], fused=True)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        tables = [group for group in self.param_groups if group["table"]]
        waiting = [(parameter, parameter.grad, group) for group in tables for parameter in group["params"]]
        for parameter, gradient, group in waiting:
            if gradient is not None:
                self._step_table(parameter, gradient, group)
                # Out of sight of the fused step below.
                parameter.grad = None
        super().step()
        for parameter, gradient, _ in waiting:
            parameter.grad = gradient
        # Kernels and torch's fused step write behind autograd's back.
        torch.autograd.graph.increment_version([p for group in self.param_groups for p in group["params"]])
        return loss

    def _step_table(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        step, (beta1, beta2) = float(state["step"]), group["betas"]
        rate = group["lr"] / (1 - beta1**step)
        step_table = _step_cpu if parameter.device.type == "cpu" else _step_reference
        scale = 1 / math.sqrt(1 - beta2**step)
        step_table(
            parameter,
            gradient,
            state["exp_avg"],
            state["exp_avg_sq"],
            rate,
            scale,
            beta1,
            beta2,
            group["eps"],
        )


def _step_reference(parameter, gradient, mean, square, rate, scale, beta1, beta2, eps) -> None:
    """The twin of the kernel."""
    touched = (gradient != 0).any(1, keepdim=True)
    mean.copy_(torch.where(touched, beta1 * mean + (1 - beta1) * gradient, mean))
    square.copy_(torch.where(touched, beta2 * square + (1 - beta2) * gradient**2, square))
    parameter.sub_(torch.where(touched, rate * mean / (square.sqrt() * scale + eps), 0))


def _step_cpu(parameter, gradient, mean, square, *numbers: float) -> None:
    arrays = (tensor.detach().numpy() for tensor in (parameter, gradient, mean, square))
    _step_rows(*arrays, *(np.float32(number) for number in numbers))


@nb.njit(parallel=True, nogil=True, cache=True, fastmath=True)
def _step_rows(parameter, gradient, mean, square, rate, scale, beta1, beta2, eps):
    one = np.float32(1)
    for row in nb.prange(parameter.shape[0]):
        touched = False
        for column in range(parameter.shape[1]):
            touched |= gradient[row, column] != 0
        if touched:
            for column in range(parameter.shape[1]):
                slope = gradient[row, column]
                first = beta1 * mean[row, column] + (one - beta1) * slope
                second = beta2 * square[row, column] + (one - beta2) * slope * slope
                mean[row, column], square[row, column] = first, second
                parameter[row, column] -= rate * first / (math.sqrt(second) * scale + eps)
