"""Codes of rays for networks that answer in one evaluation, and their positional encoding.

R2L (Wang et al., ECCV 2022, arXiv 2203.17261): a ray is K points along it, or its Plücker coordinates; each
scalar x becomes [sin(2^0 x) .. sin(2^(L-1) x), cos(2^0 x) .. cos(2^(L-1) x), x], without a factor pi.
`positional_encoding` is the definition; `encode_rows` is the same numbers with the rays along the rows of memory,
made with few sines.
"""

import torch
from jaxtyping import Float
from torch import Tensor

_EXACT_EVERY = 5
"""Octaves from one sine of the library to the next; between them angles are doubled, which doubles the error."""


def code_size(scalars: int, octaves: int) -> int:
    """Numbers of the encoding of `scalars` numbers: 1008 for 16 points and 10 octaves, 126 for Plücker."""
    return scalars * (2 * octaves + 1)


def point_depths(
    points: int, near: Float[Tensor, "..."], far: Float[Tensor, "..."], jitter: Float[Tensor, "K B"] | None
) -> Float[Tensor, "K B1"]:
    """Depths [K, 1] of K points evenly from `near` to `far` (scalars), both ends included.

    With `jitter` [K, B], uniform in [0, 1), the depths [K, B] lie in bins instead: the borders are the middles
    between neighbouring points, the first bin starts at `near` and the last ends at `far` (stratified, as NeRF).
    """
    t = torch.linspace(0, 1, points, device=near.device).unsqueeze(1)
    depths = near * (1 - t) + far * t
    if jitter is None:
        return depths
    middles = 0.5 * (depths[1:] + depths[:-1])
    lower, upper = torch.cat([depths[:1], middles]), torch.cat([middles, depths[-1:]])
    return lower + (upper - lower) * jitter


def points_rows(
    origins: Float[Tensor, "B 3"], directions: Float[Tensor, "B 3"], depths: Float[Tensor, "K B1"]
) -> Float[Tensor, "3*K B"]:
    """The points o + t d of each ray as rows: point 0's x, y, z, then point 1's (k-major, xyz inner)."""
    points = torch.addcmul(origins.T.unsqueeze(0), directions.T.unsqueeze(0), depths.unsqueeze(1))
    return points.flatten(0, 1)


def plucker_rows(origins: Float[Tensor, "B 3"], directions: Float[Tensor, "B 3"]) -> Float[Tensor, "6 B"]:
    """Plücker coordinates (d, o x d) of each ray as rows; d is not normalised."""
    return torch.cat([directions.T, torch.linalg.cross(origins, directions).T])


def positional_encoding(
    scalars: Float[Tensor, "*s S"], octaves: int, window: Float[Tensor, " octaves"] | None = None
) -> Float[Tensor, "*s E"]:
    """For each scalar its sines, its cosines and itself, scalar after scalar (R2L, `PositionalEmbedder`).

    `window`: factors on the waves of each octave; the scalars themselves are never dimmed.
    """
    frequencies = 2.0 ** torch.arange(octaves, device=scalars.device, dtype=scalars.dtype)
    angles = scalars.unsqueeze(-1) * frequencies
    sines, cosines = angles.sin(), angles.cos()
    if window is not None:
        sines, cosines = sines * window, cosines * window
    return torch.cat([sines, cosines, scalars.unsqueeze(-1)], -1).flatten(-2)


def encode_rows(rows: Float[Tensor, "S B"], octaves: int, out: Float[Tensor, "E B"]) -> None:
    """Writes the encoding of S scalars per ray into `out` [S (2 octaves + 1), B], octave-major.

    Row blocks of `out`, S rows each: sin of octave 0 .. L-1, cos of octave 0 .. L-1, raw; so it is
    `positional_encoding` with its columns in the order of `octave_major`. Sines come from the library every fifth
    octave and from sin 2a = 2 sin a cos a, cos 2a = 1 - 2 sin^2 a between: within 1e-5 of the definition.
    """
    scalars = rows.shape[0]
    blocks = out.view(2 * octaves + 1, scalars, -1)
    zero, one = rows.new_zeros(()), rows.new_ones(())
    for octave in range(octaves):
        sine, cosine = blocks[octave], blocks[octaves + octave]
        if octave % _EXACT_EVERY == 0:
            angles = rows * 2.0**octave
            torch.sin(angles, out=sine)
            torch.cos(angles, out=cosine)
        else:
            before, before_cosine = blocks[octave - 1], blocks[octaves + octave - 1]
            torch.addcmul(zero, before, before_cosine, value=2, out=sine)
            torch.addcmul(one, before, before, value=-2, out=cosine)
    blocks[2 * octaves].copy_(rows)


def encoding_gradient(
    code: Float[Tensor, "E B"], gradient: Float[Tensor, "E B"], octaves: int, out: Float[Tensor, "S B"]
) -> None:
    """Writes the gradient with respect to the rows that `encode_rows` has made `code` of, where that with respect to
    the code is `gradient`: d sin(2^k x) = 2^k cos(2^k x) dx, d cos(2^k x) = -2^k sin(2^k x) dx."""
    waves = code.view(2 * octaves + 1, out.shape[0], -1)
    parts = gradient.view(2 * octaves + 1, out.shape[0], -1)
    out.copy_(parts[2 * octaves])
    for octave in range(octaves):
        out.addcmul_(parts[octave], waves[octaves + octave], value=2.0**octave)
        out.addcmul_(parts[octaves + octave], waves[octave], value=-(2.0**octave))


def octave_major(weight: Float[Tensor, "W E"], scalars: int) -> Float[Tensor, "W E"]:
    """The columns of a matrix that multiplies `positional_encoding`, reordered for `encode_rows`."""
    return weight.unflatten(1, (scalars, -1)).transpose(1, 2).flatten(1)


def scalar_major(weight: Float[Tensor, "W E"], scalars: int) -> Float[Tensor, "W E"]:
    """The inverse of `octave_major`."""
    return weight.unflatten(1, (-1, scalars)).transpose(1, 2).flatten(1)
