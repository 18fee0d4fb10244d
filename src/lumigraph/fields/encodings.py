"""Sines and cosines of coordinates, for networks that are to see fine detail."""

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
