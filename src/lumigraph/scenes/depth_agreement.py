"""Whether depth maps and camera positions have the same unit: with the right one, a surface that two cameras see lies
where both maps say."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.conventions import similarity

_SCALES = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
_POINTS = 1000
"""About how many pixels of a map are looked at."""
_TOLERANCE = 0.02
"""Two depths agree that differ by this part: what a sensor is good for, and a tenth of the unit is not."""
_LEAST_SEEN = 0.05
"""Part of the points that other cameras must see for their agreement to mean something."""
_CLEARLY = 0.2
"""By how much more of the points must agree for another unit to be believed."""


def agreeing_scale(cameras: Cameras, maps: Sequence[Float[Tensor, "H W"]]) -> float:
    """The power of ten by which the camera positions are to be multiplied for the depth maps to agree, 1 where no other
    is clearly better. Cameras that stand close together tell nothing, nor does a single map.

    Args:
        cameras: of the maps.
        maps: z-depth, NaN where unknown, in what should be the unit of the positions.
    """
    found = {scale: _agreement(cameras.transformed(similarity(scale)), maps) for scale in _SCALES}
    best = max(found, key=lambda scale: found[scale])
    return best if found[best] > found[1.0] + _CLEARLY else 1.0


def _agreement(cameras: Cameras, maps: Sequence[Float[Tensor, "H W"]]) -> float:
    """Of the points that the maps put where another map knows depth, the part that lies at that depth; 0 where there
    are too few."""
    points, owners = _points(cameras, maps)
    seen = agreeing = 0
    for number, depth in enumerate(maps):
        others = points[owners != number]
        places, found = cameras.project(others, torch.full((len(others),), number))
        column, row = places.floor().long().T
        height, width = depth.shape
        inside = (found > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
        known, found = depth[row[inside], column[inside]], found[inside]
        seen += int(torch.isfinite(known).sum())
        agreeing += int(((found - known).abs() <= _TOLERANCE * known).sum())
    enough = seen >= _LEAST_SEEN * len(points) * (len(maps) - 1)
    return agreeing / seen if seen and enough else 0.0


def _points(
    cameras: Cameras, maps: Sequence[Float[Tensor, "H W"]]
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, " n"]]:
    """Points that the maps know, and the number of the map of each."""
    points, owners = [torch.zeros(0, 3)], [torch.zeros(0)]
    for number, depth in enumerate(maps):
        stride = max(1, round((depth.numel() / _POINTS) ** 0.5))
        thinned = depth[::stride, ::stride]
        y, x = torch.nonzero(torch.isfinite(thinned), as_tuple=True)
        rays = cameras.rays(torch.full_like(x, number), stride * x, stride * y)
        points.append(rays.origins + thinned[y, x][:, None] * rays.directions)
        owners.append(torch.full((len(x),), float(number)))
    return torch.cat(points), torch.cat(owners)
