"""`train` as scripts call it: resuming, and what it refuses."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lumigraph.cli.main import main
from lumigraph.configs.depth import options_without_effect
from lumigraph.configs.registry import load_presets
from lumigraph.files import load_tensors, read_json
from lumigraph.scenes.procedural import make_scene, write_blender

SMALL = ["--levels", "4", "--log2-entries", "12", "--finest-resolution", "64", "--cells", "16"]
SMALL += ["--steps", "64", "--samples", "1024"]
SCENE = "builtin:still:24"


def train(run: Path, *more: str, scene: str = SCENE) -> int:
    return main(["train", "ngp", scene, "--run", str(run), "--device", "cpu", *SMALL, *more])


def test_resumed_equals_whole(tmp_path: Path) -> None:
    assert train(tmp_path / "whole", "--max-steps", "40") == 0
    assert train(tmp_path / "parts", "--max-steps", "23", "--resume") == 0
    assert train(tmp_path / "parts", "--max-steps", "40", "--resume") == 0
    whole, parts = (load_tensors(tmp_path / name / "weights.safetensors")[0] for name in ("whole", "parts"))
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())
    # Another seed is another run, so the comparison says something.
    assert train(tmp_path / "other", "--max-steps", "40", "--seed", "1") == 0
    other = load_tensors(tmp_path / "other" / "weights.safetensors")[0]
    assert not torch.equal(whole["grid.table"], other["grid.table"])


def test_schedules_end_with_the_methods_own_steps(tmp_path: Path) -> None:
    assert train(tmp_path / "run", "--training-steps", "5") == 0
    assert read_json(tmp_path / "run" / "results.json")["training"]["step"] == 5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--levels", "0"], "levels must lie in 1..64"),
        (["--cells", "1"], "cells must lie in"),
        (["--finest-resolution", "8"], "below base_resolution"),
        (["--hold", "2"], "hold must lie in 0..1"),
        (["--lr", "nan"], "lr must be positive"),
        (["--camera-lr", "nan"], "camera_lr must not be negative"),
        (["--seed", "-1"], "--seed must not be negative"),
        (["--devices", "0"], "--devices must be at least 1"),
        (["--max-steps", "0"], "--max-steps must be positive"),
        (["--precision", "bfloat16"], "float32 only"),
        (["--samples", "9000000000"], "GB needed"),
        (
            ["--keep-depth", "0.3", "--depth-beta", "2"],
            "no effect with --depth-loss none: --depth-beta, --keep-depth",
        ),
        (["--depth-loss", "l2", "--depth-beta", "2"], "no effect with --depth-loss l2: --depth-beta"),
        (["--depth-source", "mono", "--mono-depth", "maps"], "training does not use it"),
        (["--keep-best", "0"], "--keep-best must be positive"),
        (["--patience", "3"], "no effect without --keep-best"),
    ],
)
def test_what_cannot_be_trained_leaves_nothing(
    tmp_path: Path, options: list[str], words: str, capsys
) -> None:
    try:
        code = train(tmp_path / "run", *options)
    except SystemExit as stopped:
        code = stopped.code
    said = capsys.readouterr().err
    assert code == 2, said
    # Usage errors are framed, and their lines broken.
    assert words in " ".join(said.replace("│", " ").split()), said
    assert not (tmp_path / "run").exists()


def test_what_a_preset_sets_may_be_of_another_loss() -> None:
    presets = load_presets("mipnerf360")
    room = replace(presets["swb-room"], depth=replace(presets["swb-room"].depth, depth_loss="none"))
    assert room.depth.depth_beta == 2.0
    assert options_without_effect(room, presets.values()) == []
    chosen = replace(room, depth=replace(room.depth, depth_beta=1.0))
    assert options_without_effect(chosen, presets.values()) == ["--depth-beta"]


def test_a_broken_photo_leaves_nothing(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "scene"
    write_blender(make_scene("still", 3, 1, 1, size=16), folder)
    photo = next((folder / "train").glob("*.png"))
    photo.write_bytes(photo.read_bytes()[:60])
    assert train(tmp_path / "run", "--max-steps", "3", scene=str(folder)) == 2
    assert photo.name in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--normal-weight", "0.01"], "--normal-weight has no effect without --normal-loss"),
        (["--normal-loss", "l1", "--normal-weight", "0"], "--normal-loss has no effect without --normal-weight"),
        (["--depth-guided-spread", "0.1"], "--depth-guided-spread has no effect without --depth-guided"),
        (["--preset", "swb-room", "--depth-guided-spread", "1"], "has no effect without --depth-guided"),
    ],
)  # fmt: skip
def test_options_that_need_others_say_so(tmp_path: Path, options: list[str], words: str, capsys) -> None:
    command = ["train", "mipnerf360", "builtin:still:16", "--run", str(tmp_path / "run"), *options]
    assert main(command) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("scene", "words"),
    [("builtin:moving:16", "at 60 different times"), ("builtin:attributes:16", "attributes")],
)
def test_a_still_method_says_that_it_does_not_see_change(
    tmp_path: Path, caplog, scene: str, words: str
) -> None:
    assert train(tmp_path / "run", "--max-steps", "1", scene=scene) == 0
    assert words in caplog.text
    assert "learns a still one" in caplog.text


def test_going_on_with_other_photos_is_refused(tmp_path: Path, capsys) -> None:
    write_blender(make_scene("still", 3, 1, 1, size=16), tmp_path / "one")
    write_blender(make_scene("still", 3, 1, 1, size=16, seed=5), tmp_path / "other")
    assert train(tmp_path / "run", "--max-steps", "3", scene=str(tmp_path / "one")) == 0
    assert train(tmp_path / "run", "--max-steps", "6", "--resume", scene=str(tmp_path / "other")) == 2
    assert "other training views" in capsys.readouterr().err
    assert (tmp_path / "run" / "weights.safetensors").exists()


def test_going_on_with_another_built_in_scene_is_refused(tmp_path: Path, capsys) -> None:
    """Though its cameras stand in the same places."""
    assert train(tmp_path / "run", "--max-steps", "3", scene="builtin:still:16") == 0
    assert train(tmp_path / "run", "--max-steps", "6", "--resume", scene="builtin:moving:16") == 2
    assert "builtin:still:16, now builtin:moving:16" in capsys.readouterr().err


def test_the_best_weights_are_kept(tmp_path: Path, capsys) -> None:
    write_blender(make_scene("still", 3, 1, 1, size=16), tmp_path / "scene")
    argv = ["--max-steps", "30", "--keep-best", "10"]
    assert train(tmp_path / "run", *argv, scene=str(tmp_path / "scene")) == 0
    training = read_json(tmp_path / "run" / "results.json")["training"]
    assert training["best_step"] in (0, 10, 20, 30)
    said = capsys.readouterr().out
    assert f"kept are the weights of step {training['best_step']}" in said
    best = max(row["val_psnr"] for row in training["history"])
    assert training["val_psnr"] == pytest.approx(best, abs=0.01)


def test_eval_says_which_views_chose_the_weights(tmp_path: Path, capsys) -> None:
    write_blender(make_scene("still", 3, 1, 1, size=16), tmp_path / "scene")
    argv = ["--max-steps", "2", "--keep-best", "2"]
    assert train(tmp_path / "run", *argv, scene=str(tmp_path / "scene")) == 0
    for split, chose in (("val", True), ("test", False)):
        report = tmp_path / f"{split}.json"
        assert main(["eval", str(tmp_path / "run"), "--split", split, "--json", str(report)]) == 0
        assert read_json(report).get("views_chose_weights", False) is chose
        assert ("these views chose the weights" in capsys.readouterr().out) is chose


def test_going_on_keeps_to_the_rule_of_the_best_weights(tmp_path: Path, capsys) -> None:
    """Without it the best weights of the checkpoint would be lost."""
    write_blender(make_scene("still", 3, 1, 1, size=16), tmp_path / "scene")
    argv = ["--max-steps", "2", "--keep-best", "2"]
    assert train(tmp_path / "run", *argv, scene=str(tmp_path / "scene")) == 0
    again = ["--max-steps", "3", "--resume"]
    for other in ([], ["--keep-best", "1"], ["--keep-best", "2", "--patience", "2"]):
        assert train(tmp_path / "run", *again, *other, scene=str(tmp_path / "scene")) == 2
        assert "other looks at validation views" in capsys.readouterr().err
    assert train(tmp_path / "run", *again, "--keep-best", "2", scene=str(tmp_path / "scene")) == 0


def test_photos_are_held_out_where_no_views_may_choose_the_weights(tmp_path: Path, capsys) -> None:
    write_blender(make_scene("still", 12, 0, 1, size=16), tmp_path / "scene")
    argv = ["--max-steps", "4", "--keep-best", "2", "--scales", "2"]
    assert train(tmp_path / "run", *argv, scene=str(tmp_path / "scene")) == 0
    assert "the best on the validation photos, held out of the training photos" in capsys.readouterr().out
    assert read_json(tmp_path / "run" / "config.json")["provenance"]["validation_held_from_training"] is True
    assert read_json(tmp_path / "run" / "results.json")["training"]["held_out"] is True


def test_photos_are_not_called_validation(tmp_path: Path, capsys) -> None:
    write_blender(make_scene("still", 3, 0, 1, size=16), tmp_path / "scene")
    assert train(tmp_path / "run", "--max-steps", "3", scene=str(tmp_path / "scene")) == 0
    assert "dB on pixels of training photos" in capsys.readouterr().out
    best = ["--max-steps", "3", "--keep-best", "1"]
    assert train(tmp_path / "best", *best, scene=str(tmp_path / "scene")) == 2
    assert "too few training photos to hold some out" in capsys.readouterr().err
    assert not (tmp_path / "best").exists()
    assert read_json(tmp_path / "run" / "results.json")["training"]["held_out"] is False
