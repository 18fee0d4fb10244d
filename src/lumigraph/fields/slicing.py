"""Slicing surfaces: at which ambient coordinates a moment cuts the template (HyperNeRF, section 4.2).

The template is a field over space and W ambient coordinates. Where the topology of the scene changes, moments differ in
these coordinates instead of being torn by the warp. Points are those of the moment, before the warp.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lumigraph.fields.encodings import frequency_encoding, frequency_size, windowed_encoding
from lumigraph.fields.skip_mlp import SkipMLP

_FIRST_HEIGHT = 1e-5


class BendySheet(nn.Module):
    """Ambient coordinates by point and code, or by whatever else `inputs` numbers a sheet is driven by; close to zero
    at first."""

    def __init__(
        self,
        inputs: int,
        dims: int = 2,
        *,
        octaves: int = 6,
        depth: int = 6,
        width: int = 64,
        skip: int | None = 4,
    ) -> None:
        super().__init__()
        self.dims = dims
        self.octaves = octaves
        self.network = SkipMLP(
            frequency_size(3, octaves, identity=False) + inputs,
            dims,
            depth=depth,
            width=width,
            skip=skip,
            last=_FIRST_HEIGHT,
            last_spread="normal",
        )

    def forward(
        self, points: Float[Tensor, "*s 3"], drivers: Float[Tensor, "*#s I"]
    ) -> Float[Tensor, "*s W"]:
        """`drivers`: the code of the moment, or the value of an attribute."""
        encoded = frequency_encoding(points, self.octaves, identity=False)
        return self.network(torch.cat([encoded, drivers.expand(*points.shape[:-1], -1)], -1))

    def reset(self) -> None:
        """Other first weights, which torch's random state decides."""
        self.network.reset()


def ambient_size(dims: int, octaves: int) -> int:
    """Numbers of `ambient_encoding`."""
    return frequency_size(dims, octaves, identity=False)


def ambient_encoding(
    ambient: Float[Tensor, "*s W"], octaves: int, beta: Float[Tensor, ""]
) -> Float[Tensor, "*s E"]:
    """Ambient coordinates as the template sees them: windowed, without the coordinates themselves, so that at `beta` 0
    nothing of them is seen."""
    return windowed_encoding(ambient, octaves, beta, identity=False)
