"""The small networks of what moves, fields and rays: layers of one width, one of which sees the input again.

h_0 = relu(L_0 x)     h_i = relu(L_i h_{i-1}), where i is the skip: L_i [x, h_{i-1}]     output = O h
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lumigraph.fields.first_weights import reset_glorot, reset_linear


class SkipMLP(nn.Module):
    """Initialised as Glorot and Bengio (2010) have it, biases at zero, or as torch initialises `nn.Linear`; the outputs
    as `last` says."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        depth: int,
        width: int,
        skip: int | None = 4,
        glorot: bool = True,
        last: float | None = None,
        last_spread: str = "uniform",
    ) -> None:
        """`skip`: number of the hidden layer, from 0, that sees the input again; none where it is 0 or there is no such
        layer. `last`: the weights of the output begin evenly spread over [0, last), or with that standard deviation
        ("normal"), and its biases at zero, so that with 0 what is learnt begins as nothing; None: like the others."""
        super().__init__()
        self.skip = skip if skip is not None and 0 < skip < depth else None
        sizes = [inputs] + [width] * (depth - 1)
        if self.skip is not None:
            sizes[self.skip] += inputs
        self.hidden = nn.ModuleList(nn.Linear(size, width) for size in sizes)
        self.output = nn.Linear(width, outputs)
        self._glorot, self._last, self._last_spread = glorot, last, last_spread
        self.reset()

    def forward(self, x: Float[Tensor, "*s I"]) -> Float[Tensor, "*s O"]:
        h = x
        for number, layer in enumerate(self.hidden):
            if number == self.skip:
                h = torch.cat([x, h], -1)
            h = layer(h).relu()
        return self.output(h)

    def reset(self) -> None:
        """Other first weights, which torch's random state decides."""
        reset = reset_glorot if self._glorot else reset_linear
        reset(self)
        if self._last is None:
            return
        nn.init.zeros_(self.output.bias)
        if self._last_spread == "normal":
            nn.init.normal_(self.output.weight, std=self._last)
        else:
            nn.init.uniform_(self.output.weight, 0, self._last)
