"""Compositing packed samples along rays: one function, a kernel per device behind it."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from lumigraph.rendering.volume import cpu, reference
from lumigraph.rendering.volume.samples import MIN_TRANSMITTANCE


class _CompositeCPU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, density, rgb, t, dt, offsets, min_transmittance):
        rays = len(offsets) - 1
        out = density.new_empty((rays, 3)), *(density.new_empty(rays) for _ in range(3))
        arrays = *_arrays(density, rgb, t, dt, offsets), min_transmittance, *_arrays(*out)
        cpu.composite(*arrays)
        ctx.save_for_backward(density, rgb, t, dt, offsets, *out[:3])
        ctx.min_transmittance = min_transmittance
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_rgb, grad_opacity, grad_depth, grad_distortion):
        density, rgb, t, dt, offsets, out_rgb, opacity, depth = ctx.saved_tensors
        density_gradient, rgb_gradient = torch.empty_like(density), torch.empty_like(rgb)
        arrays = (
            *_arrays(density, rgb, t, dt, offsets),
            ctx.min_transmittance,
            *_arrays(out_rgb, opacity, depth, grad_rgb, grad_opacity, grad_depth, grad_distortion),
            *_arrays(density_gradient, rgb_gradient),
        )
        cpu.composite_backward(*arrays)
        return density_gradient, rgb_gradient, None, None, None, None


def _arrays(*tensors: Tensor):
    return tuple(tensor.detach().contiguous().numpy() for tensor in tensors)


def composite(
    density: Float[Tensor, " samples"],
    rgb: Float[Tensor, "samples 3"],
    t: Float[Tensor, " samples"],
    dt: Float[Tensor, " samples"],
    offsets: Int[Tensor, " bounds"],
    min_transmittance: float = MIN_TRANSMITTANCE,
) -> tuple[Float[Tensor, "rays 3"], Float[Tensor, " rays"], Float[Tensor, " rays"], Float[Tensor, " rays"]]:
    """Premultiplied rgb, opacity, sum of w t, and distortion of each ray; see `reference.composite`.

    Differentiable by density and rgb. `offsets` [rays + 1] says where each ray's samples begin in the packed arrays.
    """
    if density.device.type == "cpu":
        return _CompositeCPU.apply(density, rgb, t, dt, offsets, min_transmittance)
    return reference.composite(density, rgb, t, dt, offsets, min_transmittance)


def composite_shares(
    density: Float[Tensor, " samples"],
    shares: Float[Tensor, "samples channels"],
    t: Float[Tensor, " samples"],
    dt: Float[Tensor, " samples"],
    offsets: Int[Tensor, " bounds"],
) -> Float[Tensor, "rays channels"]:
    """Any number of channels by the weights that `composite` gives to colours; differentiable by density and shares."""
    channels = shares.shape[1]
    # Colours have three channels, so others are taken by threes.
    filled = torch.nn.functional.pad(shares, (0, -channels % 3))
    threes = [composite(density, three, t, dt, offsets)[0] for three in filled.split(3, 1)]
    return torch.cat(threes, 1)[:, :channels]


def median(
    density: Float[Tensor, " samples"],
    t: Float[Tensor, " samples"],
    dt: Float[Tensor, " samples"],
    offsets: Int[Tensor, " bounds"],
) -> Float[Tensor, " rays"]:
    """Where half of each ray's own light has arisen; see `reference.median`. Not differentiable."""
    if density.device.type != "cpu":
        return reference.median(density, t, dt, offsets)
    out = density.new_empty(len(offsets) - 1)
    cpu.median(*_arrays(density, t, dt, offsets, out))
    return out
