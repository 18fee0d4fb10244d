"""Scenes that change: times, attributes and masks on every way from a teacher to a student, and what is refused."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lumigraph.cli.main import main
from lumigraph.configs.codylin import CoDyLiNConfig
from lumigraph.configs.common import TrainOptions
from lumigraph.configs.conerf import CoNeRFConfig
from lumigraph.configs.dylin import DyLiNConfig
from lumigraph.configs.registry import load_renderer_class
from lumigraph.distillation.bake import bake_shards, masks_told, prepare
from lumigraph.distillation.finetuning import finetune
from lumigraph.distillation.hard_rays import HardPool
from lumigraph.distillation.live import LiveSource
from lumigraph.distillation.origins import LiveOptions, from_shards, from_teacher, needed_by, taught_scene
from lumigraph.distillation.poses import sample_poses
from lumigraph.distillation.shard_source import MixedSource, ShardSource
from lumigraph.distillation.shards import Plan, Shards, finish
from lumigraph.errors import LumigraphError
from lumigraph.files import load_tensors
from lumigraph.scenes.procedural import make_scene
from lumigraph.scenes.scene import Scene
from lumigraph.training.fit import EarlyStopping
from lumigraph.training.runs import Run
from lumigraph.training.sources import PhotoSource
from lumigraph.training.validation import training_and_validation

from .conftest import TEACHER, Ball, Masked, views

TINY: dict[str, Any] = {
    "width": 12, "depth": 4, "points": 3, "octaves": 2, "rays": 32, "motion_octaves": 2, "offset_width": 8,
    "offset_layers": 2, "hyper_width": 8, "hyper_layers": 2, "hyper_dims": 2, "hard_multiple": 1,
}  # fmt: skip
OPTIONS = [part for name, value in TINY.items() for part in (f"--{name.replace('_', '-')}", str(value))]
COMMON = [*OPTIONS, "--device", "cpu", "--precision", "float32"]


@pytest.fixture
def changing(scene: Scene) -> Scene:
    """The ball's scene with times and two attributes."""
    cameras = {}
    for split, part in scene.info.cameras.items():
        values = torch.linspace(-1, 1, 2 * len(part)).reshape(-1, 2)
        cameras[split] = replace(part, times=torch.linspace(0, 1, len(part)), attributes=values)
    return Scene(replace(scene.info, cameras=cameras, attributes=("head", "arm")), scene.views)


def run_of(folder: Path, method: str, config: Any, scene: Scene) -> Run:
    """A teacher with random weights."""
    options = TrainOptions(run=folder, device="cpu", precision="float32")
    run = Run.create(folder, method, config, scene.info, options)
    torch.manual_seed(3)
    run.save_weights(run.new_renderer(), 0)
    return run


def shards_of(folder: Path, scene: Scene, views: int = 7) -> Shards:
    plan = Plan(
        sample_poses("fitted", views, 0, scene.info.cameras["train"]), scene.info, 3, depth=True, masks=2
    )
    prepare(folder, plan, resume=False, overwrite=False)
    bake_shards(Masked(), folder, plan, list(range(plan.count)))
    finish(folder, plan)
    return Shards.open(folder)


def test_shards_carry_times_attributes_and_masks(tmp_path: Path, changing: Scene) -> None:
    shards = shards_of(tmp_path / "s", changing)
    assert np.load(tmp_path / "s" / "00002.masks.npy").shape == (1, 20, 20, 2)
    batch = ShardSource(shards, seed=4).batch(9, 300)
    truth = Masked().render(batch.rays)
    assert float((batch.rgba[:, :3] - truth.rgb).abs().max()) <= 0.5001 / 255
    assert float((batch.attribute_masks - truth.extras["attribute_masks"]).abs().max()) <= 0.5001 / 255
    torch.testing.assert_close(batch.depth, truth.depth, equal_nan=True, atol=1e-4, rtol=1e-4)
    assert len(batch.rays.times.unique()) == 7
    index = json.loads((tmp_path / "s" / "index.json").read_text())
    index["masks"] = 3
    (tmp_path / "s" / "index.json").write_text(json.dumps(index))
    with pytest.raises(LumigraphError, match="contradicts itself"):
        Shards.open(tmp_path / "s")


def test_hard_rays_come_back_with_all_that_belongs_to_them(tmp_path: Path, changing: Scene) -> None:
    pool = HardPool(ShardSource(shards_of(tmp_path / "s", changing), 0), 20, (0.2, 0.2), 1, seed=0)
    for step in range(8):
        batch = pool.batch(step, 20)
        pool.observe(batch, torch.rand(len(batch.rays)))
    assert len(batch.rays) == 24
    truth = Masked().render(batch.rays)
    assert float((batch.rgba[:, :3] - truth.rgb).abs().max()) < 0.003
    assert float((batch.attribute_masks - truth.extras["attribute_masks"]).abs().max()) < 0.003


def test_photos_without_masks_can_be_mixed_in(tmp_path: Path, changing: Scene) -> None:
    photos = PhotoSource(changing.views["train"], 0)
    photos.cameras = changing.info.cameras["train"]
    batch = MixedSource(ShardSource(shards_of(tmp_path / "s", changing), 0), photos, 0.5).batch(0, 20)
    assert batch.attribute_masks.shape == (20, 2)
    assert torch.isfinite(batch.attribute_masks).all(1).tolist() == [True] * 10 + [False] * 10


def test_live_labels_carry_them_too(changing: Scene) -> None:
    pool = sample_poses("fitted", 5, 0, changing.info.cameras["train"], times="uniform")
    assert masks_told(Masked(), pool) == 2
    assert masks_told(Ball(), pool) == 0
    sources = [LiveSource(Masked(), pool, 32, 0, ring=512, every=2, reuse=2) for _ in range(2)]
    for step in range(5):
        batch = sources[0].batch(step, 32)
        torch.testing.assert_close(batch.attribute_masks, Masked().masks(batch.rays), atol=1e-6, rtol=0)
        torch.testing.assert_close(batch.rgba[:, :3], Masked().render(batch.rays).rgb, atol=1e-6, rtol=0)
    sources[1].load_state_dict({name: values.clone() for name, values in sources[0].state_dict().items()})
    later = [source.batch(9, 32).attribute_masks for source in sources]
    assert torch.equal(*later)


def test_a_teacher_hands_on_what_it_knows(changing: Scene) -> None:
    class Timed(Ball):
        conditions = ("times",)

    known = taught_scene(changing.info, Timed())
    assert known.cameras["val"].times is not None
    assert known.cameras["val"].attributes is None
    assert known.attributes == ()
    assert taught_scene(changing.info, Masked()).attributes == ("head", "arm")
    assert taught_scene(changing.info, Ball()).cameras["train"].times is None


def conerf_of(folder: Path, scene: Scene) -> Run:
    """A teacher that tells the attributes of a moment."""
    config = CoNeRFConfig(
        rays=16, samples=4, importance=2, depth=2, width=8, skip=1, view_width=8, position_octaves=2,
        direction_octaves=1, code_width=4, warp_depth=2, warp_width=8, sheet_depth=2, sheet_width=8, mask_depth=2,
        mask_width=8, mask_branch_width=8, attribute_depth=2, attribute_width=8,
    )  # fmt: skip
    return run_of(folder, "conerf", config, scene)


def test_students_that_know_no_attributes_see_those_of_the_moment(
    tmp_path: Path, changing: Scene, capsys, caplog
) -> None:
    """Not random ones, which the time does not tell."""
    teacher = conerf_of(tmp_path / "conerf", changing)
    live = LiveOptions(cameras=3, ring=64)
    seen, told = (
        from_teacher(teacher.path, 32, 0, live, "cpu", "float32", attributes=sees) for sees in (True, False)
    )
    assert (seen.tells, told.tells) == (("times", "attributes"), ("times",))
    assert told.info.attributes == ()
    assert seen.provenance != told.provenance
    for origin in (seen, told):
        batch = origin.source.batch(0, 32)
        assert (batch.rays.attributes is not None) is (origin is seen)
        assert (batch.attribute_masks is not None) is (origin is seen)
        drawn = teacher.load_renderer("cpu").render(batch.rays).rgb
        torch.testing.assert_close(batch.rgba[:, :3], drawn, atol=1e-5, rtol=0)
    distil = ["distill", "dylin", teacher.path, "--cameras", "3", "--ring", "64", "--max-steps", "2", *COMMON]
    assert main([str(word) for word in (*distil, "--run", tmp_path / "live")]) == 0
    assert Run.open(tmp_path / "live").info.attributes == ()
    assert "drawn at random" not in caplog.text
    for kind, name in (("sampled", "a"), ("told", "b")):
        bake = ["bake", str(teacher.path), "--out", str(tmp_path / name), "--views", "2", "--width", "4"]
        assert main([*bake, "--attributes", kind, "--device", "cpu"]) == 0
        shards = Shards.open(tmp_path / name)
        assert (shards.cameras.attributes is None) is (kind == "told")
        assert shards.plan.masks == (0 if kind == "told" else 2)
        run = ["--run", tmp_path / f"of-{name}", "--max-steps", "2", *COMMON]
        caplog.clear()
        assert main([str(word) for word in ("distill", "dylin", tmp_path / name, *run)]) == 0
        assert ("drawn at random" in caplog.text) is (kind == "sampled")
    run = ["--run", tmp_path / "controlled", "--max-steps", "2", *COMMON]
    assert "do not go by attributes" in refusal(capsys, "distill", "codylin", tmp_path / "b", *run)


def test_a_teacher_that_needs_attributes_is_asked_with_the_middle_ones(
    tmp_path: Path, changing: Scene
) -> None:
    teacher = run_of(tmp_path / "codylin", "codylin", CoDyLiNConfig(**TINY, zero_heads=False), changing)
    origin = from_teacher(teacher.path, 32, 0, LiveOptions(cameras=3), "cpu", "float32", attributes=False)
    batch = origin.source.batch(0, 32)
    assert batch.rays.attributes is None
    middle = replace(batch.rays, attributes=torch.zeros(32, 2))
    drawn = teacher.load_renderer("cpu").render(middle).rgb
    torch.testing.assert_close(batch.rgba[:, :3], drawn, atol=1e-5, rtol=0)
    bake = ["bake", str(teacher.path), "--out", str(tmp_path / "s"), "--views", "2", "--width", "4"]
    assert main([*bake, "--attributes", "told", "--device", "cpu"]) == 0
    assert not Shards.open(tmp_path / "s").cameras.attributes.any()
    stored = from_shards(tmp_path / "s", 0)
    assert stored.tells == ("times",)
    assert stored.source.batch(0, 8).rays.attributes is None


def test_views_of_unknown_attributes_do_not_decide_when_to_stop(changing: Scene) -> None:
    def unknown(split: str, places: list[int]) -> Scene:
        values = changing.info.cameras[split].attributes.clone()
        values[places, 1] = torch.nan
        part = views(replace(changing.info.cameras[split], attributes=values))
        return replace(changing, views={**changing.views, split: part})

    needs = ("attributes",)
    assert len(training_and_validation(unknown("val", [0]))[1]) == 2
    judging = training_and_validation(unknown("val", [0]), needs)[1]
    assert judging.cameras.attributes.tolist() == changing.info.cameras["val"].attributes[1:].tolist()
    with pytest.raises(LumigraphError, match="the attributes of no validation view are known"):
        training_and_validation(unknown("val", [0, 1]), needs)
    without = unknown("train", [5])
    without = replace(without, views={"train": without.views["train"]})
    assert training_and_validation(without)[1].names == ["5.png"]
    assert training_and_validation(without, needs)[1].names == ["6.png"]


@pytest.mark.parametrize("method", ["dylin", "codylin"])
def test_from_teacher_to_student_and_on(tmp_path: Path, changing: Scene, method: str) -> None:
    """Baked, distilled in two parts that equal one, and distilled live."""
    config = CoDyLiNConfig(**TINY, zero_heads=False) if method == "codylin" else DyLiNConfig(**TINY)
    teacher = run_of(tmp_path / "teacher", method, config, changing)
    out = tmp_path / "shards"
    bake = ["bake", str(teacher.path), "--out", str(out), "--views", "6", "--width", "8", "--device", "cpu"]
    assert main([*bake, "--times", "frames", "--poses", "between"]) == 0
    shards = Shards.open(out)
    assert shards.plan.masks == (2 if method == "codylin" else 0)
    assert set(shards.cameras.times.tolist()) <= set(changing.info.cameras["train"].times.tolist())
    assert (shards.cameras.attributes is not None) is (method == "codylin")
    runs = [tmp_path / "whole", tmp_path / "cut"]
    for run, parts in zip(runs, (("8",), ("5", "8")), strict=True):
        for steps in parts:
            distil = ["distill", method, str(out), "--run", str(run), "--max-steps", steps, "--resume"]
            assert main([*distil, *COMMON]) == 0
    weights = [load_tensors(run / "weights.safetensors")[0] for run in runs]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    live = ["distill", method, str(teacher.path), "--run", str(tmp_path / "live"), "--max-steps", "3"]
    assert main([*live, *COMMON, "--times", "uniform", "--cameras", "3", "--ring", "256"]) == 0


PICTURES = [
    *("--points", "3", "--octaves", "2", "--width", "8", "--blocks", "1", "--up-blocks", "0"),
    *("--up-widths", "8", "8", "--pictures", "2", "--motion-octaves", "2", "--offset-width", "8"),
    *("--hyper-width", "8", "--device", "cpu", "--precision", "float32"),
]


def test_every_verb_takes_a_changing_student_of_whole_pictures(
    tmp_path: Path, changing: Scene, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    teacher = run_of(tmp_path / "teacher", "codylin", CoDyLiNConfig(**TINY, zero_heads=False), changing)
    photos = Scene(changing.info, {split: views(part) for split, part in changing.info.cameras.items()})
    monkeypatch.setattr("lumigraph.scenes.load.load_scene_like", lambda *a, **k: photos)

    def call(*words: object) -> None:
        assert main([str(word) for word in words]) == 0

    shards, run = tmp_path / "shards", tmp_path / "student"
    call("bake", teacher.path, "--out", shards, "--views", 6, "--device", "cpu")
    call("distill", "mobile-dylin", shards, "--run", run, "--max-steps", 3, *PICTURES)
    assert Run.open(run).load_renderer("cpu").conditions == ("times", "attributes")
    live = ["distill", "mobile-dylin", teacher.path, "--run", tmp_path / "live", "--cameras", 4]
    call(*live, "--max-steps", 2, *PICTURES)
    call(*live, "--max-steps", 4, *PICTURES, "--resume")
    assert Run.open(tmp_path / "live").results["training"]["step"] == 4
    mixed = ["--pseudo-ratio", 0.5, "--scene", "builtin:ball"]
    call("distill", "mobile-dylin", shards, "--run", tmp_path / "mixed", "--max-steps", 2, *mixed, *PICTURES)
    tuned = ["--pseudo", shards, "--pseudo-ratio", 0.5, "--max-steps", 2, "--check-every", 1]
    call("finetune", run, "builtin:ball", "--run", tmp_path / "tuned", *tuned, "--device", "cpu")
    call("eval", run, "--split", "val", "--json", tmp_path / "eval.json")
    measured = json.loads((tmp_path / "eval.json").read_text())
    assert [part["from"] for part in measured["by_time"]] == [0.0, 0.9]
    shown = [tmp_path / "a.png", tmp_path / "b.png"]
    states = [("--time", 0.2, "--attribute", "head=-1"), ("--time", 0.9, "--attribute", "head=1")]
    for file, words in zip(shown, states, strict=True):
        call("render", run, "--path", "view", *words, "--out", file)
    movie = ["--path", "time", "--frames", 2, "--edit", "1=-1..1", "--hyper-code", tmp_path / "codes"]
    call("render", run, *movie, "--out", tmp_path / "time.gif")
    # The 8 numbers of the small network, the time and the two attributes.
    assert len(list((tmp_path / "codes").glob("*.png"))) == 2 * 11
    still = run_of(tmp_path / "still", "r2l", TEACHER, changing)
    told = ["distill", "mobile-dylin", still.path, "--run", tmp_path / "none", "--max-steps", "2"]
    assert "do not go by times or attributes" in refusal(capsys, *told, *PICTURES)
    assert not (tmp_path / "none").exists()


def test_a_student_goes_on_learning_from_what_tells_as_much(changing: Scene) -> None:
    student = load_renderer_class("mobile-dylin")
    assert needed_by(student, changing.info) == ("times", "attributes")
    assert needed_by(student, make_scene("moving", 2, 1, 0, size=8).info) == ("times",)
    assert needed_by(load_renderer_class("r2l"), changing.info) == ()


def refusal(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    assert main([str(word) for word in words]) == 2
    return capsys.readouterr().err


def test_what_does_not_tell_how_it_changes_is_refused(tmp_path: Path, changing: Scene, capsys) -> None:
    still = run_of(tmp_path / "still", "r2l", TEACHER, changing)
    moving = run_of(tmp_path / "moving", "dylin", DyLiNConfig(**TINY), changing)
    run = ["--run", tmp_path / "student", "--max-steps", "2"]
    assert "do not go by times" in refusal(capsys, "distill", "dylin", still.path, *run, *COMMON)
    assert "do not go by attributes" in refusal(capsys, "distill", "codylin", moving.path, *run, *COMMON)
    bake = ["bake", str(still.path), "--out", str(tmp_path / "s"), "--views", "6", "--width", "8"]
    assert main(bake) == 0
    assert "do not go by times" in refusal(capsys, "distill", "dylin", tmp_path / "s", *run, *COMMON)
    assert not (tmp_path / "student").exists()


def test_a_still_student_of_a_moving_teacher_is_warned_of(tmp_path: Path, changing: Scene, caplog) -> None:
    moving = run_of(tmp_path / "moving", "dylin", DyLiNConfig(**TINY), changing)
    small = ["--width", "8", "--depth", "4", "--points", "3", "--octaves", "2", "--rays", "16"]
    run = ["--run", str(tmp_path / "student"), "--max-steps", "2", "--device", "cpu", "--cameras", "3"]
    with caplog.at_level(logging.WARNING, logger="lumigraph"):
        assert main(["distill", "r2l", str(moving.path), *run, *small, "--ring", "64"]) == 0
    assert "12 different times, and r2l learns a still one" in caplog.text


def test_ray_files_of_unit_directions_want_a_student_that_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    rows = np.random.default_rng(0).uniform(size=(64, 12)).astype(np.float32)
    rows[:, 6:9] = rows[:, 6:7]
    np.save(tmp_path / "data_1.npy", rows)
    told = ["--scene", "builtin:moving:16", "--layout", "dylin-hypernerf"]
    distil = ["distill", "dylin", tmp_path, *told, "--run", tmp_path / "student", "--max-steps", "2", *COMMON]
    assert "--unit-directions" in refusal(capsys, *distil)
    assert main([str(word) for word in (*distil, "--unit-directions")]) == 0
    assert "do not go by attributes" in refusal(capsys, *("codylin" if w == "dylin" else w for w in distil))


def test_photos_without_times_do_not_fine_tune_a_moving_student(tmp_path: Path) -> None:
    moving = make_scene("moving", 12, 2, 0, size=8)
    student = run_of(tmp_path / "student", "dylin", DyLiNConfig(**TINY), moving)
    still = {split: replace(part, times=None) for split, part in moving.info.cameras.items()}
    options = TrainOptions(run=student.path, max_steps=2, device="cpu", precision="float32")
    photos = Scene(replace(moving.info, cameras=still), moving.views)
    with pytest.raises(LumigraphError, match="its photos have no times"):
        finetune(student, photos, options, EarlyStopping())
    done = finetune(student, moving, options, EarlyStopping(every=1), lr=1e-3)
    assert done.val_psnr_after >= done.val_psnr_before
