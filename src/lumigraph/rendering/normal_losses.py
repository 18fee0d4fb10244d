"""What given normals say of those along a ray: losses of the normals of its samples.

Weights w [B, K] are those of the K samples of B rays, normals n [B, K, 3] theirs, unit vectors; the normals n' [B, 3]
of photos are unit vectors in the same axes, NaN where unknown.
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
    """The sum over the rays of known normal of sum_i w_i l(n_i, n'), from which only the normals learn: weights would
    rather hide what looks elsewhere than turn it. l goes by `kind`:

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
