"""Scale and shift of monocular depth: exact where data is, robust where it is not."""

import numpy as np
import pytest

from lumigraph.errors import LumigraphError
from lumigraph.geometry.depth_alignment import (
    ScaleShift,
    composite_depth,
    fit_scale_shift,
    keypoint_weights,
)


def scene(count: int = 5000, seed: int = 0) -> tuple[np.ndarray, np.random.Generator]:
    generator = np.random.default_rng(seed)
    return generator.uniform(1, 5, count), generator


@pytest.mark.parametrize("inverse", [False, True])
def test_exact_data_is_met_exactly(inverse: bool) -> None:
    depth, _ = scene(200)
    monocular = ((1 / depth if inverse else depth) - 0.3) / 2.5
    fit = fit_scale_shift(monocular, depth, inverse=inverse)
    assert (fit.scale, fit.shift) == pytest.approx((2.5, 0.3), rel=1e-9)
    assert fit.residual == pytest.approx(0, abs=1e-9)
    assert fit.inliers == 1
    np.testing.assert_allclose(fit(monocular), depth, rtol=1e-9)


@pytest.mark.parametrize("inverse", [False, True])
def test_gross_errors_and_unknown_pixels_do_not_matter(inverse: bool) -> None:
    depth, generator = scene()
    monocular = ((1 / depth if inverse else depth) + 0.4) / 1.7
    known = depth * (1 + 0.01 * generator.standard_normal(len(depth)))
    wrong = generator.random(len(depth)) < 0.4
    known[wrong] = generator.uniform(0.5, 9, int(wrong.sum()))
    known[::50] = np.nan
    monocular[7] = np.inf
    fit = fit_scale_shift(monocular, known, inverse=inverse)
    assert (fit.scale, fit.shift) == pytest.approx((1.7, -0.4), abs=0.03)
    assert 0.5 < fit.inliers < 0.75
    # Least squares, as the published code does it, is far off.
    good = np.isfinite(known) & np.isfinite(monocular)
    plain = np.polyfit(monocular[good], 1 / known[good] if inverse else known[good], 1)
    assert abs(plain[0] - 1.7) > 0.3


def test_a_trusted_few_outvote_many() -> None:
    depth, _ = scene(300)
    monocular = depth.copy()
    depth[:200] = 3 * depth[:200] + 1
    weights = np.where(np.arange(300) < 200, 0.01, 1.0)
    assert fit_scale_shift(monocular, depth, weights).scale == pytest.approx(1, abs=1e-6)
    assert fit_scale_shift(monocular, depth).scale == pytest.approx(3, abs=1e-6)


def test_the_residual_is_the_noise() -> None:
    depth, generator = scene()
    fit = fit_scale_shift(depth / 2, depth + 0.02 * generator.standard_normal(len(depth)))
    assert fit.residual == pytest.approx(0.02, rel=0.1)


def test_the_same_seed_gives_the_same_fit() -> None:
    depth, generator = scene(6000)
    noisy = depth + 0.1 * generator.standard_normal(len(depth))
    assert fit_scale_shift(depth, noisy) == fit_scale_shift(depth, noisy)


def test_what_cannot_be_aligned_is_told() -> None:
    depth, generator = scene(500)
    with pytest.raises(LumigraphError, match="0 pixels"):
        fit_scale_shift(depth, np.full(500, np.nan))
    with pytest.raises(LumigraphError, match="must differ"):
        fit_scale_shift(np.ones(500), depth)
    with pytest.raises(LumigraphError, match="no scale and shift"):
        fit_scale_shift(1 / depth * 1e6, 10 ** generator.uniform(-5, 5, 500))


def test_depth_behind_the_camera_is_unknown() -> None:
    fit = ScaleShift(1.0, -2.0, True, 0.0, 1.0)
    assert np.isnan(fit(np.array([1.0, 2.0]))).all()
    assert fit(np.array([4.0]))[0] == pytest.approx(0.5)


def test_weights_of_keypoints() -> None:
    weights = keypoint_weights(np.array([0.0, 1.0, 2.0]))
    np.testing.assert_allclose(weights, 2 * np.exp([-0.0, -1.0, -4.0]))
    assert keypoint_weights(np.zeros(2)).tolist() == [2.0, 2.0]
    assert len(keypoint_weights(np.zeros(0))) == 0


def test_a_composite_prefers_the_sensor() -> None:
    sensor = np.array([[1.0, np.nan]], np.float32)
    depth, filled = composite_depth(sensor, np.array([[5.0, 6.0]], np.float32))
    assert depth.tolist() == [[1.0, 6.0]]
    assert filled.tolist() == [[False, True]]
