"""Random times and attributes at which a teacher is asked for pseudo views of a scene that changes.

Each function is pure, and draw k does not depend on how many are asked for, so more can be asked for later.
"""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Times = Literal["fitted", "uniform", "frames"]
"""fitted: between neighbouring moments of the capture, so as dense as these; uniform: evenly over [0, 1), as DyLiN asks
D-NeRF; frames: at the moments of the training photos, as DyLiN asks HyperNeRF, whose codes belong to those."""
EXACT_SHARE = 0.1
"""Part of the views that have the attributes of a training photo, not random ones."""
_TIMES, _ATTRIBUTES = 1, 2
"""Streams of random numbers, apart from each other and from those of the poses."""


def sample_times(n: int, seed: int, captured: Float[Tensor, " N"], times: Times) -> Float[Tensor, " n"]:
    """`n` times in [0, 1], drawn as `times` says from those of the training photos."""
    draws = _generator(seed, _TIMES).random(n)
    if times == "uniform":
        return torch.from_numpy(draws).to(captured)
    moments = captured.double().cpu().numpy()
    if times == "frames":
        return torch.from_numpy(moments[(draws * len(moments)).astype(np.int64)]).to(captured)
    moments = np.unique(moments)
    found = np.interp(draws * (len(moments) - 1), np.arange(len(moments)), moments)
    return torch.from_numpy(found).to(captured)


def sample_attributes(n: int, seed: int, captured: Float[Tensor, "N A"]) -> Float[Tensor, "n A"]:
    """`n` rows of values: each value evenly over [-1, 1], but for one row in ten, which is that of a training photo of
    which all values are known."""
    count = captured.shape[1]
    draws = torch.from_numpy(_generator(seed, _ATTRIBUTES).random((n, count + 2)))
    values = (2 * draws[:, :count] - 1).to(captured)
    known = captured[torch.isfinite(captured).all(1)]
    if not len(known):
        return values
    row = (draws[:, count] * len(known)).long().to(known.device)
    exact = (draws[:, count + 1] < EXACT_SHARE).to(known.device)
    return torch.where(exact[:, None], known[row], values)


def _generator(seed: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array([seed, stream], dtype=np.uint64)))
