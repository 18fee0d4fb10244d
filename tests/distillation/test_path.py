"""Distilling and fine-tuning through the command line: what is learnt, resumed exactly, and recorded."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lumigraph.cli.main import main
from lumigraph.configs.common import TrainOptions
from lumigraph.configs.r2l import R2LConfig
from lumigraph.distillation.bake import bake_shards, prepare
from lumigraph.distillation.finetuning import finetune, mean_psnr
from lumigraph.distillation.origins import from_shards, with_hard_rays
from lumigraph.distillation.poses import sample_poses
from lumigraph.distillation.shards import Plan, finish
from lumigraph.errors import LumigraphError
from lumigraph.files import load_tensors
from lumigraph.scenes.scene import Scene
from lumigraph.training.begin import begin
from lumigraph.training.checkpoints import newest_checkpoint
from lumigraph.training.fit import EarlyStopping, fit
from lumigraph.training.runs import Run
from lumigraph.training.validation import training_and_validation

from .conftest import Ball

LEARNER = R2LConfig(
    width=32, depth=8, points=4, octaves=2, rays=256, lr=4e-3, warmup_lr=1e-3, warmup_steps=10
)
SMALL = [
    "--width",
    "16",
    "--depth",
    "6",
    "--points",
    "4",
    "--octaves",
    "3",
    "--rays",
    "32",
    "--hard-multiple",
    "1",
]
COMMON = ["--device", "cpu", "--precision", "float32"]


@pytest.fixture
def shards(tmp_path: Path, scene: Scene) -> Path:
    plan = Plan(sample_poses("fitted", 60, 0, scene.info.cameras["train"]), scene.info, 8)
    prepare(tmp_path / "shards", plan, resume=False, overwrite=False)
    bake_shards(Ball(), tmp_path / "shards", plan, list(range(plan.count)))
    finish(tmp_path / "shards", plan)
    return tmp_path / "shards"


def distilled(shards: Path, folder: Path, steps: int) -> Run:
    options = TrainOptions(run=folder, max_steps=steps, device="cpu", precision="float32")
    origin = from_shards(shards, 0)
    config = replace(LEARNER, training_steps=steps)  # so many make the whole schedule
    run = begin("r2l", config, origin.info, options, {})
    torch.manual_seed(0)
    fit(run.new_renderer(), with_hard_rays(origin.source, config, 0), run, options, origin.validation)
    return run


def test_student_learns_and_photos_help(tmp_path: Path, shards: Path, scene: Scene) -> None:
    run = distilled(shards, tmp_path / "student", 250)
    before = load_tensors(run.weights)[0]
    reached = mean_psnr(run.load_renderer("cpu"), scene.views["val"])
    assert reached > 20
    options = TrainOptions(run=run.path, max_steps=60, device="cpu", precision="float32")
    done = finetune(run, scene, options, EarlyStopping(every=20, patience=10), lr=5e-4)
    assert done.val_psnr_before == pytest.approx(reached)
    assert done.val_psnr_after >= done.val_psnr_before
    assert not done.held_from_training
    results = Run.open(run.path).results
    assert results["finetune"]["val_psnr_after"] == pytest.approx(done.val_psnr_after, abs=1e-3)
    assert results["finetune"]["first_step"] == 250
    assert results["distillation"]["step"] == 250
    assert mean_psnr(run.load_renderer("cpu"), scene.views["val"]) == pytest.approx(done.val_psnr_after)
    assert any(not torch.equal(before[name], tensor) for name, tensor in load_tensors(run.weights)[0].items())
    with pytest.raises(LumigraphError, match="finished"):
        finetune(run, scene, options, EarlyStopping())


def test_fine_tuning_into_another_run_leaves_the_student(
    tmp_path: Path, shards: Path, scene: Scene, capsys
) -> None:
    run = distilled(shards, tmp_path / "student", 30)
    weights = run.weights.read_bytes()
    options = TrainOptions(run=tmp_path / "tuned", max_steps=8, device="cpu", precision="float32")
    capsys.readouterr()
    done = finetune(run, scene, options, EarlyStopping(every=4))
    # It takes up a checkpoint, and has no time behind it all the same.
    said = capsys.readouterr().err
    assert "beginning at step 30\n" in said
    assert "going on" not in said
    assert run.weights.read_bytes() == weights
    assert "finetune" not in run.results
    tuned = Run.open(tmp_path / "tuned")
    assert tuned.results["finetune"]["last_step"] == 38
    # The decayed rate is kept, and Adam's moments are those of distillation.
    assert tuned.config.lr == pytest.approx(LEARNER.lr * LEARNER.final_lr, rel=0.3)
    last = newest_checkpoint(tuned.checkpoints, print)
    assert last is not None
    assert last.numbers["optimiser"]["groups"][0]["lr"] == pytest.approx(tuned.config.lr)
    assert done.result.step == 38


def test_fine_tuning_may_mix_in_pseudo_views(tmp_path: Path, shards: Path, scene: Scene) -> None:
    run = distilled(shards, tmp_path / "student", 20)
    options = TrainOptions(run=tmp_path / "tuned", max_steps=6, device="cpu", precision="float32")
    pseudo = from_shards(shards, 0)
    done = finetune(run, scene, options, EarlyStopping(every=3), None, pseudo, 0.75)
    assert done.val_psnr_after >= done.val_psnr_before
    assert done.run.provenance["mixed_with"]["pseudo_ratio"] == 0.75
    elsewhere = replace(pseudo, info=replace(pseudo.info, source="builtin:other"))
    with pytest.raises(LumigraphError, match="it is builtin:other"):
        finetune(run, scene, replace(options, overwrite=True), EarlyStopping(), None, elsewhere, 0.75)


def test_a_student_that_knows_depth_is_fine_tuned_on_photos_that_do_not(tmp_path: Path, scene: Scene) -> None:
    options = TrainOptions(run=tmp_path / "student", device="cpu", precision="float32")
    run = Run.create(options.run, "r2l", replace(LEARNER, learn_depth=True), scene.info, options)
    torch.manual_seed(0)
    run.save_weights(run.new_renderer(), 0)
    before = load_tensors(run.weights)[0]
    done = finetune(run, scene, replace(options, max_steps=4), EarlyStopping(every=2), lr=1e-3)
    assert done.val_psnr_after >= done.val_psnr_before
    assert not torch.equal(before["network.head.weight"], load_tensors(run.weights)[0]["network.head.weight"])


def test_photos_of_another_scene_are_refused(tmp_path: Path, shards: Path, scene: Scene) -> None:
    run = distilled(shards, tmp_path / "student", 2)
    options = TrainOptions(run=run.path, max_steps=2, device="cpu")
    shifted = [
        replace(part, camera_to_world=part.camera_to_world + 0.1) for part in scene.info.cameras.values()
    ]
    elsewhere = replace(scene.info, cameras=dict(zip(scene.info.cameras, shifted, strict=True)))
    with pytest.raises(LumigraphError, match="none of its photos was taken from where"):
        finetune(run, replace(scene, info=elsewhere), options, EarlyStopping())
    with pytest.raises(LumigraphError, match="it is builtin:other"):
        finetune(
            run, replace(scene, info=replace(scene.info, source="builtin:other")), options, EarlyStopping()
        )


def test_what_is_made_of_an_unfinished_or_distilled_run_says_so(
    tmp_path: Path, shards: Path, capsys, caplog
) -> None:
    run = distilled(shards, tmp_path / "student", 3)
    assert main(["pack", str(run.path), "--out", str(tmp_path / "a.safetensors")]) == 0
    assert not caplog.messages
    run.update_results("training", {**run.results["training"], "finished": False})
    assert main(["pack", str(run.path), "--out", str(tmp_path / "b.safetensors")]) == 0
    assert "training is unfinished; these are its weights of step 3" in caplog.text
    bake = ["bake", str(run.path), "--views", "1", "--device", "cpu", "--out", str(tmp_path / "views")]
    assert main(bake) == 0
    assert "r2l is a student" in caplog.text


def test_without_validation_views_some_photos_are_held_out(scene: Scene) -> None:
    train, held, from_training = training_and_validation(
        replace(scene, views={"train": scene.views["train"]})
    )
    assert from_training
    assert (len(train), len(held)) == (11, 1)
    assert held.names == ["5.png"]
    assert torch.equal(held.image(0), scene.views["train"].image(5))


def test_another_scene_is_refused(tmp_path: Path, shards: Path, scene: Scene) -> None:
    run = distilled(shards, tmp_path / "student", 2)
    options = TrainOptions(run=run.path, max_steps=2, device="cpu")
    black = replace(scene, info=replace(scene.info, background="black"))
    with pytest.raises(LumigraphError, match="background"):
        finetune(run, black, options, EarlyStopping())
    moved = replace(scene, info=replace(scene.info, world_transform=2 * torch.eye(4, dtype=torch.float64)))
    with pytest.raises(LumigraphError, match="frame"):
        finetune(run, moved, options, EarlyStopping())


@pytest.mark.parametrize("kind", ["live", "shards"])
def test_resumed_distillation_is_exact(tmp_path: Path, teacher: Run, kind: str) -> None:
    origin = teacher.path
    if kind == "shards":
        origin = tmp_path / "views"
        bake = ["bake", str(teacher.path), "--out", str(origin), "--views", "6", "--views-per-shard", "4"]
        assert main([*bake, *COMMON]) == 0
    live = ["--cameras", "4", "--ring", "256"]

    def distil(name: str, steps: int, *more: str) -> None:
        command = ["distill", "r2l", str(origin), "--run", str(tmp_path / name), "--max-steps", str(steps)]
        assert main([*command, *SMALL, *live, *COMMON, *more]) == 0

    distil("whole", 16)
    distil("parts", 8)
    distil("parts", 16, "--resume")
    whole, parts = (load_tensors(tmp_path / name / "weights.safetensors")[0] for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    provenance = json.loads((tmp_path / "whole" / "config.json").read_text())["provenance"]
    assert provenance["distilled_from"]["teacher"] == "r2l"


def test_command_line_refuses_in_one_line(tmp_path: Path, teacher: Run, capsys) -> None:
    (tmp_path / "empty").mkdir()
    wrong = [
        (["bake", str(tmp_path / "none"), "--out", str(tmp_path / "o"), "--views", "3"], "no such run"),
        (
            ["bake", str(teacher.path), "--out", str(tmp_path / "o"), "--views", "0"],
            "--views must be positive",
        ),
        (
            ["bake", str(teacher.path), "--out", str(tmp_path / "o"), "--views", "2", "--seed", "-1"],
            "--seed must not be negative",
        ),
        (
            ["distill", "r2l", str(tmp_path / "none"), "--run", str(tmp_path / "r"), "--max-steps", "1"],
            "no such",
        ),
        (
            ["distill", "r2l", str(tmp_path / "empty"), "--run", str(tmp_path / "r"), "--max-steps", "1"],
            "nothing",
        ),
        (["finetune", str(tmp_path / "empty"), "builtin:still"], "not a run"),
    ]
    for command, words in wrong:
        assert main(command) == 2, command
        message = capsys.readouterr().err
        assert words in message, message
        assert message.count("\n") == 1
    assert not (tmp_path / "r").exists()
    assert not (tmp_path / "o").exists()
