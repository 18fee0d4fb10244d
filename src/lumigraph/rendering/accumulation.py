"""Losses of many rays, a few rays at a time, forward and at once backward.

Dense sampling keeps the activations of hundreds of samples per ray. Since a loss is a sum over rays, its gradients add
up over chunks of them: so memory does not grow with the batch, and on a CPU activations stay in the caches.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def accumulated(
    terms: Callable[[int, int], Sequence[Tensor]],
    rays: int,
    chunk: int,
    parameters: Sequence[Sequence[nn.Parameter]],
) -> tuple[Tensor, ...]:
    """Sums over chunks of what `terms(first, end)` gives for the rays first..end: scalars, one for each entry of
    `parameters`, of which it depends on no others that are learnt. Differentiable once, with respect to these."""
    sizes = [len(group) for group in parameters]
    return _Accumulated.apply(terms, rays, chunk, sizes, *(p for group in parameters for p in group))  # pyright: ignore


def accumulated_terms(
    terms: Callable[[int, int], dict[str, Tensor]],
    rays: int,
    chunk: int,
    parameters: Sequence[nn.Parameter],
) -> dict[str, Tensor]:
    """Sums over chunks of the loss terms that `terms(first, end)` gives by name for the rays first..end. The parameters
    may have part in every term; all their gradients come with the first one."""
    sums: dict[str, Tensor] = {}

    def total(first: int, end: int) -> tuple[Tensor]:
        values = terms(first, end)
        for name, value in values.items():
            sums[name] = sums.get(name, torch.zeros_like(value)) + value.detach()
        return (torch.stack(list(values.values())).sum(),)

    (loss,) = accumulated(total, rays, chunk, [parameters])
    first = next(iter(sums))
    sums[first] = loss - torch.stack(list(sums.values())).sum() + sums[first]
    return sums


class _Accumulated(torch.autograd.Function):
    """Makes the gradients together with the values."""

    @staticmethod
    def forward(
        ctx: Any,
        terms: Callable[[int, int], Sequence[Tensor]],
        rays: int,
        chunk: int,
        sizes: list[int],
        *parameters: Tensor,
    ) -> tuple[Tensor, ...]:
        sums: list[Tensor] = []
        gradients: list[Tensor] = []
        for first in range(0, rays, chunk):
            with torch.enable_grad():
                values = list(terms(first, min(first + chunk, rays)))
                # No parameter has part in two terms, so that the gradients of their sum are those of each.
                found = torch.autograd.grad(values, parameters)
            if not sums:
                sums, gradients = [value.detach().clone() for value in values], list(found)
            else:
                for total, value in zip(sums, values, strict=True):
                    total += value.detach()
                for gradient, more in zip(gradients, found, strict=True):
                    gradient += more
        ctx.gradients, ctx.sizes = gradients, sizes
        return tuple(sums)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        scales = [scale for scale, size in zip(upstream, ctx.sizes, strict=True) for _ in range(size)]
        scaled = [scale * gradient for scale, gradient in zip(scales, ctx.gradients, strict=True)]
        return (None, None, None, None, *scaled)
