"""What is printed while work goes on."""

from types import SimpleNamespace

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


def test_it_is_told_how_many_steps_will_fit_into_the_time() -> None:
    assert status(last_step=None, likely_last_step=6437).line().startswith("step 1,200 of about 6,500 ·")
    assert status(likely_last_step=1437).line().startswith("step 1,200 of about 1,440 ·")
    assert status(likely_last_step=2000).line().startswith("step 1,200/2,000 ·")
    assert status(step=3, last_step=None, likely_last_step=7).line().startswith("step 3 of about 7 ·")
    assert status(last_step=None).line().startswith("step 1,200 ·")
    assert (
        status(step=100, last_step=1950, likely_last_step=1940).line().startswith("step 100 of about 1,950 ·")
    )
    late = status(step=121_200, last_step=None, likely_last_step=122_430)
    assert late.line().startswith("step 121,200 of about 122,500 ·")
    assert status(step=6437, last_step=None, likely_last_step=6437).line().startswith("step 6,437 ·")


def test_work_is_counted_in_plain_lines_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 4.0, 12.0, 16.0, 24.0])
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    with counting("frames", 4) as advance:
        for _ in range(4):
            advance()
    lines = ["frames 2/4 · 0:12 used · 0:12 left", "frames 4/4 · 0:24 used · 0:00 left"]
    assert capsys.readouterr().err.splitlines() == lines


def test_quiet_work_is_not_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.0)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with counting("frames", 2, quiet=True) as advance:
        advance()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("terminal", [False, True])
def test_in_a_terminal_there_is_a_bar_and_elsewhere_nothing_of_short_work(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm")
    with counting("frames", 2) as advance:
        advance()
        advance()
    captured = capsys.readouterr()
    assert ("frames" in captured.err) == terminal
    assert bool(captured.err) == terminal
    assert captured.out == ""
