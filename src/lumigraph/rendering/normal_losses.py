"""Losses of the normals of the samples of a ray: what those of photos, those that a field predicts and the camera say
of them.

Weights w [B, K] are those of the K samples of B rays, normals n [B, K, 3] theirs, unit vectors, or zeros where a sample
hardly shows. Normals of photos [B, 3] are unit vectors in the same axes, NaN where unknown.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from lumigraph.configs.mipnerf360 import NormalLoss


def normal_loss(
    kind: NormalLoss,
    weights: Float[Tensor, "B K"],
    normals: Float[Tensor, "B K 3"],
    given: Float[Tensor, "B 3"],
) -> Float[Tensor, ""]:
    """The sum over the rays of known normal n' of sum_i w_i l(n_i, n'), from which only the normals learn: weights
    would rather hide what looks elsewhere than turn it. l goes by `kind`:

        cosine: 1 - n . n', which is half the square of the chord between them
        chord:  |n - n'|
        l1:     the sum of the absolute differences of the three coordinates

    Cosine and l1 are the two parts of the loss that is customary for normals from networks (Yu et al. 2022, MonoSDF,
    equation 13; there of the normal that the ray shows)."""
    known = torch.isfinite(given).all(1)
    weights, normals, given = weights[known], normals[known], given[known][:, None]
    if kind == "cosine":
        apart = 1 - (normals * given).sum(-1)
    elif kind == "chord":
        # The square root has no slope at 0.
        apart = (normals - given).square().sum(-1).clamp(min=1e-12).sqrt()
    else:
        apart = (normals - given).abs().sum(-1)
    return (weights.detach() * apart).sum()


def predicted_normals_loss(
    weights: Float[Tensor, "B K"], normals: Float[Tensor, "B K 3"], predicted: Float[Tensor, "B K 3"]
) -> Float[Tensor, ""]:
    """The mean over rays of sum_i w_i |n_i - n'_i|^2 (Ref-NeRF, equation 10), n' those that a field predicts. Samples
    without a normal n do not count."""
    apart = (normals - predicted).square().sum(-1) * normals.detach().any(-1)
    return (weights * apart).sum(1).mean()


def orientation_loss(
    weights: Float[Tensor, "B K"], normals: Float[Tensor, "B K 3"], view_directions: Float[Tensor, "B 3"]
) -> Float[Tensor, ""]:
    """Visible normals that look away from the camera: the mean over rays of sum_i w_i max(0, n_i . d)^2 (Ref-NeRF,
    equation 11), from which weights do not learn."""
    away = (normals * view_directions[:, None]).sum(-1)
    return (weights.detach() * away.clamp(min=0).square()).sum(1).mean()
