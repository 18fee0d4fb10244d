"""What is learnt of the share of a pixel that each attribute moves, where photos or a teacher say it."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

_UNSURE = 1e-3
"""How near to 0 and 1 the shares come that are compared."""


def mask_cross_entropy(
    masks: Float[Tensor, "B A"], wanted: Float[Tensor, "B A"], known: Bool[Tensor, " B"] | None = None
) -> Float[Tensor, ""]:
    """The mean cross entropy of shares with those that are wanted, over what is told (not NaN) of the rays that are
    `known`; 0 where nothing is."""
    told = torch.isfinite(wanted)
    if known is not None:
        told &= known[:, None]
    # A sum that rounds to 0 or 1 where the other is wanted would have a gradient beyond all others. Not a clamp, which
    # would leave it none.
    sure = _UNSURE + (1 - 2 * _UNSURE) * masks
    entropy = nn.functional.binary_cross_entropy(sure, wanted.nan_to_num(0.0), reduction="none")
    return torch.where(told, entropy, 0).sum() / told.sum().clamp(min=1)
