"""Features of points of a space of few dimensions, from grids over its pairs of axes.

For D dimensions there are D (D - 1) / 2 planes, and of each a grid for every resolution; what bilinear interpolation
finds in all of them stands side by side (LightSpeed, Gupta et al., NeurIPS 2023, arXiv 2310.16832, has the six planes
of a light slab's four coordinates). Everything is one `grid_sample` for each resolution.
"""

from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor, nn

_SPREAD = 0.1
"""Features begin evenly spread over this to both sides of zero."""


def plane_count(dimensions: int) -> int:
    """Pairs of axes: 6 of four dimensions, 15 of six."""
    return dimensions * (dimensions - 1) // 2


class PlaneGrids(nn.Module):
    """Coordinates [N, D] in [-1, 1], beyond which the rim's features go on -> features [N, planes * F * levels]."""

    axes: Tensor

    def __init__(self, dimensions: int, features: int, resolutions: tuple[int, ...]):
        super().__init__()
        planes = plane_count(dimensions)
        self.grids = nn.ParameterList(
            nn.Parameter(torch.empty(planes, features, side, side).uniform_(-_SPREAD, _SPREAD))
            for side in resolutions
        )
        pairs = torch.tensor(list(combinations(range(dimensions), 2)))
        self.register_buffer("axes", pairs.flatten(), persistent=False)

    def forward(self, coordinates: Float[Tensor, "N D"]) -> Float[Tensor, "N E"]:
        count = len(self.axes) // 2
        # [planes, N, 1, 2]: every plane's own picture of where the points are.
        places = coordinates.index_select(1, self.axes).unflatten(1, (count, 2)).transpose(0, 1).unsqueeze(2)
        found = [
            nn.functional.grid_sample(grid, places, padding_mode="border", align_corners=True)
            for grid in self.grids
        ]
        return torch.cat([each.squeeze(3).flatten(0, 1) for each in found]).T
