"""How well a renderer tells which pixels an attribute moves."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lumigraph.errors import LumigraphError


@dataclass(frozen=True)
class MaskError:
    """Of one attribute, over the pixels of a view that are annotated for it. `mean_absolute_error`: of the share of the
    pixel that it moves. `iou`: intersection over union of the pixels of which it moves more than half, None where
    these are none, in truth and rendering."""

    mean_absolute_error: float
    iou: float | None

    def to_json(self) -> dict[str, float | None]:
        return {"iou": self.iou, "mean_absolute_error": self.mean_absolute_error}


def mask_errors(
    found: Float[Tensor, "H W A"], truth: Float[Tensor, "H W A"], names: Sequence[str]
) -> dict[str, MaskError]:
    """The errors by the name of the attribute, of those that are annotated (not NaN) in any pixel.

    Raises:
        LumigraphError: there are not as many masks as names in both.
    """
    if not found.shape[-1] == truth.shape[-1] == len(names):
        raise LumigraphError(
            f"the renderer has masks of {found.shape[-1]} attributes, the scene of {truth.shape[-1]}",
            todo="Evaluate on a scene with the attributes that it was trained on",
        )
    errors = {}
    for name, mine, true in zip(names, found.double().unbind(-1), truth.double().unbind(-1), strict=True):
        known = torch.isfinite(true)
        if bool(known.any()):
            errors[name] = _error_of(mine[known], true[known])
    return errors


def _error_of(mine: Tensor, true: Tensor) -> MaskError:
    inside, wanted = mine > 0.5, true > 0.5
    union = int((inside | wanted).sum())
    return MaskError(
        mean_absolute_error=float((mine - true).abs().mean()),
        iou=int((inside & wanted).sum()) / union if union else None,
    )


def mean_mask_errors(views: Sequence[dict[str, MaskError]]) -> dict[str, MaskError]:
    """The means over the views that have them, by the name of the attribute."""
    names = {name: None for view in views for name in view}
    means = {}
    for name in names:
        errors = [view[name] for view in views if name in view]
        known = [error.iou for error in errors if error.iou is not None]
        means[name] = MaskError(
            mean_absolute_error=float(np.mean([error.mean_absolute_error for error in errors])),
            iou=float(np.mean(known)) if known else None,
        )
    return means
