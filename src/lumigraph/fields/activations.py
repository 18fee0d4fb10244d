"""Activations with gradients made for radiance fields."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LARGEST = 15.0


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
