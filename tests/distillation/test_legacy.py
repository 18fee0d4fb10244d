"""The published ray files: there and back, and layouts that are not mistaken for each other."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lumigraph.cli.main import main
from lumigraph.distillation.bake import bake_shards, prepare
from lumigraph.distillation.hard_rays import HardPool
from lumigraph.distillation.legacy import LegacySource, RayFrames
from lumigraph.distillation.legacy_export import export_legacy, export_photos
from lumigraph.distillation.poses import sample_poses
from lumigraph.distillation.shard_source import MixedSource
from lumigraph.distillation.shards import Plan, Shards, finish
from lumigraph.errors import LumigraphError
from lumigraph.evaluation.evaluate import evaluate_frames
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.conventions import transform_rays
from lumigraph.geometry.rotations import so3_exp
from lumigraph.scenes.load import load_scene
from lumigraph.scenes.procedural import make_scene, write_blender
from lumigraph.scenes.scene import Scene, Views
from lumigraph.training.runs import Run
from lumigraph.training.sources import PhotoSource

from .conftest import Ball, Masked


@pytest.fixture
def moved(scene: Scene) -> Scene:
    """The scene with a world transform that is not the identity."""
    transform = torch.eye(4, dtype=torch.float64)
    transform[:3, :3] = 0.5 * so3_exp(torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64))
    transform[:3, 3] = torch.tensor([0.1, 2.0, -0.4])
    return replace(scene, info=replace(scene.info, world_transform=transform))


def shards_of(folder: Path, scene: Scene, views: int) -> Shards:
    plan = Plan(sample_poses("fitted", views, 0, scene.info.cameras["train"]), scene.info, 32)
    prepare(folder, plan, resume=False, overwrite=False)
    bake_shards(Ball(), folder, plan, list(range(plan.count)))
    finish(folder, plan)
    return Shards.open(folder)


def write_rows(path: Path, rows: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    np.save(path, rows.astype(np.float32))


def timed_rows(count: int = 64) -> np.ndarray:
    """Rows of 12 columns with times from 0 to 1."""
    rows = np.random.default_rng(0).uniform(size=(count, 12)).astype(np.float32)
    rows[:, 6:9] = np.linspace(0, 1, count)[:, None]
    return rows


def test_round_trip(tmp_path: Path, moved: Scene) -> None:
    shards = shards_of(tmp_path / "s", moved, views=22)
    assert export_legacy(shards, tmp_path / "rays") == 2
    names = sorted(path.name for path in (tmp_path / "rays").iterdir())
    assert names == ["data_1.npy", "data_2.npy", "manifest.json"]
    table = np.load(tmp_path / "rays" / "data_1.npy")
    assert table.shape == (4096, 9)
    assert table.dtype == np.float32
    assert (tmp_path / "rays" / "data_1.npy").stat().st_size == 147_584
    batch = LegacySource(tmp_path / "rays", moved.info, seed=0).batch(5, 300)
    truth = Ball().render(batch.rays)
    assert float((batch.rgba[:, :3] - truth.rgb).abs().mean()) < 0.004
    assert batch.depth is None


def test_depth_layouts(tmp_path: Path, moved: Scene) -> None:
    rng = np.random.default_rng(0)
    rays = rng.uniform(size=(50, 9)).astype(np.float32)
    depth = rng.uniform(2, 6, size=(50, 1)).astype(np.float32)
    surface = rays[:, :3] + depth * rays[:, 3:6]
    for layout, extra in (("r2l-depth", depth), ("r2l-surface", surface)):
        write_rows(tmp_path / layout / "data_1.npy", np.concatenate([rays, extra], 1))
        source = LegacySource(tmp_path / layout, moved.info, 0, layout)
        read = source.batch_of(torch.from_numpy(source.rows(np.arange(50))))
        torch.testing.assert_close(read.depth, torch.from_numpy(0.5 * depth[:, 0]), atol=1e-4, rtol=1e-4)


def test_twelve_columns_are_not_guessed(tmp_path: Path, scene: Scene) -> None:
    rows = timed_rows()
    write_rows(tmp_path / "train_0.npy", rows)
    with pytest.raises(LumigraphError, match="r2l-surface or dylin or dylin-hypernerf"):
        LegacySource(tmp_path, scene.info, 0)
    with pytest.raises(LumigraphError, match="9 columns, the file has 12"):
        LegacySource(tmp_path, scene.info, 0, "r2l")
    source = LegacySource(tmp_path, scene.info, 0, "dylin")
    read = source.batch_of(torch.from_numpy(rows))
    assert torch.equal(read.rays.times, torch.from_numpy(rows[:, 6]))
    assert torch.equal(read.rgba[:, :3], torch.from_numpy(rows[:, 9:]))
    assert source.table.tells == ("times",)


def moving(scene: Scene, attributes: tuple[str, ...] = ()) -> Scene:
    """The scene with cameras that have times, and attributes."""
    part = scene.info.cameras["train"]
    values = torch.linspace(-1, 1, len(attributes) * len(part)).reshape(len(part), -1) if attributes else None
    part = replace(part, times=torch.linspace(0, 1, len(part)), attributes=values)
    return replace(scene, info=replace(scene.info, cameras={"train": part}, attributes=attributes))


@pytest.mark.parametrize("layout", [None, "dylin-hypernerf"])
def test_rays_with_times_there_and_back(tmp_path: Path, moved: Scene, layout) -> None:
    """Both published twelve columns; the manifest tells them apart."""
    scene = moving(moved)
    shards = shards_of(tmp_path / "s", scene, views=22)
    assert export_legacy(shards, tmp_path / "rays", layout=layout) == 2
    file = tmp_path / "rays" / "data_1.npy"
    assert file.stat().st_size == 196_736
    table = np.load(file)
    assert np.array_equal(table[:, 6], table[:, 7])
    assert np.array_equal(table[:, 6], table[:, 8])
    source = LegacySource(tmp_path / "rays", scene.info, seed=0)
    assert source.table.layout == (layout or "dylin")
    batch = source.batch(5, 300)
    assert float((batch.rgba[:, :3] - Ball().render(batch.rays).rgb).abs().mean()) < 0.004
    assert set(batch.rays.times.tolist()) <= set(shards.cameras.times.tolist())
    lengths = torch.from_numpy(table[:, 3:6]).norm(dim=1)
    assert bool(((lengths - 1).abs() < 1e-5).all()) is (layout is not None)
    if layout is not None:
        assert float((batch.rays.origins.norm(dim=1)).max()) < 10  # scene units, not those of the capture
        with pytest.raises(LumigraphError, match="layout dylin-hypernerf, not dylin"):
            LegacySource(tmp_path / "rays", scene.info, 0, "dylin")


def test_published_times_that_end_early_are_stretched(tmp_path: Path, scene: Scene) -> None:
    rows = np.random.default_rng(0).uniform(size=(64, 12))  # float64, as the published files of photos are
    rows[:, 6:9] = np.linspace(0, 0.5, 64)[:, None]
    np.save(tmp_path / "train_0.npy", rows)
    (tmp_path / "manifest.json").write_text('{"layout": "dylin-hypernerf", "times": [0, 0.5]}')
    source = LegacySource(tmp_path, scene.info, 0)
    read = source.batch_of(torch.from_numpy(source.rows(np.arange(64))))
    assert read.rgba.dtype == torch.float32
    torch.testing.assert_close(read.rays.times, torch.linspace(0, 1, 64))
    torch.testing.assert_close(read.rays.origins, torch.from_numpy(rows[:, :3]).float())
    for wrong in (
        '{"layout": "dylin", "times": [1, 0]}',
        '{"layout": "fast"}',
        "[]",
        '{"layout": "codylin"}',
    ):
        (tmp_path / "manifest.json").write_text(wrong)
        with pytest.raises(LumigraphError, match="manifest"):
            LegacySource(tmp_path, scene.info, 0)


def test_attributes_and_masks_there_and_back(tmp_path: Path, scene: Scene) -> None:
    scene = moving(scene, ("head", "arm"))
    plan = Plan(sample_poses("fitted", 22, 0, scene.info.cameras["train"]), scene.info, 32, masks=2)
    prepare(tmp_path / "s", plan, resume=False, overwrite=False)
    bake_shards(Masked(), tmp_path / "s", plan, [0])
    finish(tmp_path / "s", plan)
    shards = Shards.open(tmp_path / "s")
    export_legacy(shards, tmp_path / "rays")
    names = json.loads((tmp_path / "rays" / "manifest.json").read_text())["columns"]
    assert names[6:] == ["t", "attribute head", "attribute arm", "r", "g", "b", "mask head", "mask arm"]
    source = LegacySource(tmp_path / "rays", scene.info, seed=0)
    assert source.table.tells == ("times", "attributes")
    batch = source.batch(1, 200)
    torch.testing.assert_close(batch.attribute_masks, Masked().masks(batch.rays), atol=0.005, rtol=0)
    with pytest.raises(LumigraphError, match="head, arm"):
        LegacySource(tmp_path / "rays", replace(scene.info, attributes=("arm", "head")), 0)
    with pytest.raises(LumigraphError, match="no times"):
        export_legacy(shards_of(tmp_path / "still", scene_without(scene), 2), tmp_path / "x", layout="dylin")


def scene_without(scene: Scene) -> Scene:
    part = replace(scene.info.cameras["train"], times=None, attributes=None)
    return replace(scene, info=replace(scene.info, cameras={"train": part}, attributes=()))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (0, np.nan, "origin and direction are finite numbers, and these are nan"),
        (slice(3, 6), 0.0, "a direction has a length"),
        (slice(6, 9), 1.5, "times are numbers from 0 to 1, and these are 1.5"),
        (slice(6, 9), np.nan, "times are numbers from 0 to 1, and these are nan"),
        (7, 0.25, "the columns of the time are the same"),
        (10, 255.0, "colours are numbers from 0 to 1, and these are .* 255 "),
        (11, np.nan, "colours are numbers from 0 to 1"),
    ],
)
def test_values_that_columns_cannot_hold_are_named(
    tmp_path: Path, scene: Scene, column, value: float, message: str
) -> None:
    rows = timed_rows(5000)
    rows[40, column] = value
    write_rows(tmp_path / "train_0.npy", rows)
    with pytest.raises(LumigraphError, match=rf"row 40 .* layout dylin: {message}.*train_0\.npy"):
        LegacySource(tmp_path, scene.info, 0, "dylin")
    # Rows that are not looked at before are when they are drawn.
    rows[[40, 4500]] = rows[[4500, 40]]
    write_rows(tmp_path / "train_0.npy", rows)
    source = LegacySource(tmp_path, scene.info, 0, "dylin")
    assert source.rows(np.arange(4500)).shape == (4500, 12)
    with pytest.raises(LumigraphError, match=r"row 4500 .*train_0\.npy"):
        source.rows(np.array([7, 4500]))


def test_a_manifest_names_columns_that_make_sense(tmp_path: Path, scene: Scene) -> None:
    info = moving(scene, ("head", "arm")).info
    good = ["", "", "t", "attribute head", "attribute arm", "r", "g", "b", "mask head", "mask arm"]
    good[:2] = ["ox", "oy", "oz", "dx", "dy", "dz"]
    rows = np.random.default_rng(0).uniform(size=(64, len(good)))
    rows[:, 7] = np.nan  # nobody has said
    rows[:, 12] = np.nan
    write_rows(tmp_path / "data_1.npy", rows)

    def read(*columns: str) -> LegacySource:
        manifest = {"layout": "codylin", "columns": list(columns)}
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        return LegacySource(tmp_path, info, 0)

    batch = read(*good).batch(0, 10)
    assert batch.rays.attributes.isnan().tolist() == [[True, False]] * 10
    assert batch.attribute_masks.isnan().tolist() == [[True, False]] * 10
    for place, name, message in (
        (6, "tme", "there is no column 'tme'"),
        (8, "attribute head", "'attribute head' is named twice"),
        (13, "mask leg", "there are masks of head, leg, and attributes head, arm"),
        (12, "mask arm", "'mask arm' is named twice"),
    ):
        with pytest.raises(LumigraphError, match=message):
            read(*good[:place], name, *good[place + 1 :])
    with pytest.raises(LumigraphError, match="14 columns, and 13 in the manifest"):
        read(*good[:6], *good[7:])
    with pytest.raises(LumigraphError, match="layout codylin has columns of attributes"):
        read(*good[:7], *good[9:12])


def test_whole_frames_are_to_judge_by(tmp_path: Path, moved: Scene) -> None:
    """The published test files: the rays of a camera, in the order of its pixels."""
    camera = replace(moved.info.cameras["test"], times=torch.tensor([0.25]))
    rays = camera.view_rays(0)
    origins, directions = transform_rays(moved.info.to_capture, rays.origins, rays.directions)
    rgb = Ball().render(rays).rgb
    frame = torch.cat([origins, directions, rays.times[..., None].expand(-1, -1, 3), rgb], -1)
    for number in (2, 10):
        np.save(tmp_path / f"{number}.npy", frame.double().numpy())
    frames = RayFrames(tmp_path, moved.info, "dylin")
    assert frames.names == ["2.npy", "10.npy"]
    read = list(frames)[1]
    assert read.rays.shape == (20, 20)
    torch.testing.assert_close(read.rays.origins, rays.origins, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(read.rays.directions, rays.directions, atol=1e-5, rtol=1e-5)
    assert set(read.rays.times.flatten().tolist()) == {0.25}
    result = evaluate_frames(Ball(), frames)
    assert len(result.per_view) == 2
    assert result.psnr > 60
    assert result.per_view[0].time == 0.25
    np.save(tmp_path / "data_1.npy", frame.numpy())
    with pytest.raises(LumigraphError, match=r"\(20, 20, 12\).*lumigraph eval RUN --rays FOLDER"):
        LegacySource(tmp_path, moved.info, 0, "dylin")
    write_rows(tmp_path / "data_1.npy", timed_rows())
    with pytest.raises(LumigraphError, match=r"\(64, 12\).*lumigraph distill"):
        RayFrames(tmp_path, moved.info, "dylin")
    with pytest.raises(LumigraphError, match="no frames of rays here"):
        RayFrames(tmp_path / "nowhere", moved.info)


def test_eval_of_whole_frames(tmp_path: Path, teacher: Run, capsys) -> None:
    (tmp_path / "frames").mkdir()
    camera = teacher.info.cameras["test"]
    rays, shown = camera.view_rays(0), teacher.load_renderer("cpu").view(camera)
    frame = torch.cat([rays.origins, rays.directions, shown.rgb], -1)
    np.save(tmp_path / "frames" / "0.npy", frame.numpy())
    run, folder, out = str(teacher.path), str(tmp_path / "frames"), str(tmp_path / "result.json")
    assert main(["eval", run, "--rays", folder, "--json", out]) == 0
    data = json.loads(Path(out).read_text())
    assert (data["views"], data["rays"], data["per_view"][0]["name"]) == (1, folder, "0.npy")
    assert data["psnr"] > 60
    assert "frames, 1 frames of rays" in capsys.readouterr().out
    assert list(teacher.results) == [f"rays of {folder}"]
    for options, message in (
        (["--rays", folder, "--split", "test"], "--rays measures on frames of rays"),
        (["--layout", "r2l"], "--layout is for --rays"),
    ):
        assert main(["eval", run, *options]) == 2
        assert message in capsys.readouterr().err


def test_photos_become_ray_files(tmp_path: Path, moved: Scene) -> None:
    """As pseudo views do, with the time of each photo, on white; pixels outside masks are left out."""
    timed = moving(moved)
    scene = replace(timed, views={"train": with_cameras(moved.views["train"], timed.info.cameras["train"])})
    assert export_photos(scene, ("train",), tmp_path / "rays") == 12 * 400 // 4096
    assert sorted(path.name for path in (tmp_path / "rays").iterdir()) == ["manifest.json", "train_1.npy"]
    table = np.load(tmp_path / "rays" / "train_1.npy")
    assert table.shape == (4096, 12)
    assert np.array_equal(table[:, 6], table[:, 8])
    source = LegacySource(tmp_path / "rays", scene.info, seed=0)
    batch = source.batch(5, 300)
    assert float((batch.rgba[:, :3] - Ball().render(batch.rays).rgb).abs().mean()) < 0.004
    assert set(batch.rays.times.tolist()) <= set(scene.info.cameras["train"].times.tolist())
    with pytest.raises(LumigraphError, match="--overwrite"):
        export_photos(scene, ("train",), tmp_path / "rays")
    assert export_photos(scene, ("train",), tmp_path / "rays", overwrite=True, layout="dylin-hypernerf") == 1
    lengths = np.linalg.norm(np.load(tmp_path / "rays" / "train_1.npy")[:, 3:6], axis=1)
    assert np.allclose(lengths, 1, atol=1e-5)
    with pytest.raises(LumigraphError, match="no attributes, which layout codylin holds"):
        export_photos(scene, ("train",), tmp_path / "x", layout="codylin")
    with pytest.raises(LumigraphError, match="the scene has no test views"):
        export_photos(scene, ("train", "test"), tmp_path / "x")
    masked = with_cameras(moved.views["train"], timed.info.cameras["train"], used=0.25)
    with pytest.raises(LumigraphError, match="fewer than 4096 rays"):  # 1200 are left
        export_photos(replace(scene, views={"train": masked}), ("train",), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def with_cameras(views: Views, cameras: Cameras, used: float = 1.0) -> Views:
    """The same photos; `used`: the upper part of each that its mask leaves."""
    mask = np.arange(20)[:, None].repeat(20, 1) < 20 * used
    images = [views.image(index).numpy() for index in range(len(views))]
    return Views.from_arrays(cameras, views.names, images, masks=[mask] * len(views))


def test_the_verb_that_writes_photos(tmp_path: Path, capsys) -> None:
    """Of a scene with attributes: what it knows of them, and what each moves."""
    out = tmp_path / "rays"
    folder = tmp_path / "robot"
    write_blender(make_scene("attributes", 3, 0, 2, size=32), folder)
    rays = ["rays", str(folder), "--out", str(out)]
    assert main([*rays, "--splits", "train", "test"]) == 0
    assert "ray files of" in capsys.readouterr().out
    scene = load_scene(folder)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["columns"][6:] == [
        "attribute head", "attribute arm", "r", "g", "b", "mask head", "mask arm",
    ]  # fmt: skip
    batch = LegacySource(out, scene.info, 0).batch(0, 500)
    captured = torch.cat([scene.info.cameras[split].attributes for split in ("train", "test")])
    assert {tuple(row) for row in batch.rays.attributes.tolist()} <= {tuple(row) for row in captured.tolist()}
    assert float(batch.attribute_masks.max()) == 1.0
    for options, message in (
        (["--overwrite", "--layout", "dylin"], "the views have no times, which layout dylin holds"),
        (["--splits", "train", "train"], "--splits names each split once"),
        ([], "exists already"),
    ):
        assert main([*rays, *options]) == 2
        assert message in capsys.readouterr().err


def test_the_layout_is_checked_before_baking(tmp_path: Path, teacher: Run, capsys) -> None:
    bake = ["bake", str(teacher.path), "--out", str(tmp_path / "out"), "--views", "40"]
    legacy = ["--legacy", str(tmp_path / "rays")]
    for options, message in (
        ([*legacy, "--legacy-layout", "dylin"], "the views have no times, which layout dylin holds"),
        ([*legacy, "--width", "4"], "fewer than 4096 rays"),
        (["--legacy-layout", "r2l"], "--legacy-layout says how ray files are written, and none are"),
    ):
        assert main([*bake, *options]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_ten_columns_need_their_name(tmp_path: Path, scene: Scene) -> None:
    write_rows(tmp_path / "data_1.npy", np.ones((8, 10)))
    with pytest.raises(LumigraphError, match="r2l-depth"):
        LegacySource(tmp_path, scene.info, 0)


@pytest.mark.parametrize("content", [b"", b"no array", b"\x93NUMPY\x01\x00\x06\x00{}    "])
def test_damaged_files_are_named(tmp_path: Path, scene: Scene, content: bytes) -> None:
    (tmp_path / "data_1.npy").write_bytes(content)
    with pytest.raises(LumigraphError, match=r"data_1\.npy"):
        LegacySource(tmp_path, scene.info, 0)


def test_files_of_two_kinds_are_refused(tmp_path: Path, scene: Scene) -> None:
    write_rows(tmp_path / "data_1.npy", np.ones((8, 9)))
    write_rows(tmp_path / "data_2.npy", np.ones((8, 10)))
    with pytest.raises(LumigraphError, match=r"data_2\.npy"):
        LegacySource(tmp_path, scene.info, 0)


def test_too_few_rays_for_a_file(tmp_path: Path, scene: Scene) -> None:
    with pytest.raises(LumigraphError, match="fewer than 4096"):
        export_legacy(shards_of(tmp_path / "s", scene, views=2), tmp_path / "rays")
    assert not (tmp_path / "rays").exists()


def test_photos_can_be_mixed_in(tmp_path: Path, scene: Scene) -> None:
    write_rows(tmp_path / "data_1.npy", np.random.default_rng(0).uniform(size=(64, 9)))
    photos = PhotoSource(scene.views["train"], 0)
    mixed = MixedSource(LegacySource(tmp_path, scene.info, 0), photos, 0.5)
    source = HardPool(mixed, 20, (0.2, 0.2), 1, seed=0)
    for step in range(7):  # after five the pool is full and its rays, of both kinds, come along
        batch = source.batch(step, 20)
        ids = batch.rays.camera_ids
        assert ids is not None
        assert bool((ids[:10] == -1).all())
        assert torch.equal(ids[10:20], photos.batch(step, 10).rays.camera_ids)
        source.observe(batch, torch.rand(len(batch.rays)))
    assert len(batch.rays) == 24


def test_own_ray_files_are_replaced_when_told(tmp_path: Path, scene: Scene) -> None:
    shards = shards_of(tmp_path / "s", scene, views=22)
    assert export_legacy(shards, tmp_path / "rays") == 2
    first = (tmp_path / "rays" / "data_1.npy").read_bytes()
    with pytest.raises(LumigraphError, match="--overwrite"):
        export_legacy(shards, tmp_path / "rays", seed=1)
    assert export_legacy(shards, tmp_path / "rays", seed=1, overwrite=True) == 2
    assert (tmp_path / "rays" / "data_1.npy").read_bytes() != first


@pytest.mark.parametrize("name", ["thesis.tex", "data_3.npy", "data_01.npy", "data_4.npy/deeper"])
def test_folder_with_anything_else_is_never_replaced(
    tmp_path: Path, scene: Scene, teacher: Run, name: str, capsys
) -> None:
    export_legacy(shards_of(tmp_path / "s", scene, views=22), tmp_path / "rays")
    foreign = tmp_path / "rays" / name
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_text("years of work")
    bake = ["bake", str(teacher.path), "--out", str(tmp_path / "out"), "--views", "2", "--width", "4"]
    assert main([*bake, "--legacy", str(tmp_path / "rays"), "--overwrite"]) == 2
    message = capsys.readouterr().err
    assert f"no ray file of ours: {name.partition('/')[0]}" in message
    assert "Choose another folder for ray files" in message
    assert foreign.read_text() == "years of work"
    assert not (tmp_path / "out").exists()  # told before baking, not after


def test_place_of_ray_files_is_checked_before_baking(tmp_path: Path, teacher: Run, capsys) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "data_1.npy").write_text("rays")
    bake = ["bake", str(teacher.path), "--out", str(tmp_path / "a" / "out"), "--views", "2", "--width", "4"]
    for legacy, words in (
        ("full", "exists already"),
        ("a/out", "take the place of the pseudo views"),
        ("a", "take the place of the pseudo views"),
    ):
        assert main([*bake, "--legacy", str(tmp_path / legacy)]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
