"""Where a point of a moving scene was at the canonical time: D-NeRF's deformation network (Pumarola et al., CVPR 2021,
arXiv 2011.13961, equation 2).

    h_0 = relu(L_0 [x, t])     h_i = relu(L_i h_{i-1}), where i is the skip: L_i [x, h_{i-1}]
    displacement = D h

x is the encoded position, t the encoded time, which the skip does not show again.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

from lumigraph.fields.first_weights import reset_linear


class DeformationMLP(nn.Module):
    """Encoded positions and times to displacements in scene units.

    499,203 parameters for 63 and 21 inputs and the published sizes. Initialised as torch initialises `nn.Linear`.
    """

    def __init__(
        self,
        position_inputs: int,
        time_inputs: int,
        *,
        depth: int = 8,
        width: int = 256,
        skip: int | None = 5,
    ) -> None:
        """`skip`: number of the hidden layer that sees the position again; a network with fewer layers has none."""
        super().__init__()
        self.skip = skip if skip is not None and 0 < skip < depth else None
        inputs = [position_inputs + time_inputs] + [width] * (depth - 1)
        if self.skip is not None:
            inputs[self.skip] += position_inputs
        self.hidden = nn.ModuleList(nn.Linear(size, width) for size in inputs)
        self.displacement = nn.Linear(width, 3)

    def forward(
        self,
        positions: Float[Tensor, "*s P"],
        times: Float[Tensor, "*#s T"],
        dtype: torch.dtype = torch.float32,
    ) -> Float[Tensor, "*s 3"]:
        """Displacements, float32. `times` may have leading sizes of 1: a ray's time is then multiplied once for all of
        its samples. `dtype`: of the matrix products."""
        x = positions.to(dtype)
        h = self._first(x, times.to(dtype))
        # As matrices: of more dimensions `linear` gives a view, and a change of a view in place, such as relu_, makes
        # autograd copy its whole gradient.
        x, h = x.reshape(-1, x.shape[-1]), h.reshape(-1, h.shape[-1])
        for i, layer in enumerate(list(self.hidden)[1:], start=1):
            if i == self.skip:
                h = torch.cat([x, h], -1)
            h = linear(h, *_as(layer, dtype)).relu_()
        # In float32: a displacement counts in the units of the scene, and bfloat16 has 8 bits.
        moved = linear(h.float(), self.displacement.weight, self.displacement.bias)
        return moved.reshape(*positions.shape[:-1], 3)

    def _first(self, x: Tensor, times: Tensor) -> Tensor:
        weight, bias = _as(self.hidden[0], x.dtype)
        size = x.shape[-1]
        return (linear(x, weight[:, :size]) + linear(times, weight[:, size:], bias)).relu_()

    def reset(self) -> None:
        """Other first weights, which torch's random state decides."""
        reset_linear(self)


def _as(layer: nn.Module, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    assert isinstance(layer, nn.Linear)
    return layer.weight.to(dtype), layer.bias.to(dtype)
