"""What colours along rays are compared with in a training step, a few rays at a time."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import huber_loss

from lumigraph.rendering.background import Background, over, training_target
from lumigraph.rendering.renderer import Batch

_HUBER = 0.1


def ray_shares(batch: Batch, power: float) -> Float[Tensor, " B"]:
    """What each ray counts in a mean over the batch: its weight to this power, over their sum; all count alike where
    there are no weights. With power 1 and areas of pixels as weights this is the mean of Mip-NeRF, section 3.1."""
    alike = torch.ones_like(batch.rgba[:, 0])
    weight = alike if batch.weight is None else batch.weight**power
    return weight / weight.sum()


class ColourTarget:
    """The colours of a batch [B] on the background of its step, and how far others are from them.

    `squared_error` [B]: mean over the colour channels, of the rays that `final_error` was asked for.
    """

    def __init__(
        self,
        batch: Batch,
        background: Background,
        *,
        seed: int,
        step: int,
        loss: Literal["mse", "huber"] = "mse",
    ) -> None:
        self.loss = loss
        self._rgb, behind = training_target(batch.rgba, background, seed=seed, step=step)
        self._background = behind.expand_as(self._rgb)
        self.squared_error = torch.empty_like(self._rgb[:, 0])

    def error(
        self, rgb: Float[Tensor, "b 3"], opacity: Float[Tensor, " b"], part: slice
    ) -> Float[Tensor, ""]:
        """The share that the rays `part` of the batch have in its loss, the mean over all rays and colours; of
        premultiplied `rgb` and `opacity`. Huber's loss is linear beyond 0.1."""
        shown, target = over(rgb, opacity, self._background[part]), self._rgb[part]
        if self.loss == "huber":
            # Twice, so that small errors count as in the squared error.
            errors = 2 * huber_loss(shown, target, delta=_HUBER, reduction="none")
        else:
            errors = (shown - target).square()
        return errors.mean(1).sum() / len(self._rgb)

    def final_error(
        self, rgb: Float[Tensor, "b 3"], opacity: Float[Tensor, " b"], part: slice
    ) -> Float[Tensor, ""]:
        """`error` of the colours that pictures will have; `squared_error` of the rays `part` is filled in."""
        shown = over(rgb.detach(), opacity.detach(), self._background[part])
        self.squared_error[part] = (shown - self._rgb[part]).square().mean(1)
        return self.error(rgb, opacity, part)
