"""What keeps warps and slicing surfaces from explaining anything by anything (Nerfies, sections 3.2 to 3.4; HyperNeRF's
code).

Robust losses are those of Barron (2019) with HyperNeRF's factor: the scale multiplies the loss, so that it is a length
for residuals that are.
"""

import torch
from jaxtyping import Float
from torch import Tensor

DISPLACEMENT_SCALE, ELASTIC_SCALE, AMBIENT_SCALE = 1e-3, 0.03, 0.05
"""Published scales: residuals much larger count alike (Geman and McClure), or only by their logarithm (Cauchy)."""
_LEAST_STRETCH = 1e-6


def geman_mcclure(squared: Float[Tensor, "*s"], scale: float) -> Float[Tensor, "*s"]:
    """scale 2 z / (z + 4), z the squared residual over scale^2 (shape -2 of Barron's family): at most 2 scale."""
    z = squared / scale**2
    return scale * 2 * z / (z + 4)


def cauchy(squared: Float[Tensor, "*s"], scale: float) -> Float[Tensor, "*s"]:
    """scale log(1 + z / 2), z the squared residual over scale^2 (shape 0 of Barron's family)."""
    return scale * torch.log1p(0.5 * squared / scale**2)


def displacement_energy(moved: Float[Tensor, "*s 3"], points: Float[Tensor, "*s 3"]) -> Float[Tensor, "*s"]:
    """How far a warp moves points that had better stay, robustly: points of the background, which are known to stand
    still (HyperNeRF's background loss), or those that rays see (its warp regulariser)."""
    return geman_mcclure((moved - points).square().sum(-1), DISPLACEMENT_SCALE)


def elastic_energy(jacobians: Float[Tensor, "*s 3 3"]) -> Float[Tensor, "*s"]:
    """How far a warp is from a rigid motion around points: the sum of squared logarithms of the singular values of its
    Jacobian (Nerfies, equation 9), robustly (equation 10). 0 for turns and shifts, and the same for s and 1 / s."""
    stretches = torch.linalg.svdvals(jacobians).clamp(min=_LEAST_STRETCH)
    return geman_mcclure(stretches.log().square().sum(-1), ELASTIC_SCALE)


def ambient_energy(ambient: Float[Tensor, "*s W"]) -> Float[Tensor, "*s"]:
    """How far points lie from 0 in the ambient coordinates (HyperNeRF's regulariser of the slicing surface)."""
    return cauchy(ambient.square().sum(-1), AMBIENT_SCALE)
