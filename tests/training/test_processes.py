"""Training as a process: interrupted, killed at any moment, and several together."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lumigraph.training.checkpoints import list_checkpoints, load_checkpoint
from lumigraph.training.runs import Run
from lumigraph.training.sources import PhotoSource

from .ball import PICTURES, ball_scene

DRIVE = Path(__file__).with_name("drive.py")


def start(run: Path, steps: int, devices: int = 1, pause: float = 0.0, *more: str) -> subprocess.Popen:
    command = [sys.executable, str(DRIVE), str(run), str(steps), str(devices), str(pause), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_checkpoint(run: Path, process: subprocess.Popen, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not list_checkpoints(run / "checkpoints"):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_first_signal_saves_and_stops(tmp_path, number):
    run = tmp_path / "run"
    process = start(run, 100_000, pause=0.01)
    wait_for_checkpoint(run, process)
    process.send_signal(number)
    said = process.communicate(timeout=30)[0]
    assert process.returncode == 130, said
    assert "saving, then stopping" in said
    assert "--resume goes on" in said
    assert "Traceback" not in said
    newest = load_checkpoint(list_checkpoints(run / "checkpoints")[0])
    assert f"stopped at step {newest.step:,}" in said
    assert not Run.open(run).finished


def test_second_signal_stops_at_once(tmp_path):
    run = tmp_path / "run"
    process = start(run, 100_000, pause=3.0)  # the first waits for the end of the step
    end = time.monotonic() + 60
    while not (run / "logs").exists() and time.monotonic() < end:  # made once the signals are taken over
        time.sleep(0.05)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    said = process.communicate(timeout=30)[0]
    assert time.monotonic() - began < 2
    assert process.returncode == 130
    assert "stopped at once" in said


def killed_again_and_again(run: Path, times: int, steps: int) -> None:
    chance = random.Random(0)
    for _ in range(times):
        process = start(run, steps, pause=0.005)
        before = newest_step(run)
        while process.poll() is None and newest_step(run) == before:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.3))
        process.kill()
        process.communicate()
        assert newest_step(run) > before
    last = start(run, steps, pause=0.0)
    said = last.communicate(timeout=300)[0]
    assert last.returncode == 0, said
    assert "damaged" not in said
    assert Run.open(run).finished


def newest_step(run: Path) -> int:
    found = list_checkpoints(run / "checkpoints")
    return int(found[0].name.removeprefix("step-")) if found else -1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_at_any_moment_goes_on_to_the_same_end(tmp_path):
    killed_again_and_again(tmp_path / "killed", 2, 400)
    whole = start(tmp_path / "whole", 400)
    whole.communicate(timeout=300)
    assert whole.returncode == 0
    one, other = (Run.open(tmp_path / name).load_renderer("cpu") for name in ("killed", "whole"))
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_twenty_times(tmp_path):
    killed_again_and_again(tmp_path / "run", 20, 3000)


@pytest.mark.slow
def test_two_processes_train_together_and_start_over_together(tmp_path):
    run = tmp_path / "run"
    process = start(run, 100, 2, 0.0, "dead")
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    assert Run.open(run).finished
    assert newest_step(run) == 100
    assert said.count("memory: ") == 1, said
    assert said.count("the nerf starts over") == 1, said
    one, other = ((tmp_path / f"run.{rank}").read_text() for rank in range(2))
    assert one == other
    # What two began, one can go on with.
    alone = start(run, 105, 1, 0.0, "dead")
    said = alone.communicate(timeout=300)[0]
    assert alone.returncode == 0, said
    assert newest_step(run) == 105


def test_the_statistics_of_batch_norm_are_those_of_all_processes(tmp_path):
    run = tmp_path / "run"
    process = start(run, 1, 2, 0.0, "pictures")
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    one, other = ((tmp_path / f"run.{rank}").read_text() for rank in range(2))
    assert one == other
    # The first step again, the pictures of each process by themselves.
    scene = ball_scene()
    seen = []
    for rank in range(2):
        torch.manual_seed(0)
        renderer = Run.open(run).new_renderer().train()
        renderer.losses(PhotoSource(scene.split("train"), 0).pictures(rank, PICTURES.pictures), 0, rank)
        seen.append({name: value for name, value in renderer.named_buffers() if "running_" in name})
    learnt = dict(Run.open(run).load_renderer("cpu").named_buffers())
    assert len(seen[0]) == 16
    for name in seen[0]:
        assert not torch.allclose(seen[0][name], seen[1][name]), name
        torch.testing.assert_close(learnt[name], (seen[0][name] + seen[1][name]) / 2)
