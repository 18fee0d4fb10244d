"""Codes of moments: a few numbers learnt for each time at which a moving scene was photographed ("generative latent
optimisation", Bojanowski et al. 2018; Nerfies, section 3.1).

Photos of one moment share its code. Between two moments the code is the linear blend of theirs, or the nearer one;
before the first and after the last it is the first and the last.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

TimeCodeChoice = Literal["linear", "nearest"]
"""What stands for a time between two moments: the blend of their codes, or that of the nearer one."""
_REACH = 0.05


class TimeCodes(nn.Module):
    """One code of `width` numbers for each distinct time of the training cameras; evenly spread over [0, 0.05) at
    first."""

    times: Float[Tensor, " T"]

    def __init__(self, times: Float[Tensor, " N"], width: int, choice: TimeCodeChoice = "linear") -> None:
        super().__init__()
        self.choice: TimeCodeChoice = choice
        moments = times.unique()
        self.table = nn.Parameter(torch.empty(len(moments), width))
        # Follows from the scene, which a run keeps.
        self.register_buffer("times", moments, persistent=False)
        self.reset()

    def forward(self, times: Float[Tensor, "*s"]) -> Float[Tensor, "*s width"]:
        """The codes of these times, exactly those learnt where they are moments of the capture; with gradients."""
        after = torch.searchsorted(self.times, times.contiguous()).clamp(max=len(self.times) - 1)
        before = (after - 1).clamp(min=0)
        first, last = self.times[before], self.times[after]
        alone = after == before
        share = ((times - first) / torch.where(alone, 1, last - first)).clamp(0, 1)
        share = torch.where(alone, 1.0, share)
        if self.choice == "nearest":
            share = (share > 0.5).to(share.dtype)
        return torch.lerp(self.table[before], self.table[after], share[..., None])

    def of_moments(self, numbers: Int[Tensor, "*s"]) -> Float[Tensor, "*s width"]:
        """The codes of moments by their number in the order of time."""
        return self.table[numbers]

    def reset(self) -> None:
        """Other first codes, which torch's random state decides."""
        nn.init.uniform_(self.table, 0, _REACH)
