"""Sines and cosines of coordinates, for networks that are to see fine detail."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def frequency_size(scalars: int, octaves: int, identity: bool = True) -> int:
    """Numbers of `frequency_encoding`: 63 for a point and 10 octaves, 27 for a direction and 4."""
    return scalars * (2 * octaves + identity)


def frequency_encoding(
    x: Float[Tensor, "*s S"], octaves: int, *, identity: bool = True, linear: bool = False
) -> Float[Tensor, "*s E"]:
    """x itself, then for k = 0 .. octaves - 1 all sines of 2^k x and all cosines of it (NeRF, equation 4, without its
    factor pi, as its code has it).

    `linear`: frequencies evenly spaced from 1 to 2^(octaves - 1) instead.
    """
    if octaves == 0:
        return x if identity else x[..., :0]
    if linear:
        frequencies = torch.linspace(1, 2.0 ** (octaves - 1), octaves, device=x.device, dtype=x.dtype)
    else:
        frequencies = 2.0 ** torch.arange(octaves, device=x.device, dtype=x.dtype)
    angles = x.unsqueeze(-2) * frequencies[:, None]
    waves = torch.stack([angles.sin(), angles.cos()], -2).flatten(-3)
    return torch.cat([x, waves], -1) if identity else waves


def octave_window(octaves: int, alpha: Float[Tensor, ""]) -> Float[Tensor, " octaves"]:
    """What each octave counts while `alpha` rises from 0 to `octaves`: (1 - cos(pi clip(alpha - k, 0, 1))) / 2
    (Nerfies, equation 8), so that coarse waves are learnt before fine ones."""
    number = torch.arange(octaves, device=alpha.device, dtype=alpha.dtype)
    return 0.5 * (1 - torch.cos(math.pi * (alpha - number).clamp(0, 1)))


def windowed_encoding(
    x: Float[Tensor, "*s S"], octaves: int, alpha: Float[Tensor, ""], *, identity: bool = True
) -> Float[Tensor, "*s E"]:
    """`frequency_encoding` with octave k times `octave_window(octaves, alpha)[k]`; x itself, where it comes along, is
    never dimmed."""
    encoded = frequency_encoding(x, octaves, identity=identity)
    window = octave_window(octaves, alpha.to(x.dtype)).repeat_interleave(2 * x.shape[-1])
    if identity:
        window = torch.cat([window.new_ones(x.shape[-1]), window])
    return encoded * window
