"""Features of points that move: two ways to let a hash grid of space depend on time.

Points lie in [0, 1]^3, times in [0, 1]. Both modules map [n, 3] points and [n] times to [n, width] features, and name
the tables of their hash grids and their other parameters apart, because these learn in different ways.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lumigraph.fields.hashgrid import GridLayout, HashGrid
from lumigraph.fields.small_mlp import reset_linear, small_mlp

PAIRS = ((0, 1), (0, 2), (1, 2))
"""Axes of space along which a grid of space and time looks; its third axis is time."""


class SpaceTimeGrids(nn.Module):
    """Three hash grids, over (x, y, t), (x, z, t) and (y, z, t): the factors of space-time, of which HexPlane and
    K-Planes (Cao and Johnson; Fridovich-Keil et al., CVPR 2023) have planes.

    Along time a grid has `time_share` of the cells that it has along space.
    """

    def __init__(self, layout: GridLayout, time_share: float) -> None:
        super().__init__()
        self.time_share = time_share
        self.grids = nn.ModuleList([HashGrid(layout) for _ in PAIRS])

    @property
    def tables(self) -> list[nn.Parameter]:
        return list(self.parameters())

    def reset(self) -> None:
        """Forgets everything learnt."""
        for grid in self.grids:
            grid.reset()  # pyright: ignore

    def forward(
        self, points: Float[Tensor, "n 3"], times: Float[Tensor, " n"]
    ) -> tuple[Float[Tensor, "n width"], ...]:
        """What each grid gives."""
        axes, along = points.unbind(1), self.time_share * times
        return tuple(
            grid(torch.stack([axes[first], axes[second], along], 1))
            for grid, (first, second) in zip(self.grids, PAIRS, strict=True)
        )


class FactorisedFeatures(nn.Module):
    """The features of a grid of space beside the product of those of three grids of space and time.

    A product is changed by a factor only where the other two agree, so that a point is told from those that it shares
    a factor with; a sum is not (K-Planes, section 3.1). Factors are 1 and what a grid gives, and the product counts from
    1, so that grids which have learnt nothing add nothing.
    """

    def __init__(self, space: GridLayout, space_time: GridLayout, time_share: float) -> None:
        super().__init__()
        self.grid = HashGrid(space)
        self.factors = SpaceTimeGrids(space_time, time_share)
        self.width = space.width + space_time.width

    @property
    def tables(self) -> list[nn.Parameter]:
        return [self.grid.table, *self.factors.tables]

    @property
    def networks(self) -> list[nn.Parameter]:
        return []

    def reset(self) -> None:
        """Forgets everything learnt."""
        self.grid.reset()
        self.factors.reset()

    def forward(self, points: Float[Tensor, "n 3"], times: Float[Tensor, " n"]) -> Float[Tensor, "n width"]:
        first, second, third = self.factors(points, times)
        return torch.cat([self.grid(points), (1 + first) * (1 + second) * (1 + third) - 1], 1)


class WarpedFeatures(nn.Module):
    """The features of a grid of space at the place from where a point has moved (D-NeRF, Pumarola et al., CVPR 2021),
    which a small network tells from grids of space and time; beside them `ambient` numbers of that network, for what no
    motion explains (HyperNeRF, Park et al., SIGGRAPH Asia 2021).
    """

    def __init__(
        self, space: GridLayout, space_time: GridLayout, time_share: float, hidden: int, ambient: int
    ) -> None:
        """`hidden`: width of the network."""
        super().__init__()
        self.grid = HashGrid(space)
        self.factors = SpaceTimeGrids(space_time, time_share)
        self.motion = small_mlp(len(PAIRS) * space_time.width, hidden, 1, 3 + ambient)
        self.width = space.width + ambient

    @property
    def tables(self) -> list[nn.Parameter]:
        return [self.grid.table, *self.factors.tables]

    @property
    def networks(self) -> list[nn.Parameter]:
        return list(self.motion.parameters())

    def reset(self) -> None:
        """Forgets everything learnt."""
        self.grid.reset()
        self.factors.reset()
        reset_linear(self.motion)

    def forward(
        self, points: Float[Tensor, "n 3"], times: Float[Tensor, " n"]
    ) -> Float[Tensor, "n width"]:
        moved = self.motion(torch.cat(self.factors(points, times), 1))
        return torch.cat([self.grid(points + moved[:, :3]), moved[:, 3:]], 1)
