"""Features of points that move: two ways to let a hash grid of space depend on how the scene stands: on time, or on
attributes, or on both.

Points lie in [0, 1]^3; the scene stands as D numbers in [0, 1] say. Both modules map [n, 3] points and [n, D] standings
to [n, width] features, and name apart the parameters of space and those of time, which learn at other rates.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lumigraph.fields.first_weights import reset_linear
from lumigraph.fields.hashgrid import GridLayout, HashGrid
from lumigraph.fields.small_mlp import small_mlp

PAIRS = ((0, 1), (0, 2), (1, 2))
"""Axes of space along which a grid of space and time looks; its third axis is time."""


class SpaceTimeGrids(nn.Module):
    """Three hash grids, over (x, y, t), (x, z, t) and (y, z, t): the factors of space-time, of which HexPlane and
    K-Planes (Cao and Johnson; Fridovich-Keil et al., CVPR 2023) have planes. Where several numbers say how the scene
    stands there are three for each, so that numbers which move different things are learnt apart, and stand together as
    they never did in a photo.

    Along time a grid has `time_share` of the cells that it has along space.
    """

    def __init__(self, layout: GridLayout, time_share: float, numbers: int = 1) -> None:
        """`numbers`: how many say how the scene stands."""
        super().__init__()
        self.time_share = time_share
        self.grids = nn.ModuleList([HashGrid(layout) for _ in range(numbers * len(PAIRS))])

    def reset(self) -> None:
        """Forgets everything learnt."""
        for grid in self.grids:
            grid.reset()  # pyright: ignore

    def forward(
        self, points: Float[Tensor, "n 3"], standing: Float[Tensor, "n D"]
    ) -> tuple[Float[Tensor, "n width"], ...]:
        """What each grid gives, the three of a number after those of the one before."""
        axes, along = points.unbind(1), (self.time_share * standing).unbind(1)
        looks = [(axes[first], axes[second], number) for number in along for first, second in PAIRS]
        return tuple(grid(torch.stack(look, 1)) for grid, look in zip(self.grids, looks, strict=True))


class MovingFeatures(nn.Module):
    """A hash grid of space and the grids of space and time that make it move. `width`: features of a point."""

    width: int

    def __init__(
        self, space: GridLayout, space_time: GridLayout, time_share: float, numbers: int = 1
    ) -> None:
        """`numbers`: how many say how the scene stands (D)."""
        super().__init__()
        self.grid = HashGrid(space)
        self.space_time = SpaceTimeGrids(space_time, time_share, numbers)

    @property
    def networks(self) -> list[nn.Parameter]:
        """What is no table of a grid."""
        return []

    def reset(self) -> None:
        """Forgets everything learnt."""
        self.grid.reset()
        self.space_time.reset()

    def forward(
        self, points: Float[Tensor, "n 3"], standing: Float[Tensor, "n D"]
    ) -> Float[Tensor, "n width"]:
        """The features of points, each with how the scene stands for it."""
        raise NotImplementedError


class WarpedFeatures(MovingFeatures):
    """The features of the grid of space at the place from where a point has moved (D-NeRF, Pumarola et al., CVPR 2021),
    which a small network tells from what the grids of space and time say. Beside them stand ambient coordinates, more
    numbers of that network: what no motion explains, such as shadows, goes by them (HyperNeRF, Park et al., SIGGRAPH
    Asia 2021)."""

    def __init__(
        self,
        space: GridLayout,
        space_time: GridLayout,
        time_share: float,
        numbers: int = 1,
        *,
        hidden: int,
        ambient: int,
    ) -> None:
        """`hidden`: width of the network; `ambient`: number of ambient coordinates."""
        super().__init__(space, space_time, time_share, numbers)
        self.motion = small_mlp(numbers * len(PAIRS) * space_time.width, hidden, 1, 3 + ambient)
        reset_linear(self.motion)  # Motion is learnt better from small beginnings, which colours are not.
        self.width = space.width + ambient

    @property
    def networks(self) -> list[nn.Parameter]:
        return list(self.motion.parameters())

    def reset(self) -> None:
        super().reset()
        reset_linear(self.motion)

    def forward(
        self, points: Float[Tensor, "n 3"], standing: Float[Tensor, "n D"]
    ) -> Float[Tensor, "n width"]:
        moved = self.motion(torch.cat(self.space_time(points, standing), 1))
        # Motion counts in halves of the cube, as core coordinates do. It begins at next to nothing, as the grids do.
        return torch.cat([self.grid(points + 0.5 * moved[:, :3]), moved[:, 3:]], 1)


class FactorisedFeatures(MovingFeatures):
    """The features of the grid of space beside the product of those of the grids of space and time, one of each number
    that says how the scene stands.

    A product is changed by a factor only where the other two agree, so that a point is told from those that it shares
    a factor with; a sum is not (K-Planes, section 3.1). A factor is 1 and what a grid gives, and the product counts
    from 1, so that grids which have learnt nothing add nothing.
    """

    def __init__(
        self, space: GridLayout, space_time: GridLayout, time_share: float, numbers: int = 1
    ) -> None:
        super().__init__(space, space_time, time_share, numbers)
        self.width = space.width + numbers * space_time.width

    def forward(
        self, points: Float[Tensor, "n 3"], standing: Float[Tensor, "n D"]
    ) -> Float[Tensor, "n width"]:
        found = self.space_time(points, standing)
        threes = zip(found[::3], found[1::3], found[2::3], strict=True)
        return torch.cat(
            [self.grid(points), *((1 + a) * (1 + b) * (1 + c) - 1 for a, b, c in threes)],
            1,
        )
