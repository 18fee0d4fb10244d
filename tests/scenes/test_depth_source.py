"""Monocular depth: aligned to a sensor or to key points, alone or where the sensor knows nothing."""

import copy
import logging
import re
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lumigraph.cli.main import main
from lumigraph.configs.depth import DepthSource
from lumigraph.errors import LumigraphError
from lumigraph.geometry.conventions import similarity
from lumigraph.rendering.renderer import PixelSampling
from lumigraph.scenes.depth import with_depth_source
from lumigraph.scenes.keypoints import capture_scale, pair_photos, read_keypoints
from lumigraph.scenes.procedural import make_scene, write_blender
from lumigraph.scenes.scene import Scene, Views
from lumigraph.training.sources import PhotoSource

SIZE = 24


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene("still", views_train=3, views_val=0, views_test=1, size=SIZE)


def truth(scene: Scene, index: int) -> np.ndarray:
    depth = scene.split("train").depth(index)
    assert depth is not None
    return depth.numpy()


def write_monocular(scene: Scene, folder: Path, inverse: bool = False) -> Path:
    """Per picture another scale and shift; where there is nothing, some depth all the same."""
    for index, name in enumerate(scene.split("train").names):
        depth = np.nan_to_num(truth(scene, index), nan=5.5)
        path = (folder / name).with_suffix(".npy")
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, ((1 / depth if inverse else depth) - 0.2 * index) / (index + 1.5))
    return folder


@pytest.mark.parametrize("inverse", [False, True])
def test_monocular_depth_is_aligned_to_the_sensor(tmp_path: Path, scene: Scene, inverse: bool) -> None:
    options = DepthSource(
        depth_source="mono", mono_depth=write_monocular(scene, tmp_path, inverse), mono_inverse=inverse
    )
    views = with_depth_source(scene, options).split("train")
    for index in range(3):
        depth, known = views.depth(index), truth(scene, index)
        assert depth is not None
        assert bool(torch.isfinite(depth).all())
        np.testing.assert_allclose(depth.numpy()[np.isfinite(known)], known[np.isfinite(known)], rtol=1e-4)


def test_training_at_several_scales_has_the_depth_of_the_photos(
    tmp_path: Path, scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """Maps are of photos, and are found and aligned whatever else is made of those."""
    folder, maps, run = tmp_path / "scene", tmp_path / "maps", tmp_path / "run"
    write_blender(scene, folder)
    write_monocular(scene, maps)
    model = write_colmap(scene, tmp_path / "model", binary=True)
    small = ["--levels", "2", "--log2-entries", "10", "--cells", "16", "--steps", "32", "--samples", "512"]
    train = ["train", "ngp", str(folder), "--run", str(run), "--max-steps", "1", "--device", "cpu", *small]
    depth = ["--depth-loss", "swb", "--depth-source", "mono", "--mono-depth", str(maps), "--scales", "2"]
    caplog.set_level(logging.INFO, "lumigraph")
    assert main([*train, *depth, "--depth-align", "colmap", "--colmap", str(model)]) == 0
    agreements = [float(found) for found in re.findall(r"(\d+) % of the known depths agree", caplog.text)]
    assert agreements == [100.0] * 3


def test_a_run_goes_on_with_the_depth_that_it_was_begun_with(tmp_path: Path, scene: Scene, capsys) -> None:
    folder, run = tmp_path / "scene", tmp_path / "run"
    write_blender(scene, folder)
    small = ["--levels", "2", "--log2-entries", "10", "--cells", "16", "--steps", "32", "--samples", "512"]
    train = ["train", "ngp", str(folder), "--run", str(run), "--device", "cpu", "--depth-loss", "swb", *small]
    assert main([*train, "--max-steps", "1"]) == 0
    again = [*train, "--max-steps", "2", "--resume"]
    assert main([*again, "--depth-sigma", "0.1"]) == 2
    assert "depth from elsewhere: depth_sigma was None" in capsys.readouterr().err
    assert main([*again, "--depth-range", "1", "9"]) == 2
    assert "depth maps read as" in capsys.readouterr().err
    assert main(again) == 0


@pytest.mark.parametrize("inverse", [False, True])
def test_distances_along_rays_become_depth(tmp_path: Path, scene: Scene, inverse: bool) -> None:
    views = scene.split("train")
    lengths = [views.cameras.view_rays(index).directions.norm(dim=-1).numpy() for index in range(3)]
    distances = [truth(scene, index) * lengths[index] for index in range(3)]
    told = Scene(scene.info, {"train": views.with_depths(distances)})
    options = DepthSource(
        depth_source="mono",
        mono_depth=write_monocular(told, tmp_path, inverse),
        mono_inverse=inverse,
        mono_kind="euclidean",
    )
    changed = with_depth_source(scene, options).split("train")
    for index in range(3):
        depth, known = changed.depth(index), truth(scene, index)
        assert depth is not None
        np.testing.assert_allclose(depth.numpy()[np.isfinite(known)], known[np.isfinite(known)], rtol=1e-4)


def test_a_composite_has_the_sensors_depth_and_its_own_uncertainty(tmp_path: Path, scene: Scene) -> None:
    options = DepthSource(
        depth_source="composite", mono_depth=write_monocular(scene, tmp_path), depth_sigma=0.07
    )
    views = with_depth_source(scene, options).split("train")
    index = torch.zeros(SIZE * SIZE, dtype=torch.long)
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    sigma = views.pixel_depth_sigmas(index, x.flatten(), y.flatten())
    assert sigma is not None
    known = np.isfinite(truth(scene, 0)).flatten()
    expected = np.where(known, np.maximum(0.07, 0.01 * truth(scene, 0).flatten()), 0.07)
    np.testing.assert_allclose(sigma.numpy(), expected, rtol=1e-4)
    depth = views.depth(0)
    assert depth is not None
    np.testing.assert_allclose(depth.numpy().flatten()[known], truth(scene, 0).flatten()[known], rtol=1e-6)
    np.testing.assert_allclose(depth.numpy().flatten()[~known], 5.5, rtol=1e-3)


def test_a_sensor_is_exact_unless_told_otherwise(scene: Scene) -> None:
    assert with_depth_source(scene, DepthSource()) is scene
    views = with_depth_source(scene, DepthSource(depth_sigma=0.0)).split("train")
    zero = torch.tensor([0])
    y, x = (int(place[0]) for place in np.nonzero(np.isfinite(truth(scene, 0))))
    sigma = views.pixel_depth_sigmas(zero, torch.tensor([x]), torch.tensor([y]))
    assert float(sigma) == pytest.approx(0.01 * truth(scene, 0)[y, x])  # pyright: ignore


def test_lengths_are_those_of_the_capture(tmp_path: Path, scene: Scene) -> None:
    """In a scene that was scaled by a half, sigma and metric maps are still told in units of the capture."""
    transform = similarity(0.5)
    cameras = {split: part.transformed(transform) for split, part in scene.info.cameras.items()}
    half = [0.5 * truth(scene, index) for index in range(3)]
    train = scene.split("train").with_depths(half)
    train.cameras = cameras["train"]
    scaled = Scene(replace(scene.info, cameras=cameras, world_transform=transform), {"train": train})
    for index, name in enumerate(scene.split("train").names):
        path = (tmp_path / name).with_suffix(".npy")
        path.parent.mkdir(exist_ok=True)
        np.save(path, truth(scene, index))
    options = DepthSource(depth_source="mono", mono_depth=tmp_path, depth_align="none", depth_sigma=0.1)
    views = with_depth_source(scaled, options).split("train")
    depth = views.depth(1)
    assert depth is not None
    np.testing.assert_allclose(depth.numpy(), half[1], rtol=1e-6)
    sigma = views.pixel_depth_sigmas(torch.tensor([0]), torch.tensor([3]), torch.tensor([3]))
    assert float(sigma) == pytest.approx(0.05)  # pyright: ignore


# ------------------------------------------------------------------ key points


def write_colmap(scene: Scene, folder: Path, binary: bool, scale: float = 3.0, folders: bool = False) -> Path:
    """A COLMAP model of the scene, `scale` times smaller than it and shifted, seen at every known pixel."""
    views, images, points, number = scene.split("train"), [], [], 1
    for index, name in enumerate(views.names):
        rays = views.cameras.view_rays(index)
        known = np.isfinite(truth(scene, index))
        places, numbers = [], []
        for y, x in zip(*np.nonzero(known), strict=True):
            at = rays.origins[y, x] + float(truth(scene, index)[y, x]) * rays.directions[y, x]
            points.append((number, (at.double().numpy() + 10) / scale, 0.5 + 0.1 * (number % 3)))
            places.append((x + 0.5, y + 0.5))
            numbers.append(number)
            number += 1
        places.append((1.0, 1.0))
        numbers.append(-1)
        pose = views.cameras.camera_to_world[index].double().numpy()
        rotation = pose[:, :3].T
        translation = -rotation @ ((pose[:, 3] + 10) / scale)
        images.append(
            (
                index + 1,
                quaternion(rotation),
                translation,
                name if folders else Path(name).name,
                places,
                numbers,
            )
        )
    folder.mkdir()
    (write_binary if binary else write_text)(folder, images, points)
    return folder


def quaternion(rotation: np.ndarray) -> np.ndarray:
    """w x y z, as the eigenvector of Bar-Itzhack's matrix."""
    m = rotation
    k = np.array(
        [
            [m[0, 0] - m[1, 1] - m[2, 2], 0, 0, 0],
            [m[0, 1] + m[1, 0], m[1, 1] - m[0, 0] - m[2, 2], 0, 0],
            [m[0, 2] + m[2, 0], m[1, 2] + m[2, 1], m[2, 2] - m[0, 0] - m[1, 1], 0],
            [m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], m[0, 0] + m[1, 1] + m[2, 2]],
        ]
    )
    return np.linalg.eigh(k)[1][:, -1][[3, 0, 1, 2]]


def write_text(folder: Path, images: list[Any], points: list[Any]) -> None:
    lines = ["# comment"]
    for number, q, t, name, places, numbers in images:
        lines.append(f"{number} {' '.join(map(repr, map(float, (*q, *t))))} 1 {name}")
        lines.append(" ".join(f"{x} {y} {p}" for (x, y), p in zip(places, numbers, strict=True)))
    (folder / "images.txt").write_text("\n".join(lines))
    rows = [f"{n} {' '.join(map(repr, map(float, at)))} 1 2 3 {error} 1 0" for n, at, error in points]
    (folder / "points3D.txt").write_text("\n".join(["# comment", *rows]))
    (folder / "cameras.txt").write_text(f"# comment\n1 SIMPLE_PINHOLE {SIZE} {SIZE} 10 5 5\n")


def write_binary(folder: Path, images: list[Any], points: list[Any]) -> None:
    data = struct.pack("<Q", len(images))
    for number, q, t, name, places, numbers in images:
        data += (
            struct.pack("<I7dI", number, *q, *t, 1) + name.encode() + b"\0" + struct.pack("<Q", len(places))
        )
        data += b"".join(struct.pack("<2dq", x, y, p) for (x, y), p in zip(places, numbers, strict=True))
    (folder / "images.bin").write_bytes(data)
    data = struct.pack("<Q", len(points))
    for number, at, error in points:
        data += struct.pack("<Q3d3BdQ", number, *at, 1, 2, 3, error, 1) + struct.pack("<II", 1, 0)
    (folder / "points3D.bin").write_bytes(data)
    lens = struct.pack("<QIiQQ3d", 1, 1, 0, SIZE, SIZE, 10, 5, 5)
    (folder / "cameras.bin").write_bytes(lens)


def test_monocular_depth_of_rooms_lies_beside_the_photos_folder(tmp_path: Path, scene: Scene) -> None:
    """omni/NAME_depth.npy for rgb/NAME.png; NAME.npy goes before it."""
    whole = scene.split("train")
    views = copy.copy(whole)
    views.names = [f"room/rgb/{index}.png" for index in range(len(whole))]
    part = Scene(scene.info, {"train": views})
    (tmp_path / "room" / "omni").mkdir(parents=True)
    for index in range(len(whole)):
        np.save(tmp_path / "room" / "omni" / f"{index}_depth.npy", np.full((SIZE, SIZE), 2.0))
    options = DepthSource(depth_source="mono", mono_depth=tmp_path, depth_align="none")
    depth = with_depth_source(part, options).split("train").depth(1)
    assert depth is not None
    assert float(depth[0, 0]) == pytest.approx(2.0)
    (tmp_path / "room" / "rgb").mkdir()
    np.save(tmp_path / "room" / "rgb" / "1.npy", np.full((SIZE, SIZE), 3.0))
    depth = with_depth_source(part, options).split("train").depth(1)
    assert depth is not None
    assert float(depth[0, 0]) == pytest.approx(3.0)
    (tmp_path / "room" / "omni" / "0_depth.npy").unlink()
    with pytest.raises(LumigraphError, match="no monocular depth of room/rgb/0.png"):
        with_depth_source(part, options)


@pytest.mark.parametrize("source", ["mono", "composite"])
def test_a_photo_of_which_the_sensor_knows_nothing_goes_without(
    tmp_path: Path, scene: Scene, caplog: pytest.LogCaptureFixture, source: Any
) -> None:
    blank = [truth(scene, 0), np.full((SIZE, SIZE), np.nan, np.float32), truth(scene, 2)]
    part = Scene(scene.info, {"train": scene.split("train").with_depths(blank)})
    options = DepthSource(depth_source=source, mono_depth=write_monocular(scene, tmp_path))
    caplog.set_level(logging.WARNING, "lumigraph")
    views = with_depth_source(part, options).split("train")
    known = [bool(torch.isfinite(depth).all()) for i in range(3) if (depth := views.depth(i)) is not None]
    assert known == [True, False, True]
    unknown = views.depth(1)
    assert unknown is not None
    assert bool(torch.isnan(unknown).all())
    assert len(caplog.records) == 1
    assert "1 of 3 training views is left out, first train/r_001.png" in caplog.text


@pytest.mark.parametrize("binary", [False, True])
def test_monocular_depth_is_aligned_to_keypoints(tmp_path: Path, scene: Scene, binary: bool) -> None:
    model = write_colmap(scene, tmp_path / "model", binary)
    views = scene.split("train")
    keypoints = read_keypoints(model)
    names = [Path(name).name for name in views.names]
    assert set(keypoints) == set(names)
    scale = capture_scale(keypoints, names, views.cameras.positions.double().numpy())
    assert scale == pytest.approx(3, rel=1e-5)
    bare = Scene(scene.info, {"train": views.with_depths([None] * 3)})
    options = DepthSource(
        depth_source="mono",
        mono_depth=write_monocular(scene, tmp_path / "mono"),
        depth_align="colmap",
        colmap=model,
    )
    changed = with_depth_source(bare, options).split("train")
    for index in range(3):
        depth, known = changed.depth(index), truth(scene, index)
        assert depth is not None
        np.testing.assert_allclose(depth.numpy()[np.isfinite(known)], known[np.isfinite(known)], rtol=1e-3)


def test_key_points_alone_are_depth_of_few_pixels(tmp_path: Path, scene: Scene) -> None:
    model = write_colmap(scene, tmp_path / "model", binary=True)
    bare = Scene(scene.info, {"train": scene.split("train").with_depths([None] * 3)})
    options = DepthSource(depth_source="colmap", colmap=model, depth_sigma=0.032)
    changed = with_depth_source(bare, options).split("train")
    index = torch.full((SIZE * SIZE,), 1)
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    sigma = changed.pixel_depth_sigmas(index, x.flatten(), y.flatten())
    depth, known = changed.depth(1), truth(scene, 1)
    assert depth is not None
    assert sigma is not None
    np.testing.assert_array_equal(np.isfinite(depth.numpy()), np.isfinite(known))
    np.testing.assert_allclose(depth.numpy(), known, rtol=1e-4)
    # Errors are 0.5, 0.6 and 0.7 pixels in turn, and at their mean 0.01 of the depth.
    spread = sigma.view(SIZE, SIZE).numpy()[np.isfinite(known)]
    parts = spread / known[np.isfinite(known)]
    assert spread.min() == pytest.approx(0.032)
    assert parts[spread > 0.0321].max() == pytest.approx(0.01 * 0.7 / 0.6, rel=0.02)


def test_a_model_of_larger_photos_tells_the_same_and_one_of_another_shape_nothing(
    tmp_path: Path, scene: Scene
) -> None:
    """COLMAP may have seen the photos at another size than they are read at."""
    model = write_colmap(scene, tmp_path / "model", binary=False)
    bare = Scene(scene.info, {"train": scene.split("train").with_depths([None] * 3)})
    options = DepthSource(depth_source="colmap", colmap=model)
    lines = (model / "images.txt").read_text().splitlines()
    for at in range(2, len(lines), 2):
        numbers = np.array(lines[at].split(), dtype=np.float64).reshape(-1, 3) * (2, 2, 1)
        lines[at] = " ".join(f"{x} {y} {int(point)}" for x, y, point in numbers)
    (model / "images.txt").write_text("\n".join(lines))
    (model / "cameras.txt").write_text(f"1 SIMPLE_PINHOLE {2 * SIZE} {2 * SIZE} 20 10 10\n")
    depth = with_depth_source(bare, options).split("train").depth(1)
    assert depth is not None
    np.testing.assert_allclose(depth.numpy(), truth(scene, 1), rtol=1e-4)
    (model / "cameras.txt").write_text(f"1 SIMPLE_PINHOLE {3 * SIZE} {2 * SIZE} 20 10 10\n")
    with pytest.raises(LumigraphError, match="another shape"):
        with_depth_source(bare, options)
    (model / "cameras.txt").write_text(f"7 SIMPLE_PINHOLE {SIZE} {SIZE} 20 10 10\n")
    with pytest.raises(LumigraphError, match="camera 1, which the model does not know"):
        with_depth_source(bare, options)


def test_rays_go_to_key_points_where_these_are_few(tmp_path: Path, scene: Scene) -> None:
    views = scene.split("train")
    few = [np.full((SIZE, SIZE), np.nan, np.float32) for _ in range(3)]
    few[0][3, 4], few[2][5, 6] = 2.0, 3.0
    source = PhotoSource(views.with_depths(few), 0, depths=True)
    depth = source.batch(0, 100).depth
    assert depth is not None
    assert source.depth_share == 0.5
    assert set(depth[:50].tolist()) == {2.0, 3.0}
    assert int(torch.isfinite(depth[50:]).sum()) < 10
    assert PhotoSource(views, 0, depths=True).depth_share == 0
    assert PhotoSource(views.with_depths(few), 0, depths=True, depth_share=0.0).depth_share == 0
    quarter = PhotoSource(views.with_depths(few), 0, depths=True, depth_share=0.25).batch(0, 100).depth
    assert quarter is not None
    assert bool(torch.isfinite(quarter[:25]).all())
    sampling = PixelSampling(foreground_share=0.3)
    both = PhotoSource(views.with_depths(few), 0, depths=True, sampling=sampling).batch(0, 100)
    assert both.depth is not None
    assert bool((both.rgba[:30, 3] > 0).all())
    assert bool(torch.isfinite(both.depth[30:80]).all())


def test_a_damaged_model_is_told(tmp_path: Path, scene: Scene) -> None:
    model = write_colmap(scene, tmp_path / "model", binary=True)
    whole = (model / "images.bin").read_bytes()
    for cut in (4, 60, 90, len(whole) - 5):
        (model / "images.bin").write_bytes(whole[:cut])
        with pytest.raises(LumigraphError, match="damaged"):
            read_keypoints(model)
    (model / "images.bin").unlink()
    with pytest.raises(LumigraphError, match="no images.bin"):
        read_keypoints(model)


def test_photos_that_the_model_does_not_know_are_told(tmp_path: Path, scene: Scene) -> None:
    keypoints = read_keypoints(write_colmap(scene, tmp_path / "model", binary=True))
    with pytest.raises(LumigraphError, match="knows 0 of the 2"):
        capture_scale(keypoints, ["a.png", "b.png"], np.zeros((2, 3)))


def test_photos_are_paired_with_their_folders() -> None:
    sequences = ["seq-01/f.png", "seq-02/f.png"]
    assert pair_photos(sequences[::-1], sequences) == sequences
    assert pair_photos(["room/seq-02/f.png", "room/seq-01/f.png"], sequences) == [
        "room/seq-01/f.png",
        "room/seq-02/f.png",
    ]
    assert pair_photos(["images/a.png"], ["a.png", "b.png"]) == ["images/a.png", None]
    assert pair_photos(["seq-01/f.png"], sequences) == ["seq-01/f.png", None]
    with pytest.raises(LumigraphError, match="may both be the photo f.png"):
        pair_photos(sequences, ["f.png"])
    with pytest.raises(LumigraphError, match=r"f.png of the COLMAP model may be the photo seq-01/f.png or"):
        pair_photos(["f.png"], sequences)


def test_sequences_with_the_same_file_names_keep_their_key_points(tmp_path: Path, scene: Scene) -> None:
    views = scene.split("train")
    folders = [f"seq-{number:02d}/frame.png" for number in range(3)]
    renamed = Views.from_arrays(
        views.cameras,
        folders,
        [views.image(i).numpy() for i in range(3)],
        depths=[truth(scene, i) for i in range(3)],
    )
    named = Scene(scene.info, {"train": renamed})
    model = write_colmap(named, tmp_path / "model", binary=True, folders=True)
    maps = write_monocular(named, tmp_path / "mono")
    options = DepthSource(depth_source="mono", mono_depth=maps, depth_align="colmap", colmap=model)
    changed = with_depth_source(named, options).split("train")
    for index in range(3):
        depth, known = changed.depth(index), truth(scene, index)
        assert depth is not None
        np.testing.assert_allclose(depth.numpy()[np.isfinite(known)], known[np.isfinite(known)], rtol=1e-3)


def test_reduced_copies_with_other_names_are_paired_in_order(tmp_path: Path, scene: Scene) -> None:
    """As LLFF's rows of poses and its images are: the model has the names of the full photos."""
    model = write_colmap(scene, tmp_path / "model", binary=True)
    views, maps = scene.split("train"), tmp_path / "mono"
    copies = copy.copy(views)
    copies.names = [f"image{number:03d}.png" for number in range(3)]
    bare = copies.with_depths([None] * 3)
    renamed = Scene(replace(scene.info, format="llff"), {"train": copies})
    write_monocular(renamed, maps)
    options = DepthSource(depth_source="mono", mono_depth=maps, depth_align="colmap", colmap=model)
    changed = with_depth_source(Scene(renamed.info, {"train": bare}), options).split("train")
    depth, known = changed.depth(2), truth(scene, 2)
    assert depth is not None
    np.testing.assert_allclose(depth.numpy()[np.isfinite(known)], known[np.isfinite(known)], rtol=1e-3)
    turned = copy.copy(bare)
    turned.cameras = replace(bare.cameras, ids=torch.tensor([1, 2, 0]))
    with pytest.raises(LumigraphError, match="stand otherwise"):
        with_depth_source(Scene(renamed.info, {"train": turned}), options)


def test_what_is_missing_is_told(tmp_path: Path, scene: Scene) -> None:
    options = DepthSource(depth_source="mono", mono_depth=tmp_path)
    with pytest.raises(LumigraphError, match="there is no monocular depth of train/r_000.png"):
        with_depth_source(scene, options)
    write_monocular(scene, tmp_path)
    np.save(tmp_path / "train" / "r_001.npy", np.ones((4, 9)))
    with pytest.raises(LumigraphError, match="9x4"):
        with_depth_source(scene, options)
    write_monocular(scene, tmp_path)
    bare = Scene(scene.info, {"train": scene.split("train").with_depths([None] * 3)})
    with pytest.raises(LumigraphError, match="0 pixels of known depth"):
        with_depth_source(bare, options)


@pytest.mark.parametrize(
    "wrong",
    [
        {"depth_source": "mono"},
        {"mono_depth": Path("x")},
        {"depth_align": "colmap"},
        {"depth_source": "colmap"},
        {"depth_source": "sensor", "colmap": Path("model")},
        {"depth_sigma": -1.0},
    ],
)
def test_options_that_do_not_go_together_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="depth|colmap"):
        DepthSource(**wrong)
