"""Pseudo views on disk: the same bytes however baking was cut up, and damage that is noticed."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lumigraph.cli.main import main
from lumigraph.configs.r2l import R2LConfig
from lumigraph.distillation.bake import _bake_part, bake, bake_shards, prepare, quantise
from lumigraph.distillation.poses import sample_poses
from lumigraph.distillation.shard_source import MixedSource, ShardSource
from lumigraph.distillation.shards import Plan, Shards, finish, is_written, read_plan, write_array
from lumigraph.errors import LumigraphError
from lumigraph.scenes.scene import Scene
from lumigraph.students.r2l import R2L
from lumigraph.training.runs import Run
from lumigraph.training.sources import PhotoSource

from .conftest import Ball


def plan_of(scene: Scene, views: int = 7, **options) -> Plan:
    return Plan(sample_poses("fitted", views, 0, scene.info.cameras["train"]), scene.info, 3, **options)


def baked(folder: Path, scene: Scene, **options) -> Shards:
    plan = plan_of(scene, **options)
    assert prepare(folder, plan, resume=False, overwrite=False)
    bake_shards(Ball(), folder, plan, list(range(plan.count)))
    finish(folder, plan)
    return Shards.open(folder)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("bits", [8, 16])
def test_views_come_back(tmp_path: Path, scene: Scene, bits: int) -> None:
    shards = baked(tmp_path / "s", scene, bits=bits, depth=True)
    assert len(shards) == 7
    assert {path.name for path in (tmp_path / "s").iterdir()} == {
        "index.json",
        *(f"{i:05d}{kind}.npy" for i in range(3) for kind in ("", ".depth")),
    }
    assert np.load(tmp_path / "s" / "00000.npy").shape == (3, 20, 20, 3)
    source = ShardSource(shards, seed=4)
    batch = source.batch(9, 500)
    truth = Ball().render(batch.rays)
    assert float((batch.rgba[:, :3] - truth.rgb).abs().max()) <= 0.5001 / (2**bits - 1)
    torch.testing.assert_close(batch.depth, truth.depth, equal_nan=True, atol=1e-4, rtol=1e-4)
    assert bool((batch.rgba[:, 3] == 1).all())


def test_killed_baking_goes_on_to_the_same_bytes(tmp_path: Path, scene: Scene, teacher: Run) -> None:
    plan = plan_of(scene)
    for name in ("whole", "cut", "two"):
        assert prepare(tmp_path / name, plan, resume=False, overwrite=False)
    bake(teacher.path, tmp_path / "whole", plan, device="cpu", precision="float32")
    cut = tmp_path / "cut"
    bake_shards(teacher.load_renderer("cpu"), cut, plan, [1])
    (cut / "00002.npy").write_bytes(b"half")  # as a file system may leave it after a power cut
    with pytest.raises(LumigraphError, match="not finished"):
        Shards.open(cut)
    with pytest.raises(LumigraphError, match="--resume"):
        prepare(cut, plan, resume=False, overwrite=False)
    kept = (cut / "00001.npy").stat().st_mtime_ns
    assert prepare(cut, plan, resume=True, overwrite=False)
    done = bake(teacher.path, cut, plan, device="cpu", precision="float32")
    assert done.views == 4
    assert (cut / "00001.npy").stat().st_mtime_ns == kept
    assert bytes_of(cut) == bytes_of(tmp_path / "whole")
    assert not prepare(cut, plan, resume=True, overwrite=False)
    # Two processes, each every second shard.
    two = tmp_path / "two"
    for rank in (1, 0):
        _bake_part(teacher.path, two, "cpu", "float32", rank, 2)
    finish(two, plan)
    assert bytes_of(two) == bytes_of(tmp_path / "whole")


def test_an_interrupted_bake_says_how_to_go_on(tmp_path: Path, teacher: Run, monkeypatch, capsys) -> None:
    bake = [
        "bake",
        str(teacher.path),
        "--out",
        str(tmp_path / "views"),
        "--views",
        "4",
        "--views-per-shard",
        "2",
    ]
    bake += ["--device", "cpu", "--precision", "float32"]
    written = []

    def interrupted(*arguments, **more) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(write_array(*arguments, **more))

    with monkeypatch.context() as patch:
        patch.setattr("lumigraph.distillation.bake.write_array", interrupted)
        assert main(bake) == 130
    said = capsys.readouterr().err
    assert said.endswith("lumigraph: interrupted; the same command with --resume goes on\n")
    assert main([*bake, "--resume"]) == 0
    assert "2 of them made now" in capsys.readouterr().out
    monkeypatch.setattr("lumigraph.distillation.bake.write_array", interrupted)
    assert main([*bake, "--overwrite"]) == 130
    assert "--resume in place of --overwrite goes on" in capsys.readouterr().err


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("removed", [True, False])
def test_damaged_views_are_refused_and_made_anew(tmp_path: Path, teacher: Run, removed: bool, capsys) -> None:
    """From the command line: what the message says to do is enough."""
    views = tmp_path / "views"
    common = ["--device", "cpu", "--precision", "float32"]
    bake = ["bake", str(teacher.path), "--out", str(views), "--views", "7", "--views-per-shard", "3", *common]
    small = ["--width", "16", "--depth", "6", "--points", "4", "--octaves", "3", "--rays", "32"]
    student = tmp_path / "student"
    distil = ["distill", "r2l", str(views), "--run", str(student), "--max-steps", "2", *small, *common]
    assert main(bake) == 0
    good = bytes_of(views)
    kept = (views / "00000.npy").stat().st_mtime_ns
    for name in ("00001.npy", "00002.npy"):
        flip(views / name)
    capsys.readouterr()
    assert main(distil) == 2
    message = capsys.readouterr().err
    assert "00001.npy" in message
    assert "--resume" in message
    assert not student.exists()
    if removed:
        (views / "00001.npy").unlink()
    assert main([*bake, "--resume"]) == 0
    assert (
        "4 of them made now" in capsys.readouterr().out
    )  # views of the two damaged files, the second one found by itself
    assert bytes_of(views) == good
    assert (views / "00000.npy").stat().st_mtime_ns == kept
    assert main(distil) == 0
    assert main([*bake, "--resume"]) == 0
    assert "finished already" in capsys.readouterr().out


def test_of_colours_and_depth_only_the_damaged_file_is_made_anew(tmp_path: Path, scene: Scene) -> None:
    folder, plan = tmp_path / "s", plan_of(scene, depth=True)
    baked(folder, scene, depth=True)
    good = bytes_of(folder)
    times = {name: (folder / name).stat().st_mtime_ns for name in plan.names()}
    flip(folder / "00001.depth.npy")
    assert prepare(folder, plan, resume=True, overwrite=False)
    assert not (folder / "00001.depth.npy").exists()
    bake_shards(Ball(), folder, plan, list(range(plan.count)))
    finish(folder, plan)
    assert bytes_of(folder) == good
    changed = {name for name, before in times.items() if (folder / name).stat().st_mtime_ns != before}
    assert changed == {"00001.depth.npy"}


@pytest.mark.parametrize("resume", [True, False])
def test_killed_at_its_first_file(tmp_path: Path, scene: Scene, resume: bool) -> None:
    folder = tmp_path / "s"
    code = """
import os, sys
from pathlib import Path
from lumigraph.files import new_file

with new_file(Path(sys.argv[1]) / "plan.json"):
    os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", code, str(folder)], check=False).returncode == 9
    assert [path.name.startswith(".plan.json.tmp") for path in folder.iterdir()] == [True]
    plan = plan_of(scene)
    assert prepare(folder, plan, resume=resume, overwrite=False)
    bake_shards(Ball(), folder, plan, list(range(plan.count)))
    finish(folder, plan)
    assert not list(folder.glob(".*"))
    assert len(Shards.open(folder)) == 7


@pytest.mark.slow
def test_lightning_launches_several_processes(tmp_path: Path, scene: Scene, teacher: Run) -> None:
    plan = plan_of(scene)
    for name, devices in (("one", 1), ("two", 2)):
        prepare(tmp_path / name, plan, resume=False, overwrite=False)
        bake(teacher.path, tmp_path / name, plan, device="cpu", precision="float32", devices=devices)
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")


def test_going_on_needs_the_same_plan(tmp_path: Path, scene: Scene) -> None:
    plan = plan_of(scene)
    prepare(tmp_path / "s", plan, resume=False, overwrite=False)
    other = replace(plan, cameras=sample_poses("r2l", 7, 0, scene.info.cameras["train"]))
    with pytest.raises(LumigraphError, match="begun differently: cameras"):
        prepare(tmp_path / "s", other, resume=True, overwrite=False)
    assert prepare(tmp_path / "s", other, resume=False, overwrite=True)
    begun = read_plan(tmp_path / "s")
    assert begun is not None
    assert begun.to_json() == other.to_json()


def test_other_folders_are_never_touched(tmp_path: Path, scene: Scene) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    for overwrite in (False, True):
        with pytest.raises(LumigraphError, match="not pseudo views"):
            prepare(tmp_path / "mine", plan_of(scene), resume=False, overwrite=overwrite)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]


def test_damage_is_named(tmp_path: Path, scene: Scene) -> None:
    shards = baked(tmp_path / "s", scene)
    path = tmp_path / "s" / "00001.npy"
    good = path.read_bytes()
    path.write_bytes(good[:-5])
    with pytest.raises(LumigraphError, match=r"damaged.*00001\.npy"):
        Shards.open(tmp_path / "s")
    path.write_bytes(b"\0" * len(good))
    with pytest.raises(LumigraphError, match=r"does not hold.*00001\.npy"):
        Shards.open(tmp_path / "s")
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(LumigraphError, match=r"altered.*00001\.npy.*--resume"):
        Shards.open(tmp_path / "s")
    path.unlink()
    with pytest.raises(LumigraphError, match=r"missing.*00001\.npy.*--resume"):
        Shards.open(tmp_path / "s")
    del shards
    index = tmp_path / "s" / "index.json"
    for text in ("{", "[]", '{"kind": "lumigraph pseudo views", "schema": 99}'):
        index.write_text(text)
        with pytest.raises(LumigraphError, match=r"index\.json"):
            Shards.open(tmp_path / "s")


def test_depth_needs_a_renderer_with_depth(tmp_path: Path, scene: Scene, teacher: Run) -> None:
    plan = plan_of(scene, depth=True)
    prepare(tmp_path / "s", plan, resume=False, overwrite=False)
    with pytest.raises(LumigraphError, match="no depth"):
        bake_shards(teacher.load_renderer("cpu"), tmp_path / "s", plan, [0])
    assert not is_written(tmp_path / "s", plan, 0)


def test_draws_are_independent_and_repeatable(tmp_path: Path, scene: Scene) -> None:
    shards = baked(tmp_path / "s", scene)
    source = ShardSource(shards, seed=4)
    first, again, next_step = source.batch(3, 64), source.batch(3, 64), source.batch(4, 64)
    assert torch.equal(first.rays.origins, again.rays.origins)
    assert not torch.equal(first.rays.origins, next_step.rays.origins)
    held = ShardSource(shards, seed=4, hold_ratio=0.5, last=1).batch(0, 2000)
    assert len(held.rays.origins.unique(dim=0)) == 3


def test_empty_pixels_are_drawn_less_often(tmp_path: Path, scene: Scene) -> None:
    shards = baked(tmp_path / "s", scene)

    def parts(empty_share: float) -> tuple[float, float]:
        """How often an empty pixel was drawn, on average, and how often another."""
        batch = ShardSource(shards, seed=4, empty_share=empty_share).batch(0, 20_000)
        empty = int((batch.rgba[:, :3] == 1).all(1).sum())
        images = np.stack([shards.image(view) for view in range(len(shards))])
        empty_pixels = int((images == 255).all(-1).sum())
        return empty / empty_pixels, (20_000 - empty) / (images[..., 0].size - empty_pixels)

    often, rarely = parts(1.0), parts(0.25)
    assert often[0] == pytest.approx(often[1], rel=0.1)
    assert rarely[0] == pytest.approx(0.25 * rarely[1], rel=0.1)
    source = ShardSource(shards, seed=4, empty_share=0.25)
    assert torch.equal(source.batch(3, 64).rays.origins, source.batch(3, 64).rays.origins)


def test_photos_without_background_have_no_empty_pixels(tmp_path: Path, scene: Scene) -> None:
    opaque = replace(scene, info=replace(scene.info, background="opaque"))
    shards = baked(tmp_path / "s", opaque)
    batches = [ShardSource(shards, seed=4, empty_share=share).batch(3, 64) for share in (0.25, 1.0)]
    assert torch.equal(batches[0].rays.origins, batches[1].rays.origins)


def test_a_share_of_nothing_is_refused(tmp_path: Path, scene: Scene) -> None:
    with pytest.raises(LumigraphError, match="share of empty pixels"):
        ShardSource(baked(tmp_path / "s", scene), seed=4, empty_share=0.0)


def test_mixture_has_both_parts(tmp_path: Path, scene: Scene) -> None:
    photos = PhotoSource(scene.views["train"], 0)
    mixed = MixedSource(ShardSource(baked(tmp_path / "s", scene), 0), photos, 0.25)
    batch = mixed.batch(0, 40)
    assert len(batch.rays) == 40
    assert (batch.rays.camera_ids == -1).sum() == 10
    assert torch.equal(batch.rgba[10:], photos.batch(0, 30).rgba)


@pytest.mark.parametrize("first", ["views", "photos"])
def test_mixture_keeps_the_depth_that_one_part_has(tmp_path: Path, scene: Scene, first: str) -> None:
    """The other part's is unknown, and a student learns from what is known."""
    views = ShardSource(baked(tmp_path / "s", scene, depth=True), 0)
    photos = PhotoSource(scene.views["train"], 0)
    mixed = MixedSource(views, photos, 0.25) if first == "views" else MixedSource(photos, views, 0.75)
    batch = mixed.batch(0, 40)
    assert batch.depth is not None
    pseudo = batch.rays.camera_ids == -1
    assert int(pseudo.sum()) == 10
    assert bool(batch.depth[~pseudo].isnan().all())
    assert torch.equal(batch.depth[pseudo].nan_to_num(-1), views.batch(0, 10).depth.nan_to_num(-1))
    assert bool(batch.depth[pseudo].isfinite().any())
    config = R2LConfig(width=16, depth=6, points=4, octaves=3, learn_depth=True)
    losses = R2L.from_scene(config, scene.info).losses(batch, 0, 0)
    assert 0 < float(losses.terms["depth"]) < float("inf")
    assert MixedSource(photos, photos, 0.5).batch(0, 40).depth is None


def test_colours_are_rounded() -> None:
    values = torch.tensor([[[-0.1, 0.5, 1.2]]])
    assert quantise(values, 8).tolist() == [[[0, 128, 255]]]
    assert quantise(values, 16).tolist() == [[[0, 32768, 65535]]]
