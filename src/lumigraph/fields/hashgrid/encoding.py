"""The hash grid as a torch module; which kernel runs is decided here, by device, and nowhere else."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lumigraph.fields.hashgrid import cpu, reference
from lumigraph.fields.hashgrid.layout import GridLayout

INITIAL_RANGE = 1e-4


class _EncodeCPU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, points, table, layout):
        encoded = points.new_empty((len(points), layout.width))
        kernel = cpu.forward_kernel(layout.features)
        kernel(points.detach().contiguous().numpy(), table.detach().numpy(), *layout.arrays, encoded.numpy())
        ctx.save_for_backward(points, table)
        ctx.layout = layout
        return encoded

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (points, table), layout = ctx.saved_tensors, ctx.layout
        gradient = gradient.contiguous().numpy()
        points_gradient = table_gradient = None
        if ctx.needs_input_grad[0]:
            points_gradient = torch.empty_like(points)
            kernel = cpu.points_backward_kernel(layout.features)
            arrays = points.detach().numpy(), gradient, table.detach().numpy()
            kernel(*arrays, *layout.arrays, points_gradient.numpy())
        if ctx.needs_input_grad[1]:
            table_gradient = torch.zeros_like(table)
            cpu.backward_kernel(layout.features)(
                points.detach().numpy(), gradient, *layout.arrays, table_gradient.numpy()
            )
        return points_gradient, table_gradient, None


def encode(
    points: Float[Tensor, "n 3"], table: Float[Tensor, "entries features"], layout: GridLayout
) -> Float[Tensor, "n width"]:
    """Features of each level at `points` in [0, 1]^3; differentiable by the table and by the points.

    Outside of the cube the nearest point of it counts (and 0 for what is not a number).
    """
    points = torch.fmin(torch.fmax(points, points.new_zeros(())), points.new_ones(()))
    if points.device.type == "cpu":
        return _EncodeCPU.apply(points, table, layout)  # pyright: ignore[reportReturnType]
    return reference.encode(points, table, layout)


class HashGrid(nn.Module):
    """A trainable hash grid: [n, 3] points in [0, 1]^3 to [n, L * F] features."""

    scales: Float[Tensor, "L"]

    def __init__(self, layout: GridLayout) -> None:
        super().__init__()
        self.layout = layout
        self.table = nn.Parameter(torch.empty(layout.entries, layout.features))
        self.register_buffer("scales", torch.from_numpy(layout.scales), persistent=False)
        self.reset()

    def reset(self) -> None:
        """Forgets everything learnt."""
        nn.init.uniform_(self.table, -INITIAL_RANGE, INITIAL_RANGE)

    def forward(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n width"]:
        return encode(points, self.table, self.layout)

    def faded(
        self, points: Float[Tensor, "n 3"], sizes: Float[Tensor, " n"]
    ) -> Float[Tensor, "n faded_width"]:
        """Features of Gaussians around `points`, whose standard deviations are `sizes` in sides of the cube, and what
        is gone of each level, L numbers: a network that could not tell a faded feature from one that is zero would
        have to guess. They are what is gone, not what is left, so that where pixels are fine a network sees
        next to nothing at first, as behind a plain grid: constants would let it begin with a fog of its own, which
        few photos may not clear."""
        kept = self.level_weights(sizes)
        features = self(points).view(len(points), self.layout.levels, self.layout.features)
        return torch.cat([(features * kept[..., None]).flatten(1), 1 - kept], 1)

    def level_weights(self, sizes: Float[Tensor, " n"]) -> Float[Tensor, "n L"]:
        """What is left of each level for Gaussians of these standard deviations s: of level l, with n_l cells along the
        cube, erf(1 / (sqrt(8) s n_l)), about the share of a Gaussian that lies within one cell (Zip-NeRF, Barron et
        al. 2023, section 3.1, with one sample for the whole Gaussian)."""
        cells = math.sqrt(8) * sizes[:, None] * self.scales
        return torch.erf(1 / cells.clamp(min=cpu.SHARP))
