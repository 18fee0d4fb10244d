"""RGB-D frames: what is read is what was written, and what cannot be is told."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lumigraph.errors import LumigraphError
from lumigraph.geometry.conventions import homogeneous, split_similarity
from lumigraph.scenes.depth import check_depths
from lumigraph.scenes.depth_reading import DepthReading
from lumigraph.scenes.load import load_scene
from lumigraph.scenes.procedural import make_scene
from lumigraph.scenes.scene import Scene

SIZE = 24


@pytest.fixture(scope="module")
def made() -> Scene:
    return make_scene("still", views_train=9, views_val=0, views_test=1, size=SIZE)


def write(folder: Path, made: Scene, parts: int = 1, unit: float = 1e-3) -> Path:
    """The procedural scene as RGB-D frames in `parts` sequences; what is seen of nothing has no depth."""
    views = made.split("train")
    focal = float(views.cameras.focal[0, 0])
    folder.mkdir()
    (folder / "camera-intrinsics.txt").write_text(f"{focal} 0 {SIZE / 2}\t\n0 {focal} {SIZE / 2}\n0 0 1\n")
    for i in range(len(views)):
        place = folder / f"seq-{i % parts + 1:02d}"
        place.mkdir(exist_ok=True)
        stem = f"frame-{i:06d}"
        Image.fromarray(views.image(i).numpy()[..., :3]).save(place / f"{stem}.color.png")
        depth = views.depth(i).numpy()  # pyright: ignore
        stored = np.where(np.isfinite(depth), depth / unit, 65535 if i % 2 else 0).round().astype(np.uint16)
        Image.fromarray(stored).save(place / f"{stem}.depth.png")
        pose = homogeneous(views.cameras.camera_to_world[i]).numpy()
        (place / f"{stem}.pose.txt").write_text("\n".join(" ".join(f"{x:.9e}" for x in row) for row in pose))
    return folder


def test_cameras_pictures_and_depth_come_back(tmp_path: Path, made: Scene) -> None:
    scene = load_scene(write(tmp_path / "room", made))
    assert scene.info.format == "rgbd"
    assert scene.info.background == "opaque"
    assert scene.info.bounds.unbounded
    train, original = scene.split("train"), made.split("train")
    assert len(train) == 7
    assert len(scene.split("test")) == 2
    scale, _, _ = split_similarity(scene.info.world_transform)
    back = train.cameras.transformed(scene.info.to_capture)
    for i, name in enumerate(train.names):
        number = int(Path(name).name[6:12])
        torch.testing.assert_close(
            back.camera_to_world[i], original.cameras.camera_to_world[number], atol=1e-4, rtol=0
        )
        assert torch.equal(train.image(i), original.image(number)[..., :3])
        depth, truth = train.depth(i), original.depth(number)
        assert depth is not None
        torch.testing.assert_close(depth / scale, truth, atol=6e-4, rtol=0, equal_nan=True)
    check_depths(scene)


def test_what_was_measured_lies_in_the_core_behind_near(tmp_path: Path, made: Scene) -> None:
    scene = load_scene(write(tmp_path / "room", made))
    views = scene.split("train")
    assert float(views.cameras.positions.abs().max()) <= 1 + 1e-5
    for i in range(len(views)):
        depth = views.depth(i)
        assert depth is not None
        known = torch.isfinite(depth)
        rays = views.cameras.view_rays(i)
        points = rays.origins[known] + depth[known][:, None] * rays.directions[known]
        assert float((points.abs().amax(1) <= 1).float().mean()) > 0.9
        assert bool((depth[known] > views.cameras.near[i]).all())


def test_sequences_are_divided_as_listed(tmp_path: Path, made: Scene) -> None:
    folder = write(tmp_path / "room", made, parts=3)
    (folder / "TrainSplit.txt").write_text("sequence1\nsequence3\n")
    (folder / "TestSplit.txt").write_text("sequence2\n")
    scene = load_scene(folder)
    assert len(scene.split("train")) == 6
    assert all(name.startswith("seq-02/") for name in scene.split("test").names)


def test_lost_frames_are_skipped_with_a_warning(
    tmp_path: Path, made: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write(tmp_path / "room", made)
    lost = folder / "seq-01" / "frame-000003.pose.txt"
    lost.write_text(" ".join(["-inf"] * 16))
    caplog.set_level(logging.WARNING, "lumigraph")
    scene = load_scene(folder)
    assert sum(len(views) for views in scene.views.values()) == 8
    assert "1 of 9 frames" in caplog.text


def scale_poses(folder: Path, factor: float) -> None:
    for path in folder.glob("seq-*/*.pose.txt"):
        rows = np.loadtxt(path)
        rows[:3, 3] *= factor
        np.savetxt(path, rows)


@pytest.mark.parametrize("factor", [1000.0, 10.0, 0.1])
def test_a_wrong_unit_is_warned_of(
    tmp_path: Path, made: Scene, caplog: pytest.LogCaptureFixture, factor: float
) -> None:
    caplog.set_level(logging.WARNING, "lumigraph")
    folder = write(tmp_path / "room", made)
    load_scene(folder)
    assert not caplog.records
    scale_poses(folder, factor)
    load_scene(folder)
    assert f"rather --depth-unit {0.001 * factor:g}?" in caplog.text
    caplog.clear()
    told = load_scene(folder, depths=DepthReading(depth_unit=0.001 * factor))
    assert not caplog.records
    depth, original = told.split("train").depth(0), made.split("train").depth(1)
    scale, _, _ = split_similarity(told.info.world_transform)
    assert depth is not None
    torch.testing.assert_close(depth / scale / factor, original, atol=6e-4, rtol=0, equal_nan=True)


def test_depth_beyond_what_a_sensor_sees_is_unknown_and_no_part_of_the_core(
    tmp_path: Path, made: Scene
) -> None:
    folder = write(tmp_path / "room", made)
    path = folder / "seq-01" / "frame-000001.depth.png"
    stored = np.array(Image.open(path))
    stored[:8] = 60000
    Image.fromarray(stored).save(path)
    scenes = [load_scene(folder), load_scene(folder, depths=DepthReading(depth_range=(0.1, 10.0)))]
    scales = [split_similarity(scene.info.world_transform)[0] for scene in scenes]
    assert scales[1] > 2 * scales[0]
    known = [scene.split("train").depth(0)[:8] for scene in scenes]  # pyright: ignore
    assert bool(torch.isfinite(known[0]).all())
    assert bool(torch.isnan(known[1]).all())
    assert scenes[1].info.depths == DepthReading(depth_range=(0.1, 10.0))


def test_frames_without_depth_are_a_scene_all_the_same(tmp_path: Path, made: Scene) -> None:
    folder = write(tmp_path / "room", made)
    for path in folder.glob("seq-01/*.depth.png"):
        path.unlink()
    scene = load_scene(folder)
    assert not scene.split("train").has_depths
    with pytest.raises(LumigraphError, match="no depth maps"):
        check_depths(scene)


def test_depth_of_another_size_is_resampled(tmp_path: Path, made: Scene) -> None:
    folder = write(tmp_path / "room", made)
    for path in folder.glob("seq-01/*.depth.png"):
        image = Image.open(path)
        Image.fromarray(np.asarray(image)[::2, ::2]).save(path)
    depth = load_scene(folder).split("train").depth(0)
    assert depth is not None
    assert tuple(depth.shape) == (SIZE, SIZE)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("camera-intrinsics.txt", None, "there is no camera-intrinsics.txt"),
        ("camera-intrinsics.txt", "585 0 320 0 585 240 0 0 1", "not the matrix of a camera of 24x24"),
        ("camera-intrinsics.txt", "585 0 320", "9 numbers are needed"),
        ("seq-01/frame-000002.pose.txt", None, "there is no frame-000002.pose.txt"),
        ("seq-01/frame-000002.pose.txt", "one two", "this is no matrix"),
        ("seq-01/frame-000002.pose.txt", "1 " * 15, "16 numbers are needed"),
        ("seq-01/frame-000002.pose.txt", "1 0 0 0 0 1 0 0 0 0 -1 0 0 0 0 1", "a reflection"),
        ("seq-01/frame-000002.color.png", "nothing", "not an image"),
    ],
)
def test_what_cannot_be_read_is_told(
    tmp_path: Path, made: Scene, name: str, text: str | None, message: str
) -> None:
    folder = write(tmp_path / "room", made)
    if text is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(text)
    with pytest.raises(LumigraphError, match=message):
        load_scene(folder)


def test_the_red_kitchen(shared_data: Path) -> None:
    folder = shared_data / "rgbd_redkitchen"
    scene = load_scene(folder, downscale=8)
    assert {split: len(views) for split, views in scene.views.items()} == {"train": 21, "test": 4}
    views = scene.split("train")
    scale, _, _ = split_similarity(scene.info.world_transform)
    depth = views.depth(0)
    assert depth is not None
    assert 1 < float(depth.nanmedian()) / scale < 4
    check_depths(scene)


@pytest.mark.parametrize("unit", [0.01, 0.0001])
def test_a_wrong_unit_of_the_red_kitchen_is_warned_of(
    shared_data: Path, caplog: pytest.LogCaptureFixture, unit: float
) -> None:
    folder = shared_data / "rgbd_redkitchen"
    caplog.set_level(logging.WARNING, "lumigraph")
    load_scene(folder)
    assert not caplog.records
    load_scene(folder, depths=DepthReading(depth_unit=unit))
    assert "rather --depth-unit 0.001?" in caplog.text
