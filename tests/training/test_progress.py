"""What is printed while work goes on."""

import io

import pytest

from lumigraph.training import progress
from lumigraph.training.progress import Status, counting


def status(**more) -> Status:
    known = {
        "step": 1200, "last_step": 2000, "rays_per_second": 5e4, "train_psnr": 24.0, "val_psnr": 23.5,
        "seconds": 12.0, "seconds_left": 8.0,
    }  # fmt: skip
    return Status(**{**known, **more})


def test_a_measurement_says_at_which_step_it_was_made() -> None:
    assert "val 23.50 dB at step 900 ·" in status(val_step=900).line()
    assert "photos 23.50 dB at step 900 ·" in status(val_step=900, held_out=False).line()
    assert "val 23.50 dB ·" in status(val_step=1200).line()
    assert "val" not in status(val_psnr=None).line()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_work_is_counted_in_plain_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    out, clock = io.StringIO(), iter([0.0, 4.0, 12.0, 16.0, 24.0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(clock))
    with counting("frames", 4, stream=out) as advance:
        for _ in range(4):
            advance()
    lines = ["frames 2/4 · 0:12 used · 0:12 left", "frames 4/4 · 0:24 used · 0:00 left"]
    assert out.getvalue().splitlines() == lines


def test_short_work_prints_nothing() -> None:
    out = io.StringIO()
    with counting("frames", 2, stream=out) as advance:
        advance()
        advance()
    assert out.getvalue() == ""


def test_work_is_counted_in_a_bar_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    with counting("frames", 2, stream=out) as advance:
        advance()
        advance()
    assert "frames" in out.getvalue()
