import re
from pathlib import Path
from typing import Any

import pytest

from lumigraph.cli import demo
from lumigraph.cli.demo_report import stage_curve
from lumigraph.cli.main import VERBS
from lumigraph.cli.main import main as lumigraph

BESIDE = {"rays", "demo", "depth", "inspect", "doctor", "pack", "import", "multiscale", "view"}
"""Verbs that are no step of the path."""


def test_the_plan_is_the_whole_path() -> None:
    steps = list(demo.plan(demo.Arguments(), demo.Paths(Path("x"))))
    assert {step.argv[0] for step in steps} == set(VERBS) - BESIDE
    assert [step.trains.name for step in steps if step.trains] == ["teacher", "student", "fine-tuned"]
    assert sum(demo.SHARES.values()) == pytest.approx(1)


def test_overwrite_and_downscale_reach_the_verbs() -> None:
    plain = [step.argv for step in demo.plan(demo.Arguments(), demo.Paths(Path("x")))]
    changed = demo.Arguments(overwrite=True, downscale=2)
    steps = [step.argv for step in demo.plan(changed, demo.Paths(Path("x")))]
    assert not any("--overwrite" in argv or "--downscale" in argv for argv in plain)
    assert {argv[0] for argv in steps if "--overwrite" in argv} == set(VERBS) - BESIDE - {"eval"}
    assert {argv[0] for argv in steps if "--downscale" in argv} == {"train", "finetune"}


def test_an_earlier_demo_is_kept(tmp_path: Path, capsys) -> None:
    (tmp_path / "index.html").write_text("precious")
    assert lumigraph(["demo", "--out", str(tmp_path)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (tmp_path / "index.html").read_text() == "precious"


def test_time_must_be_positive(tmp_path: Path, capsys) -> None:
    assert lumigraph(["demo", "--out", str(tmp_path / "out"), "--minutes", "0"]) == 2
    assert "--minutes must be positive" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def trained(psnr: list[float], steps: list[int], best: int | None = None) -> dict[str, Any]:
    """Results of a run that was measured every half minute."""
    history = [
        {"step": step, "seconds": 30.0 * i, "val_psnr": value}
        for i, (step, value) in enumerate(zip(steps, psnr, strict=True))
    ]
    return {"training": {"seconds": history[-1]["seconds"], "best_step": best, "history": history}}


def test_a_stage_without_early_stopping_is_its_measurements() -> None:
    curve = stage_curve("x", trained([20.0, 24.0], [5, 9]), 2.0)
    assert (curve.minutes, curve.psnr, curve.kept) == ([2.0, 2.5], [20.0, 24.0], None)


@pytest.mark.parametrize(
    ("after", "best", "kept"),
    [
        (24.0, 10, 0),  # nothing better came
        (24.0, 12, 0),  # better at the sampled pixels alone: the old weights were put back
        (24.4, 12, 2),
    ],
)
def test_a_fine_tuned_curve_does_not_jump_back_to_what_was_kept(after: float, best: int, kept: int) -> None:
    results = trained([24.0, 22.0, 24.1, 23.0, 24.1], [10, 11, 12, 13, 13], best)
    results["finetune"] = {
        "first_step": 10,
        "best_step": best,
        "val_psnr_before": 24.0,
        "val_psnr_after": after,
    }
    curve = stage_curve("x", results, 0.0)
    assert (curve.psnr, curve.kept) == ([24.0, 22.0, 24.1, 23.0], kept)


@pytest.mark.slow
def test_a_short_demo_ends_with_a_whole_page(tmp_path: Path, capsys) -> None:
    assert lumigraph(["demo", "--out", str(tmp_path), "--minutes", "0.5"]) == 0
    assert str(tmp_path / "index.html") in capsys.readouterr().out
    html = (tmp_path / "index.html").read_text("utf-8")
    assert html.count("data:image/png") == 5 * 3 + 1
    assert html.count("data:video/mp4") == 1
    assert len(set(re.findall(r'<path [^>]*stroke="([^"]*)"', html))) == 3
