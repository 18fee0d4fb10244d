"""The hash grid in plain torch: slow, differentiable everywhere, and the oracle of every kernel."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lumigraph.fields.hashgrid.layout import PRIMES, GridLayout

CORNERS = torch.tensor([[(corner >> axis) & 1 for axis in range(3)] for corner in range(8)])


def entry_indices(cells: Int[Tensor, "... 3"], layout: GridLayout, level: int) -> Int[Tensor, "..."]:
    """Where the vertices `cells` of a level lie in the flat table: densely, or by the spatial hash of equation 4."""
    x, y, z = cells.unbind(-1)
    if layout.hashed[level]:
        index = (x * PRIMES[0] ^ y * PRIMES[1] ^ z * PRIMES[2]) & (int(layout.sizes[level]) - 1)
    else:
        vertices = int(layout.vertices[level])
        index = x + vertices * (y + vertices * z)
    return index + int(layout.offsets[level])


def encode(
    points: Float[Tensor, "n 3"], table: Float[Tensor, "entries features"], layout: GridLayout
) -> Float[Tensor, "n width"]:
    """Trilinear interpolation of each level's features at `points` in [0, 1]^3, levels concatenated."""
    corners = CORNERS.to(points.device)
    encoded = []
    for level in range(layout.levels):
        position = points * float(layout.scales[level]) + 0.5
        cell = position.detach().floor()
        fraction = (position - cell)[:, None, :]
        vertices = cell.long()[:, None, :] + corners
        weights = torch.where(corners == 1, fraction, 1 - fraction).prod(-1)
        entries = table[entry_indices(vertices, layout, level)]
        encoded.append((weights[..., None] * entries).sum(1))
    return torch.cat(encoded, dim=-1)
