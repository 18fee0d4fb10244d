"""Activations with gradients made for radiance fields."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

LARGEST = 15.0
BOX_SIDE = 2.0
"""Side of the scene's box in core coordinates, in which it is [-1, 1]^3."""


class _TruncatedExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logarithm):
        value = torch.exp(logarithm.clamp(max=LARGEST))
        ctx.save_for_backward(value)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (value,) = ctx.saved_tensors
        return gradient * value.clamp(min=torch.exp(torch.tensor(-LARGEST)).item())


def truncated_exp(logarithm: Tensor) -> Tensor:
    """exp(x) that saturates at e^15 and whose gradient is exp(clamp(x, -15, 15)): finite, and never quite zero."""
    return _TruncatedExp.apply(logarithm)  # pyright: ignore[reportReturnType]


def box_density(raw: Tensor) -> Tensor:
    """Instant-NGP's density, exp(raw) for a whole side of the scene's box, per unit of core length. With more fog at
    first than that, what few photos show is often learnt as a wall before each camera."""
    return truncated_exp(raw) / BOX_SIDE


def fog_softplus(raw: Tensor) -> Tensor:
    """softplus(x - 1), with Mip-NeRF's bias: all of space is a thin fog at first, and its gradient dies nowhere."""
    return softplus(raw - 1)


DENSITY_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "softplus": fog_softplus}
"""From what NeRF's network says to a density, by the names of configs."""
