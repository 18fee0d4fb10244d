"""Maps of normals: their files, their axes, and what training gets of them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lumigraph.cli.main import main
from lumigraph.errors import LumigraphError
from lumigraph.files import read_json
from lumigraph.scenes.formats.pictures import reduce_normals
from lumigraph.scenes.load import load_scene
from lumigraph.scenes.procedural import make_scene, write_blender
from lumigraph.scenes.scene import Scene
from lumigraph.scenes.summary import summarise
from lumigraph.training.sources import PhotoSource


@pytest.fixture(scope="module")
def made() -> Scene:
    return make_scene("still", 3, 1, 0, size=16)


def test_built_in_normals_are_units_that_face_the_camera(made: Scene) -> None:
    views = made.split("train")
    for index in range(3):
        normals, depth = views.normals(index), views.depth(index)
        assert normals is not None
        assert depth is not None
        known = normals.isfinite().all(-1)
        assert torch.equal(known, depth.isfinite())
        towards = views.cameras.view_rays(index).view_directions
        assert ((normals * towards).sum(-1)[known] < 0.05).all()
        torch.testing.assert_close(
            normals[known].norm(dim=-1), torch.ones(int(known.sum())), atol=2e-3, rtol=0
        )


@pytest.mark.parametrize("kind", ["npy", "png", "exr"])
def test_maps_beside_photos_come_back(made: Scene, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "scene"
    write_blender(made, folder)
    for index in range(3):
        stem = folder / "train" / f"r_{index:03d}"
        written = Path(f"{stem}_normal.npy")
        normals = np.nan_to_num(np.load(written), nan=0.0)
        if kind != "npy":
            written.unlink()
        if kind == "png":
            levels = np.where(normals.any(-1, keepdims=True), np.rint(127.5 * (normals + 1)), 0)
            Image.fromarray(levels.astype(np.uint8)).save(f"{stem}_normal_0001.png")
        if kind == "exr":
            exr = pytest.importorskip("OpenEXR")
            channels = {name: np.ascontiguousarray(normals[..., i]) for i, name in enumerate("RGB")}
            header = {"compression": exr.ZIP_COMPRESSION, "type": exr.scanlineimage}
            with exr.File(header, channels) as file:
                file.write(f"{stem}_normal_0001.exr")
    scene = load_scene(folder)
    assert summarise(scene)["splits"]["train"]["normal_maps"]
    for index in range(3):
        found, truth = scene.split("train").normals(index), made.split("train").normals(index)
        assert found is not None
        torch.testing.assert_close(found, truth, atol=2e-2 if kind == "png" else 3e-3, rtol=0, equal_nan=True)


@pytest.mark.parametrize("axes", [None, "world", "opencv", "opengl"])
def test_axes_are_those_that_the_file_says(capture: Path, change, axes: str | None) -> None:
    """Each photo's map says that all of it faces the camera."""
    data = read_json(capture / "transforms.json")
    for number, frame in enumerate(data["frames"][:4]):
        back = np.array(frame["transform_matrix"])[:3, 2]
        facing = {"opencv": [0.0, 0.0, -1.0], "opengl": [0.0, 0.0, 1.0]}.get(axes or "world", back)
        np.save(capture / f"normal_{number}.npy", np.tile(np.asarray(facing, np.float32), (8, 12, 1)))

    def named(data) -> None:
        if axes is not None:
            data["normal_frame"] = axes
        for number in range(4):
            data["frames"][number]["normal_file_path"] = f"normal_{number}.npy"

    change(capture / "transforms.json", named)
    scene = load_scene(capture)
    views = scene.split("train")
    assert views.has_normals
    seen = 0
    for index, name in enumerate(views.names):
        normals = views.normals(index)
        assert normals is not None
        if int(Path(name).stem) < 4:
            seen += 1
            backwards = -views.cameras.camera_to_world[index, :, 2]
            torch.testing.assert_close(normals, backwards.expand(8, 12, 3), atol=2e-3, rtol=0)
        else:
            assert normals.isnan().all()
    assert seen > 1


def test_maps_of_omnidata_lie_beside_the_photos_folder_in_the_cameras_axes(
    blender_scene: Path, change
) -> None:
    rgb, omni = blender_scene / "train" / "rgb", blender_scene / "train" / "omni"
    rgb.mkdir()
    omni.mkdir()
    for photo in (blender_scene / "train").glob("*.png"):
        photo.rename(rgb / photo.name)
        facing = np.tile(np.array([128, 128, 0], np.uint8), (8, 12, 1))
        Image.fromarray(facing).save(omni / f"{photo.stem}_normal.png")

    def moved(data) -> None:
        for frame in data["frames"]:
            frame["file_path"] = frame["file_path"].replace("train/", "train/rgb/")

    change(blender_scene / "transforms_train.json", moved)
    views = load_scene(blender_scene).split("train")
    for index in range(len(views)):
        backwards = -views.cameras.camera_to_world[index, :, 2]
        torch.testing.assert_close(views.normals(index), backwards.expand(8, 12, 3), atol=1e-2, rtol=0)


def test_reduced_normals_are_mean_directions() -> None:
    normals = np.zeros((2, 6, 3), np.float16)
    normals[..., 2] = 1
    normals[:, 1] = (0, 1, 0)  # half of the first block looks elsewhere
    normals[0, 2:4] = normals[1, 2] = np.nan  # three quarters of the second are unknown
    normals[:, 5] = (0, 0, -1)  # of the third there is no mean direction
    small = reduce_normals(normals, 2)
    assert small.shape == (1, 3, 3)
    np.testing.assert_allclose(small[0, 0], np.array([0, 1, 1]) / 2**0.5, atol=1e-3)
    assert np.isnan(small[0, 1:]).all()


def test_batches_carry_the_normals_of_their_pixels(made: Scene) -> None:
    views = made.split("train")
    source = PhotoSource(views, 0, normals=True)
    batch, (index, x, y) = source.batch(3, 50), source.draw(3, 50)
    assert batch.normals is not None
    maps = torch.stack([views.normals(i) for i in range(3)])  # pyright: ignore
    wanted = maps[index, y, x]
    torch.testing.assert_close(batch.normals, wanted, equal_nan=True)
    half = PhotoSource(views.with_scales(2).subset([1]), 0, normals=True).batch(0, 10).normals
    assert half is not None
    assert half.shape == (10, 3)
    assert PhotoSource(views, 0).batch(0, 4).normals is None


def test_wrong_maps_are_one_message(capture: Path, change) -> None:
    def named(data) -> None:
        data["normal_frame"] = "camera"
        data["frames"][0]["normal_file_path"] = "n.npy"

    np.save(capture / "n.npy", np.ones((8, 12), np.float32))
    change(capture / "transforms.json", named)
    with pytest.raises(LumigraphError, match="normal_frame"):
        load_scene(capture)
    change(capture / "transforms.json", lambda data: data.update(normal_frame="opencv"))
    with pytest.raises(LumigraphError, match=r"\[height, width, 3\] is needed"):
        load_scene(capture).split("test").normals(0)
    np.save(capture / "n.npy", np.ones((5, 12, 3), np.float32))
    with pytest.raises(LumigraphError, match="the normal map is 12x5"):
        load_scene(capture).split("test").normals(0)


TRAIN = [
    "--max-steps", "2", "--rays", "64", "--levels", "2", "--log2-entries", "8", "--finest-resolution", "16",
    "--proposal-resolution", "16", "--cells", "8", "--device", "cpu", "--normal-loss", "cosine",
]  # fmt: skip


def test_training_takes_them_or_says_that_there_are_none(
    made: Scene, blender_scene: Path, tmp_path: Path, capsys
) -> None:
    write_blender(made, tmp_path / "ball")
    train = ["train", "mipnerf360", str(tmp_path / "ball"), "--run", str(tmp_path / "run"), *TRAIN]
    assert main(train) == 0
    train[2:5] = [str(blender_scene), "--run", str(tmp_path / "other")]
    assert main(train) == 2
    assert "training views of this scene have none" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
    for photo in (blender_scene / "train").glob("r_?.png"):
        np.save(photo.with_name(f"{photo.stem}_normal.npy"), np.zeros((8, 12, 3), np.float32))
    assert main(train) == 2
    assert "knows any" in capsys.readouterr().err


def test_inspect_names_them(made: Scene, tmp_path: Path, capsys) -> None:
    write_blender(made, tmp_path / "scene")
    assert (
        main(["inspect", str(tmp_path / "scene"), "--out", str(tmp_path), "--json", str(tmp_path / "j")]) == 0
    )
    assert "normal maps" in " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert json.loads((tmp_path / "j").read_text())["splits"]["train"]["normal_maps"] is True
