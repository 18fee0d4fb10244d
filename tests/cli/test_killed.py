"""Verbs that are killed at random moments, again and again, and go on each time."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lumigraph.training.checkpoints import list_checkpoints

KILLS = 20
SCENE = "builtin:still:32"


def verb(*arguments: str | Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "lumigraph", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def to_the_end(*arguments: str | Path) -> str:
    process = verb(*arguments)
    said = process.communicate(timeout=600)[0]
    assert process.returncode == 0, said
    assert "damaged" not in said
    return said


def kill_after(process: subprocess.Popen, seconds: float) -> str:
    """Kills a verb that must still be at work by then; gives what it had said."""
    time.sleep(seconds)
    working = process.poll() is None
    process.kill()
    said = process.communicate()[0]
    assert working, said
    assert "Traceback" not in said
    return said


def newest_step(run: Path) -> int:
    found = list_checkpoints(run / "checkpoints")
    return int(found[0].name.removeprefix("step-")) if found else 0


def shards(pseudo_views: Path) -> int:
    return len(list(pseudo_views.glob("*.npy"))) if pseudo_views.is_dir() else 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_training_goes_on(tmp_path: Path) -> None:
    chance, run = random.Random(1), tmp_path / "run"
    train = ["train", "ngp", SCENE, "--run", run, "--resume"]
    # How long until the first checkpoint is there: later kills come about then, some before, some after.
    start = time.monotonic()
    process = verb(*train, "--max-steps", "1000000")
    while newest_step(run) == 0:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    first = time.monotonic() - start
    kill_after(process, 0)
    steps = [newest_step(run)]
    for _ in range(KILLS - 1):
        kill_after(verb(*train, "--max-steps", "1000000"), chance.uniform(0.3, 1.6) * first)
        steps.append(newest_step(run))
    assert steps == sorted(steps)
    assert steps[-1] > steps[0]
    to_the_end(*train, "--max-steps", str(steps[-1] + 20))
    assert newest_step(run) == steps[-1] + 20


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_baking_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    chance, run = random.Random(2), tmp_path / "run"
    to_the_end("train", "ngp", SCENE, "--run", run, "--max-steps", "400")
    views, size = "400", ["--width", "64", "--views-per-shard", "1"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    to_the_end("bake", run, "--out", whole, "--views", views, *size)
    bake = ["bake", run, "--out", killed, "--views", views, *size, "--resume"]
    # How long until the first shard is there: kills come about then, some before, some after.
    start = time.monotonic()
    process = verb(*bake)
    while shards(killed) == 0:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    first = time.monotonic() - start
    kill_after(process, 0)
    done = [shards(killed)]
    for _ in range(KILLS - 1):
        kill_after(verb(*bake), chance.uniform(0.3, 1.6) * first)
        done.append(shards(killed))
    assert done == sorted(done)
    assert done[-1] > done[0]
    to_the_end(*bake)
    assert {path.name for path in killed.iterdir()} == {path.name for path in whole.iterdir()}
    for path in whole.iterdir():
        assert path.read_bytes() == (killed / path.name).read_bytes(), path.name
