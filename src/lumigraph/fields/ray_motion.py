"""The small networks of DyLiN, which see a ray and its moment before the light field does (Yu et al., CVPR 2023,
arXiv 2303.14243).

    e = encoding of (o, d, t)       (o', d') = (o, d) + offset(e)       w = hyper(e)

The light field then answers for the ray (o', d') and the hyper code w. Offsets carry what moves along; the code carries
what no motion of rays can show: things that appear, part or change colour.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class LiftingMLP(nn.Module):
    """Hidden layers of one width with ReLU, one of which sees the input again, and a linear head.

    The input stands after the hidden units there. Initialised as torch initialises `nn.Linear`; with `zero_head` the
    head begins at zero, so that what is learnt begins as nothing.
    """

    def __init__(
        self, inputs: int, outputs: int, *, width: int, layers: int, skip: int, zero_head: bool
    ) -> None:
        """`skip`: number of the hidden layer, counted from 0, that sees the input again; none where it is 0 or there
        is no such layer."""
        super().__init__()
        self.skip = skip if 0 < skip < layers else None
        sizes = [inputs] + [width] * (layers - 1)
        if self.skip is not None:
            sizes[self.skip] += inputs
        self.hidden = nn.ModuleList(nn.Linear(size, width) for size in sizes)
        self.head = nn.Linear(width, outputs)
        if zero_head:
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def forward(self, code: Float[Tensor, "*s I"]) -> Float[Tensor, "*s O"]:
        h = code
        for number, layer in enumerate(self.hidden):
            if number == self.skip:
                h = torch.cat([h, code], -1)
            h = layer(h).relu()
        return self.head(h)


class OctaveWindow(nn.Module):
    """What each octave of an encoding counts: (1 - cos(pi clip(alpha - k, 0, 1))) / 2 for octave k while alpha rises
    from 0 to the number of octaves (Nerfies, Park et al. 2021, equation 8). Its weights are state; they never fall, so
    that training which goes on elsewhere does not begin coarsely again."""

    weights: Float[Tensor, " octaves"]

    def __init__(self, octaves: int) -> None:
        super().__init__()
        self.register_buffer("weights", torch.zeros(octaves))

    def open(self, share: float) -> None:
        """Sets the window to where it stands when the `share` (0 to 1) of its rise has passed."""
        octave = torch.arange(len(self.weights), device=self.weights.device)
        risen = (share * len(self.weights) - octave).clamp(0, 1)
        torch.maximum(self.weights, 0.5 * (1 - torch.cos(torch.pi * risen)), out=self.weights)
