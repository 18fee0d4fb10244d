from pathlib import Path

import pytest

from lumigraph.cli import demo
from lumigraph.cli.main import VERBS
from lumigraph.cli.main import main as lumigraph

BESIDE = {"demo", "depth", "inspect", "doctor", "pack", "import", "multiscale"}
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


@pytest.mark.slow
def test_a_short_demo_ends_with_a_whole_page(tmp_path: Path, capsys) -> None:
    assert lumigraph(["demo", "--out", str(tmp_path), "--minutes", "0.5"]) == 0
    assert str(tmp_path / "index.html") in capsys.readouterr().out
    html = (tmp_path / "index.html").read_text("utf-8")
    assert html.count("data:image/png") == 5 * 3
    assert html.count("data:video/mp4") == 1
    assert html.count("<path ") == 3
