"""What keeps warps and slicing surfaces from explaining anything by anything (Nerfies, sections 3.2 to 3.4; HyperNeRF's
code).

Robust losses are those of Barron (2019) with HyperNeRF's factor: the scale multiplies the loss, so that it is a length
for residuals that are.
"""

from collections.abc import Callable

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


def elastic_energy(jacobians: Float[Tensor, "*s 3 3"], kind: str = "log_svals") -> Float[Tensor, "*s"]:
    """How far a warp is from a rigid motion around points, by its Jacobian and one of `ELASTIC_RESIDUALS`, robustly
    (Nerfies, equation 10). 0 for turns and shifts, but for "div" for shifts alone."""
    return geman_mcclure(ELASTIC_RESIDUALS[kind](jacobians), ELASTIC_SCALE)


def _log_stretches(jacobians: Tensor) -> Tensor:
    """Of the singular values s (Nerfies, equation 9): the same for s and 1 / s."""
    return torch.linalg.svdvals(jacobians).clamp(min=_LEAST_STRETCH).log().square().sum(-1)


def _stretches(jacobians: Tensor) -> Tensor:
    return (torch.linalg.svdvals(jacobians) - 1).square().sum(-1)


def _metric(jacobians: Tensor) -> Tensor:
    """Of J J^T, which is the unit matrix for rotations and reflections; a quarter, so that it begins like `svals`."""
    unit = torch.eye(3, dtype=jacobians.dtype, device=jacobians.device)
    return (jacobians @ jacobians.transpose(-1, -2) - unit).square().sum((-2, -1)) / 4


def _divergence(jacobians: Tensor) -> Tensor:
    return (jacobians.diagonal(dim1=-2, dim2=-1).sum(-1) - 3).square()


def _volume(jacobians: Tensor) -> Tensor:
    return (torch.linalg.det(jacobians) - 1).square()


def _log_volume(jacobians: Tensor) -> Tensor:
    return torch.linalg.det(jacobians).clamp(min=_LEAST_STRETCH).log().square()


def _from_rotation(jacobians: Tensor) -> Tensor:
    """The squared distance to the nearest rotation. That it is the nearest makes its own derivative count for nothing,
    and that of the singular vectors, which has poles where two values are alike, is not needed."""
    left, _, right = torch.linalg.svd(jacobians.detach())
    # The least of the three directions is turned round where the nearest orthogonal matrix is a reflection.
    left = torch.cat([left[..., :2], left[..., 2:] * torch.linalg.det(left @ right)[..., None, None]], -1)
    return (jacobians - left @ right).square().sum((-2, -1))


ELASTIC_RESIDUALS: dict[str, Callable[[Tensor], Tensor]] = {
    "log_svals": _log_stretches,
    "svals": _stretches,
    "jtj": _metric,
    "div": _divergence,
    "det": _volume,
    "log_det": _log_volume,
    "nearest_rotation": _from_rotation,
}
"""Squared residuals of Jacobians [*s, 3, 3] (HyperNeRF's code, `elastic_loss_type`)."""


def ambient_energy(ambient: Float[Tensor, "*s W"]) -> Float[Tensor, "*s"]:
    """How far points lie from 0 in the ambient coordinates (HyperNeRF's regulariser of the slicing surface)."""
    return cauchy(ambient.square().sum(-1), AMBIENT_SCALE)
