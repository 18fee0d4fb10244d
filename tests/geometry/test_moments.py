"""Times and attributes of pseudo views: their distributions, and that they do not depend on their number."""

import pytest
import torch

from lumigraph.geometry.moments import sample_attributes, sample_times

CAPTURED = torch.tensor([0.2, 0.2, 0.25, 0.3, 0.8])


@pytest.mark.parametrize("times", ["fitted", "uniform", "frames"])
def test_times_are_repeatable_and_do_not_depend_on_their_number(times) -> None:
    few, many = sample_times(5, 7, CAPTURED, times), sample_times(50, 7, CAPTURED, times)
    assert torch.equal(few, many[:5])
    assert not torch.equal(few, sample_times(5, 8, CAPTURED, times))
    assert few.dtype == torch.float32


def test_times_have_their_distributions() -> None:
    even = sample_times(4000, 0, CAPTURED, "uniform")
    assert float(even.min()) >= 0
    assert float(even.max()) < 1
    assert float(even.mean()) == pytest.approx(0.5, abs=0.02)
    frames = sample_times(4000, 0, CAPTURED, "frames")
    assert set(frames.tolist()) == set(CAPTURED.tolist())
    assert float((frames == 0.2).float().mean()) == pytest.approx(0.4, abs=0.03)  # two of five photos
    fitted = sample_times(4000, 0, CAPTURED, "fitted")
    assert 0.2 <= float(fitted.min()) < float(fitted.max()) <= 0.8
    # Three gaps between four moments get a third each.
    assert float((fitted > 0.3).float().mean()) == pytest.approx(1 / 3, abs=0.03)
    alone = sample_times(3, 0, torch.full((4,), 0.5), "fitted")
    assert alone.tolist() == [0.5] * 3


def test_attributes_are_even_but_for_a_tenth() -> None:
    captured = torch.tensor([[0.5, -0.25], [float("nan"), 1.0], [-1.0, 0.125]])
    drawn = sample_attributes(5000, 3, captured)
    exact = (drawn[:, None] == captured[None, [0, 2]]).all(-1)
    assert float(exact.any(1).float().mean()) == pytest.approx(0.1, abs=0.02)
    assert float(exact[:, 0].float().mean()) == pytest.approx(0.05, abs=0.01)
    others = drawn[~exact.any(1)]
    torch.testing.assert_close(others.mean(0), torch.zeros(2), atol=0.03, rtol=0)
    torch.testing.assert_close(others.var(0), torch.full((2,), 1 / 3), atol=0.02, rtol=0)
    assert float(torch.corrcoef(others.T)[0, 1].abs()) < 0.04
    assert torch.equal(drawn[:7], sample_attributes(7, 3, captured))
    unknown = sample_attributes(50, 3, captured[1:2])
    assert bool(torch.isfinite(unknown).all())
