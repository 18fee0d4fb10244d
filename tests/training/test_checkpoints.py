"""Checkpoints: whole or absent whatever fails, two kept, damage found."""

import json
import os
from pathlib import Path

import pytest
import torch

from lumigraph.errors import LumigraphError
from lumigraph.training.checkpoints import (
    Checkpoint,
    list_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    pack_optimiser,
    save_checkpoint,
    unpack_optimiser,
)


def sample(step: int) -> Checkpoint:
    tensors = {"renderer.weight": torch.arange(6.0) + step, "rng.cpu": torch.get_rng_state()}
    return Checkpoint(
        step=step, seconds=1.5 * step, tensors=tensors, numbers={"optimiser": {"lr": 0.1 + 0.2}}
    )


def test_round_trip_and_two_are_kept(tmp_path):
    for step in (5, 10, 15):
        save_checkpoint(tmp_path, sample(step))
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000015", "step-00000010"]
    back = newest_checkpoint(tmp_path, pytest.fail)
    assert back is not None
    assert (back.step, back.seconds, back.numbers) == (15, 22.5, {"optimiser": {"lr": 0.1 + 0.2}})
    assert torch.equal(back.part("renderer")["weight"], torch.arange(6.0) + 15)
    assert not list(tmp_path.glob(".*"))


def test_older_ones_stay_when_the_new_one_cannot_be_read_back(tmp_path, monkeypatch):
    for step in (5, 10):
        save_checkpoint(tmp_path, sample(step))
    rename = Path.rename

    def flipping(path, target):
        """The disk has changed a bit by the time the checkpoint is in place."""
        rename(path, target)
        state = target / "state.safetensors"
        data = bytearray(state.read_bytes())
        data[-1] ^= 1
        state.write_bytes(data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", flipping)
        with pytest.raises(LumigraphError, match=r"cannot be read back.*state\.safetensors.*--resume"):
            save_checkpoint(tmp_path, sample(15))
    assert {5, 10} <= {int(path.name[5:]) for path in list_checkpoints(tmp_path)}
    back = newest_checkpoint(tmp_path, lambda message: None)
    assert back is not None
    assert back.step == 10


def test_damaged_ones_of_later_steps_do_not_push_out_intact_ones(tmp_path):
    for step in (5, 20):
        save_checkpoint(tmp_path, sample(step))
    later = tmp_path / "step-00000030"
    (tmp_path / "step-00000020").rename(later)
    for damaged in (later, tmp_path / "step-00000040"):
        damaged.mkdir(exist_ok=True)
        (damaged / "manifest.json").write_text("{}")
    save_checkpoint(tmp_path, sample(10))
    back = newest_checkpoint(tmp_path, lambda message: None)
    assert back is not None
    assert back.step == 10
    assert (tmp_path / "step-00000005").is_dir()


def test_nothing_there(tmp_path):
    assert newest_checkpoint(tmp_path / "absent", pytest.fail) is None


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "no manifest", "bad json", "schema"])
def test_damage_is_found_and_the_older_one_used(tmp_path, damage):
    for step in (5, 10):
        save_checkpoint(tmp_path, sample(step))
    newest = list_checkpoints(tmp_path)[0]
    tensors, manifest = newest / "state.safetensors", newest / "manifest.json"
    data = bytearray(tensors.read_bytes())
    if damage == "truncate":
        tensors.write_bytes(data[:-3])
    elif damage == "flip":
        data[-1] ^= 1
        tensors.write_bytes(data)
    elif damage == "remove":
        tensors.unlink()
    elif damage == "no manifest":
        manifest.unlink()
    elif damage == "bad json":
        manifest.write_text("{")
    else:
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "schema": 99}))
    said: list[str] = []
    back = newest_checkpoint(tmp_path, said.append)
    assert back is not None
    assert back.step == 5
    assert "step-00000010 is damaged and skipped" in said[0]
    (list_checkpoints(tmp_path)[1] / "state.json").write_text("[]")
    with pytest.raises(LumigraphError, match="every checkpoint is damaged"):
        newest_checkpoint(tmp_path, said.append)


def test_failure_at_any_operation_leaves_the_earlier_checkpoint(tmp_path, monkeypatch):
    """The k-th sync or rename fails, for every k."""
    save_checkpoint(tmp_path, sample(1))
    for failing in range(1, 40):
        count = 0

        def failed(real, failing=failing):
            def call(*arguments, **more):
                nonlocal count
                count += 1
                if count == failing:
                    raise OSError(28, "No space left on device")
                return real(*arguments, **more)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", failed(os.fsync))
            patch.setattr(Path, "rename", failed(Path.rename))
            patch.setattr(Path, "replace", failed(Path.replace))
            try:
                save_checkpoint(tmp_path, sample(2))
            except LumigraphError as error:
                assert "disk is full" in str(error)  # noqa: PT017
            else:
                assert count < failing
                break
        newest = newest_checkpoint(tmp_path, pytest.fail)
        assert newest is not None
        assert newest.step in (1, 2)
    else:
        pytest.fail("it never came through")
    assert load_checkpoint(list_checkpoints(tmp_path)[0]).step == 2
    assert not list(tmp_path.glob(".*"))


def test_weights_that_are_not_finite_are_not_kept(tmp_path):
    save_checkpoint(tmp_path, sample(1))
    broken = sample(2)
    broken.tensors["renderer.weight"][3] = float("inf")
    with pytest.raises(LumigraphError, match=r"no longer finite at step 2 \(weight\)"):
        save_checkpoint(tmp_path, broken)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000001"]


def test_optimiser_state_comes_back_exactly():
    def stepped(count: int):
        torch.manual_seed(0)
        weights = torch.nn.Parameter(torch.randn(5))
        optimiser = torch.optim.Adam([{"name": "all", "params": [weights]}], lr=0.1, fused=True)
        for _ in range(count):
            optimiser.zero_grad()
            (weights**2).sum().backward()
            optimiser.step()
        return weights, optimiser

    weights, optimiser = stepped(3)
    fresh, other = stepped(0)
    fresh.data.copy_(weights.data)
    tensors, numbers = pack_optimiser(optimiser)
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    unpack_optimiser(other, tensors, json.loads(json.dumps(numbers)))
    for parameter, used in ((weights, optimiser), (fresh, other)):
        used.zero_grad()
        (parameter**2).sum().backward()
        used.step()
    assert torch.equal(weights, fresh)
    assert other.param_groups[0]["betas"] == (0.9, 0.999)
    with pytest.raises(LumigraphError, match="does not fit"):
        unpack_optimiser(torch.optim.Adam([weights, fresh]), tensors, numbers)
