"""Monocular depth brought to known depth: one scale and one shift per picture, found robustly.

A network that sees one picture knows depth m up to a scale a and a shift b, or the inverse of depth. Both follow from
pixels whose depth z is known, by a sensor or from key points: a m + b = z, or a m + b = 1 / z. A random sample
consensus of pairs of pixels finds what most of them agree on; Huber's estimator refines it on those.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from lumigraph.errors import LumigraphError

_SCORED = 4096
"""Pixels that judge a trial."""
_HUBER = 1.345
"""Standard deviations beyond which Huber's loss is linear: 95 % efficient for Gaussian residuals."""
_MAD = 1.4826
"""Median absolute deviation to standard deviation, for a Gaussian."""
_ROUNDS = 30

Values = Float[np.ndarray, " n"]


@dataclass(frozen=True)
class ScaleShift:
    """`scale` and `shift` of a picture; `inverse` says whether they give the inverse of depth. `residual` is the robust
    standard deviation of the depths they give, in units of depth; `inliers` the part of the pixels that agree."""

    scale: float
    shift: float
    inverse: bool
    residual: float
    inliers: float

    def __call__(self, monocular: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """Depth; NaN where none in front of the camera comes of it."""
        fitted = self.scale * monocular + self.shift
        with np.errstate(divide="ignore", invalid="ignore"):
            depth = 1 / fitted if self.inverse else fitted
        return np.where(np.isfinite(depth) & (fitted > 0), depth, np.nan).astype(monocular.dtype)


def fit_scale_shift(
    monocular: Values,
    depth: Values,
    weights: Values | None = None,
    *,
    inverse: bool = False,
    seed: int = 0,
    trials: int = 1000,
    tolerance: float = 0.05,
) -> ScaleShift:
    """The scale and shift under which `monocular` agrees with the known `depth`: minimises
    sum_i q_i rho(a m_i + b - z_i), 1 / z_i where `inverse`, over the pixels that agree within `tolerance` of it.

    Args:
        monocular: what the network says, at pixels of known depth.
        depth: the known depth, positive.
        weights: the trust q in each; by default alike.
        trials: pairs of pixels that are tried, drawn with `seed`.

    Raises:
        LumigraphError: fewer than two different pixels are known, or no scale above zero makes a tenth of them agree.
    """
    weights = np.ones_like(depth) if weights is None else weights
    good = np.isfinite(monocular) & np.isfinite(depth) & (depth > 0) & (weights > 0)
    m, z, q = (values[good].astype(np.float64) for values in (monocular, depth, weights))
    if len(m) < 2 or float(np.ptp(m)) == 0:
        raise LumigraphError(
            f"monocular depth cannot be aligned: {len(m)} pixels of known depth, which must differ",
            todo="Give more known depth: a sensor's maps, or key points of another model",
        )
    target = 1 / z if inverse else z
    scale, shift = _consensus(m, target, q, seed, trials, tolerance)
    agree = np.abs(scale * m + shift - target) <= tolerance * target
    share = float(q[agree].sum() / q.sum())
    if share < 0.1 or int(agree.sum()) < 2:
        raise LumigraphError(
            f"monocular depth cannot be aligned: no scale and shift fits more than {share:.0%} of the known depths",
            todo="Check whether it is depth or inverse depth (--mono-inverse), and that it belongs to this picture",
        )
    scale, shift = _refine(m[agree], target[agree], q[agree], scale, shift)
    fit = ScaleShift(scale, shift, inverse, 0.0, share)
    error = np.abs(fit(m) - z)
    residual = (
        _MAD * float(np.median(error[np.isfinite(error)])) if np.isfinite(error).any() else float("inf")
    )
    return ScaleShift(scale, shift, inverse, residual, share)


def keypoint_weights(errors: Values) -> Values:
    """The trust in key points by their reprojection errors e in pixels: 2 exp(-(e / mean e)^2) (DS-NeRF's code)."""
    mean = float(errors.mean()) if len(errors) else 0.0
    return 2 * np.exp(-np.square(errors / mean)) if mean > 0 else np.full_like(errors, 2.0)


def _consensus(
    m: Values, target: Values, q: Values, seed: int, trials: int, tolerance: float
) -> tuple[float, float]:
    """The line through two pixels with which the most weight of pixels agrees; a line that falls is none."""
    generator = np.random.Generator(np.random.Philox(key=seed))
    first, second = generator.integers(0, len(m), (2, trials))
    run = m[second] - m[first]
    with np.errstate(divide="ignore", invalid="ignore"):
        scales = (target[second] - target[first]) / run
    scales, first = scales[np.isfinite(scales) & (scales > 0)], first[np.isfinite(scales) & (scales > 0)]
    if not len(scales):
        return 1.0, float(np.median(target - m))
    shifts = target[first] - scales * m[first]
    judges = _judges(len(m), generator)
    m, target, q = m[judges], target[judges], q[judges]
    scores = [
        float(q[np.abs(scale * m + shift - target) <= tolerance * target].sum())
        for scale, shift in zip(scales, shifts, strict=True)
    ]
    best = int(np.argmax(scores))
    return float(scales[best]), float(shifts[best])


def _judges(count: int, generator: np.random.Generator) -> Int[np.ndarray, " k"]:
    return np.arange(count) if count <= _SCORED else generator.choice(count, _SCORED, replace=False)


def _refine(m: Values, target: Values, q: Values, scale: float, shift: float) -> tuple[float, float]:
    """Iteratively reweighted least squares with Huber's weights, from a first guess."""
    for _ in range(_ROUNDS):
        residual = np.abs(scale * m + shift - target)
        limit = _HUBER * _MAD * float(np.median(residual))
        if limit == 0:  # half of the pixels fit exactly
            break
        w = q * np.minimum(1.0, limit / np.maximum(residual, limit))
        solved = _least_squares(m, target, w)
        if solved is None:
            break
        change = abs(solved[0] - scale) * float(np.ptp(m)) + abs(solved[1] - shift)
        scale, shift = solved
        if change <= 1e-10 * float(np.median(target)):
            break
    return scale, shift


def _least_squares(m: Values, target: Values, w: Values) -> tuple[float, float] | None:
    """Scale and shift of weighted least squares; None where all m are alike or the line would fall."""
    total = w.sum()
    mean_m, mean_t = (w * m).sum() / total, (w * target).sum() / total
    spread = (w * (m - mean_m) ** 2).sum()
    if not spread > 0:
        return None
    scale = float((w * (m - mean_m) * (target - mean_t)).sum() / spread)
    return (scale, float(mean_t - scale * mean_m)) if scale > 0 else None


def composite_depth(
    sensor: Float[np.ndarray, "h w"], monocular: Float[np.ndarray, "h w"]
) -> tuple[Float[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
    """The sensor's depth where it is known, aligned monocular depth elsewhere; and where that is."""
    filled = ~np.isfinite(sensor)
    return np.where(filled, monocular, sensor).astype(np.float32), filled
