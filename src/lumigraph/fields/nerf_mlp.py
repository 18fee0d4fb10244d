"""The MLP of NeRF (Mildenhall et al. 2020, figure 7), which Mip-NeRF and D-NeRF use too.

    h_0 = relu(L_0 x)     h_i = relu(L_i h_{i-1}), where i is the skip: L_i [x, h_{i-1}]
    density = S h         rgb = sigmoid(C relu(V [F h, v]))

x is the encoded position, v the encoded view direction. Without view directions rgb = sigmoid(C h).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

from lumigraph.fields.first_weights import reset_glorot, reset_linear


class NeRFMLP(nn.Module):
    """Encoded positions and view directions to raw density (no activation) and colour.

    595,844 parameters for 63 and 27 inputs and the published sizes.
    """

    def __init__(
        self,
        position_inputs: int,
        view_inputs: int,
        *,
        depth: int = 8,
        width: int = 256,
        skip: int | None = 4,
        view_width: int | None = None,
        colours: int = 3,
        glorot: bool = False,
    ) -> None:
        """`skip`: number of the hidden layer that sees the position again. `view_width`: None for half of `width`.
        `view_inputs`: 0 for colours that depend on the position alone. `glorot`: begin with the weights of Glorot and
        Bengio (2010), biases at zero, not with torch's."""
        super().__init__()
        self._glorot = glorot
        self.skip = skip if skip is not None and 0 < skip < depth else None
        inputs = [position_inputs] + [width] * (depth - 1)
        if self.skip is not None:
            inputs[self.skip] += position_inputs
        self.hidden = nn.ModuleList(nn.Linear(size, width) for size in inputs)
        self.density = nn.Linear(width, 1)
        self.viewed = view_inputs > 0
        last = width
        if self.viewed:
            last = width // 2 if view_width is None else view_width
            self.feature = nn.Linear(width, width)
            self.view = nn.Linear(width + view_inputs, last)
        self.colour = nn.Linear(last, colours)
        if glorot:
            self.reset()

    def forward(
        self,
        positions: Float[Tensor, "*s P"],
        views: Float[Tensor, "*#s V"] | None,
        dtype: torch.dtype = torch.float32,
    ) -> tuple[Float[Tensor, "*s"], Float[Tensor, "*s C"]]:
        """(raw density, colours in (0, 1)), float32. `views` may have leading sizes of 1: a ray's direction is then
        multiplied once for all of its samples. `dtype`: of the matrix products."""
        h = self._trunk(positions.to(dtype), dtype)
        density = _linear(h, self.density, dtype).squeeze(-1)
        if self.viewed and views is not None:
            h = self._seen(h, views.to(dtype), dtype)
        # The sigmoid in float32: bfloat16 has 8 bits, and colours need all of them.
        return density.float(), torch.sigmoid(_linear(h, self.colour, dtype).float())

    def raw_density(
        self, positions: Float[Tensor, "*s P"], dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "*s"]:
        """The density alone, without the layers of colour."""
        h = self._trunk(positions.to(dtype), dtype)
        return _linear(h, self.density, dtype).squeeze(-1).float()

    def _trunk(self, positions: Tensor, dtype: torch.dtype) -> Tensor:
        # As a matrix: of more dimensions `linear` gives a view, and a change of a view in place, such as relu_, makes
        # autograd copy its whole gradient.
        x = h = positions.reshape(-1, positions.shape[-1])
        for i, layer in enumerate(self.hidden):
            if i == self.skip:
                h = torch.cat([x, h], -1)
            h = _linear(h, layer, dtype).relu_()
        return h.reshape(*positions.shape[:-1], -1)

    def _seen(self, h: Tensor, views: Tensor, dtype: torch.dtype) -> Tensor:
        feature = _linear(h, self.feature, dtype)
        weight, bias = self.view.weight.to(dtype), self.view.bias.to(dtype)
        width = feature.shape[-1]
        turned = linear(views, weight[:, width:], bias)
        return (linear(feature, weight[:, :width]) + turned).relu_()

    def reset(self) -> None:
        """Other first weights, which torch's random state decides."""
        (reset_glorot if self._glorot else reset_linear)(self)


def _linear(x: Tensor, layer: nn.Module, dtype: torch.dtype) -> Tensor:
    assert isinstance(layer, nn.Linear)
    return linear(x, layer.weight.to(dtype), layer.bias.to(dtype))
