"""Warps: where the points of a moment come to lie in the template that all moments share (Nerfies, section 3;
HyperNeRF, section 4.1).

A warp sees the windowed encoding of a point and the code of a moment. `alpha` says how many octaves it sees. All begin
close to the identity.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lumigraph.fields.encodings import frequency_size, windowed_encoding
from lumigraph.fields.skip_mlp import SkipMLP
from lumigraph.geometry.rotations import screw_motion

_FIRST_MOTION = 1e-4


class Warp(nn.Module):
    """Base of warps: a network from point and code to the parameters of a motion."""

    parameters_of_motion: int

    def __init__(
        self, code_width: int, *, octaves: int = 6, depth: int = 6, width: int = 128, skip: int | None = 4
    ) -> None:
        super().__init__()
        self.octaves = octaves
        self.network = SkipMLP(
            frequency_size(3, octaves) + code_width,
            self.parameters_of_motion,
            depth=depth,
            width=width,
            skip=skip,
            last=_FIRST_MOTION,
        )

    def forward(
        self, points: Float[Tensor, "*s 3"], codes: Float[Tensor, "*#s C"], alpha: Float[Tensor, ""]
    ) -> Float[Tensor, "*s 3"]:
        """The points in the template."""
        encoded = windowed_encoding(points, self.octaves, alpha)
        codes = codes.expand(*points.shape[:-1], -1)
        return self._moved(points, self.network(torch.cat([encoded, codes], -1)))

    def _moved(self, points: Tensor, motion: Tensor) -> Tensor:
        raise NotImplementedError

    def reset(self) -> None:
        """Other first weights, which torch's random state decides."""
        self.network.reset()


class SE3Warp(Warp):
    """Each point is turned and pushed along the screw axis of a rigid motion of its own (Nerfies, equations 4 to 7)."""

    parameters_of_motion = 6

    def _moved(self, points: Tensor, motion: Tensor) -> Tensor:
        return screw_motion(motion[..., :3], motion[..., 3:], points)


class TranslationWarp(Warp):
    """Each point is pushed by a vector of its own."""

    parameters_of_motion = 3

    def _moved(self, points: Tensor, motion: Tensor) -> Tensor:
        return points + motion


WARPS: dict[str, type[Warp]] = {"se3": SE3Warp, "translation": TranslationWarp}
"""Warps by name; "none" is the absence of one."""


def warp_jacobians(
    warp: Warp, points: Float[Tensor, "*s 3"], codes: Float[Tensor, "*#s C"], alpha: Float[Tensor, ""]
) -> Float[Tensor, "*s 3 3"]:
    """How the warp stretches and turns space around points: the derivatives of the rows' coordinates by those of the
    columns. Differentiable by the warp's weights and the codes."""
    with torch.enable_grad():
        points = points.detach().requires_grad_()
        moved = warp(points, codes, alpha)
        rows = [torch.autograd.grad(moved[..., i].sum(), points, create_graph=True)[0] for i in range(3)]
    return torch.stack(rows, -2)
