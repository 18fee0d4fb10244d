"""What an evaluation found: the figures of each view, and their means over all views, over those of a scale, and over
those of a part of the capture's time."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lumigraph.evaluation.attribute_masks import MaskError, mean_mask_errors
from lumigraph.evaluation.metrics import DEFINITIONS, average_error, psnr_of

TIME_PARTS = 10
"""Parts of the capture's time whose views are told apart."""


@dataclass(frozen=True)
class DepthError:
    """Of one view, over the pixels whose depth is known, in units of the capture: the mean and the median of the
    absolute error, the root of its mean square, and the number of pixels."""

    mean: float
    median: float
    rms: float
    pixels: int

    def to_json(self) -> dict[str, float]:
        return {"mean": self.mean, "median": self.median, "rms": self.rms, "pixels": self.pixels}


@dataclass(frozen=True)
class ViewResult:
    """One view. `ssim`, `ms_ssim` and `lpips` are None where they could not be computed; `mse` is the mean squared
    error. `ms_ssim_scales` is how many scales were used for MS-SSIM. `scale` is the picture's side as a part of the
    finest of its view, where views are of several scales. `time` is the moment that a view of a moving scene shows.
    `attribute_masks` are by the names of the attributes."""

    name: str
    psnr: float
    ssim: float | None
    lpips: float | None
    seconds: float
    mse: float
    scale: float | None = None
    depth: DepthError | None = None
    ms_ssim: float | None = None
    ms_ssim_scales: int = 0
    time: float | None = None
    attribute_masks: dict[str, MaskError] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        masks = {name: error.to_json() for name, error in self.attribute_masks.items()}
        return {
            "name": self.name,
            **({} if self.time is None else {"time": self.time}),
            "psnr": self.psnr,
            "ssim": self.ssim,
            "ms_ssim": self.ms_ssim,
            "lpips": self.lpips,
            "seconds": self.seconds,
            "depth_error": None if self.depth is None else self.depth.to_json(),
            **({"attribute_masks": masks} if masks else {}),
        }


@dataclass(frozen=True)
class EvalResult:
    """All views of a split; the means are over the views that have the figure."""

    per_view: list[ViewResult]
    lpips_reason: str | None = None
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def psnr(self) -> float:
        """Mean of the views' PSNR, dB."""
        return float(np.mean([view.psnr for view in self.per_view]))

    @property
    def psnr_pooled(self) -> float:
        """PSNR of the mean squared error over all views, dB."""
        return psnr_of(float(np.mean([view.mse for view in self.per_view])))

    @property
    def ssim(self) -> float | None:
        return _mean([view.ssim for view in self.per_view])

    @property
    def ms_ssim(self) -> float | None:
        return _mean([view.ms_ssim for view in self.per_view])

    @property
    def lpips(self) -> float | None:
        return _mean([view.lpips for view in self.per_view])

    @property
    def depth(self) -> dict[str, Any] | None:
        """Means over the views of the errors of their expected depth; None where no view has known depth, or the
        renderer none."""
        known = [view.depth for view in self.per_view if view.depth is not None]
        if not known:
            return None
        means = {
            name: float(np.mean([getattr(error, name) for error in known]))
            for name in ("mean", "median", "rms")
        }
        return {"statistic": "expected", **means, "views": len(known)}

    @property
    def seconds_per_view(self) -> float:
        return float(np.mean([view.seconds for view in self.per_view]))

    @property
    def scales(self) -> dict[float, "EvalResult"]:
        """The views of each scale, the finest first; empty where there is but one."""
        found = sorted({view.scale for view in self.per_view if view.scale is not None}, reverse=True)
        if len(found) < 2:
            return {}
        return {
            scale: EvalResult([replace(view, scale=None) for view in self.per_view if view.scale == scale])
            for scale in found
        }

    @property
    def by_time(self) -> dict[tuple[float, float], "EvalResult"]:
        """The views of each tenth of the capture's time, by its first and last moment; tenths without views are left
        out. Empty where the views show no time, or one moment only."""
        if len({view.time for view in self.per_view}) < 2:
            return {}
        parts: dict[int, list[ViewResult]] = {}
        for view in sorted(self.per_view, key=lambda view: view.time or 0.0):
            part = min(int((view.time or 0.0) * TIME_PARTS), TIME_PARTS - 1)
            parts.setdefault(part, []).append(view)
        return {
            (part / TIME_PARTS, (part + 1) / TIME_PARTS): EvalResult(views) for part, views in parts.items()
        }

    @property
    def attribute_masks(self) -> dict[str, MaskError]:
        """Means over the views that are annotated, by the name of the attribute; empty where none is, or the renderer
        tells no masks."""
        return mean_mask_errors([view.attribute_masks for view in self.per_view])

    def average_error(self, *, lpips: bool) -> float | None:
        """Mip-NeRF's average error, with LPIPS or without (see DEFINITIONS); None where a figure is missing."""
        if scales := self.scales:
            errors = [part.average_error(lpips=lpips) for part in scales.values()]
            known = [error for error in errors if error is not None]
            return float(np.mean(known)) if len(known) == len(errors) else None
        if self.ssim is None or (lpips and self.lpips is None):
            return None
        return average_error(self.psnr, self.ssim, self.lpips if lpips else None)

    def figures(self) -> dict[str, Any]:
        """The means alone."""
        return {
            "views": len(self.per_view),
            "psnr": self.psnr,
            "ssim": self.ssim,
            "ms_ssim": self.ms_ssim,
            "lpips": self.lpips,
            "average_error": self.average_error(lpips=True),
            "average_error_without_lpips": self.average_error(lpips=False),
            "seconds_per_view": self.seconds_per_view,
        }

    def to_json(self) -> dict[str, Any]:
        """Figures, definitions, and what `about` says of their origin."""
        return {
            **self.figures(),
            "lpips_reason": self.lpips_reason,
            "ms_ssim_scales": sorted({view.ms_ssim_scales for view in self.per_view} - {0}),
            "psnr_pooled": self.psnr_pooled,
            "scales": [{"scale": scale, **part.figures()} for scale, part in self.scales.items()],
            "by_time": [
                {"from": first, "to": last, **part.figures()} for (first, last), part in self.by_time.items()
            ],
            "attribute_masks": {name: error.to_json() for name, error in self.attribute_masks.items()},
            "depth_error": self.depth,
            **self.about,
            "definitions": DEFINITIONS,
            "per_view": [view.to_json() for view in self.per_view],
        }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
