"""Captures in Nerfies' format: cameras, times, splits, the pixel aspect, points, paths, annotations."""

import json
import logging

import numpy as np
import pytest
import torch

from lumigraph.errors import LumigraphError
from lumigraph.files import read_json, write_json
from lumigraph.scenes import colmap
from lumigraph.scenes.formats import nerfies
from lumigraph.scenes.load import load_scene, load_scene_like
from lumigraph.scenes.scene import SceneInfo
from lumigraph.scenes.splits import SplitOptions
from lumigraph.training.sources import PhotoSource

SCALE, CENTRE = 0.25, [0.5, -1.0, 2.0]  # of the folders that are written for these tests


def test_a_capture_comes_back(moving, nerfies_folder):
    folder, cameras = moving
    scene = load_scene(folder)
    assert scene.info.format == "nerfies"
    assert {split: len(views) for split, views in scene.views.items()} == {"train": 9, "val": 2}
    assert scene.views["val"].names == ["000001.png", "000006.png"]
    assert np.array_equal(scene.views["val"].image(1).numpy(), nerfies_folder.picture(6, 24))
    for split, places in (("train", [0, 2, 3, 4, 5, 7, 8, 9, 10]), ("val", [1, 6])):
        read = scene.info.cameras[split].transformed(scene.info.to_capture)
        want = cameras[torch.tensor(places)]
        assert torch.allclose(read.camera_to_world, want.camera_to_world, atol=1e-5)
        for name in ("focal", "principal", "size"):
            assert torch.allclose(getattr(read, name), getattr(want, name))
        assert torch.allclose(scene.info.cameras[split].times, want.times, atol=1e-6)
    train = scene.info.cameras["train"]
    positions = SCALE * (cameras.positions[[0, 2]] - torch.tensor(CENTRE))
    assert torch.allclose(train.positions[:2], positions, atol=1e-6)
    assert torch.allclose(train.near, torch.tensor(0.1))
    assert torch.allclose(train.far, torch.tensor(2.0))
    assert float(train.times.max()) == 1.0


def test_the_best_folder_of_images_is_reduced_further(moving):
    folder, _ = moving
    sizes, rows = {}, {}
    for downscale in (1, 2, 3, 4):
        scene = load_scene(folder, downscale=downscale)
        sizes[downscale] = (scene.folders, scene.views["train"].image(0).shape[0])
        rows[downscale] = scene.info.cameras["train"]
    assert sizes == {1: (["rgb/1x"], 24), 2: (["rgb/2x"], 12), 3: (["rgb/1x"], 8), 4: (["rgb/2x"], 6)}
    assert torch.allclose(rows[4].focal * 4, rows[1].focal)
    (folder / "rgb" / "1x").rename(folder / "elsewhere")
    with pytest.raises(LumigraphError, match=r"no images for --downscale 3, only rgb/2x.*Pass --downscale 2"):
        load_scene(folder, downscale=3)


def test_the_interpolation_split_has_middles(moving, change):
    """In time, in which the frames were taken in another order than they are named and listed in."""
    folder, _ = moving
    change(folder / "dataset.json", lambda data: data["ids"].reverse())
    scene = load_scene(folder, splits=SplitOptions(split="interpolation"))
    times = {split: sorted(views.cameras.times.tolist()) for split, views in scene.views.items()}
    assert times == {"train": pytest.approx([0, 0.4, 0.8]), "val": pytest.approx([0.2, 0.6])}
    names = {split: {int(name[:6]) for name in views.names} for split, views in scene.views.items()}
    assert names == {"train": {0, 2, 6}, "val": {4, 9}}
    again = load_scene_like(SceneInfo.from_json(scene.info.to_json()), folder)
    assert again.views["val"].names == scene.views["val"].names


def test_two_cameras_of_a_rig_share_their_time(moving, change):
    folder, _ = moving

    def pair(data):
        for number, entry in enumerate(data.values()):
            entry.update(warp_id=number // 2, camera_id=number % 2)

    change(folder / "metadata.json", pair)
    cameras = load_scene(folder, splits=SplitOptions(split="all")).info.cameras["train"]
    assert cameras.times.tolist() == pytest.approx([number // 2 / 5 for number in range(11)])
    assert cameras.devices.tolist() == [number % 2 for number in range(11)]
    again = SceneInfo.from_json(load_scene(folder).info.to_json())
    assert again.cameras["train"].devices.dtype == torch.int64
    change(folder / "metadata.json", lambda data: [entry.update(camera_id=0) for entry in data.values()])
    with pytest.raises(LumigraphError, match="'000002' and '000003' of one camera have the same 'warp_id'"):
        load_scene(folder)


def _count_apart(metadata, dataset):
    for part in (dataset["train_ids"], dataset["val_ids"]):
        for number, name in enumerate(part):
            metadata[name]["warp_id"] = number


def test_frames_counted_apart_have_the_times_of_their_names(moving, change, caplog):
    """As the published processing writes it: each split has its own count."""
    folder, _ = moving
    counted = read_json(folder / "dataset.json")

    change(folder / "metadata.json", lambda data: _count_apart(data, counted))
    scene = load_scene(folder)
    assert "counts training and held-out frames apart" in caplog.text
    last = len(counted["ids"]) - 1
    for split, part in (("train", "train_ids"), ("val", "val_ids")):
        expected = torch.tensor([int(name) / last for name in counted[part]])
        torch.testing.assert_close(scene.split(split).cameras.times, expected)


def test_names_may_have_words_before_their_numbers(moving, change, caplog):
    folder, _ = moving

    def renamed(names):
        return [f"left_{name}" for name in names]

    change(
        folder / "dataset.json",
        lambda data: data.update({k: renamed(v) for k, v in data.items() if k.endswith("ids")}),
    )
    for path in [*folder.glob("camera/*.json"), *folder.glob("rgb/*/*")]:
        path.rename(path.with_name(f"left_{path.name}"))
    counted = read_json(folder / "dataset.json")

    def recount(data):
        entries = {f"left_{name}": entry for name, entry in data.items()}
        data.clear()
        data.update(entries)
        _count_apart(data, counted)

    change(folder / "metadata.json", recount)
    scene = load_scene(folder)
    assert "counts training and held-out frames apart" in caplog.text
    last = len(counted["ids"]) - 1
    expected = torch.tensor([int(name[5:]) / last for name in counted["val_ids"]])
    torch.testing.assert_close(scene.split("val").cameras.times, expected)
    caplog.clear()

    def twice(data):
        for entry in data.values():
            entry["time_id"] = entry["warp_id"]

    change(folder / "metadata.json", twice)
    load_scene(folder)
    assert "both are taken to be of that moment" in caplog.text


def test_time_ids_go_first_and_all_frames_count(moving, change):
    folder, _ = moving

    def stamp(data):
        for number, entry in enumerate(data.values()):
            entry["time_id"] = 3 * number
        data["900000"] = {"warp_id": 0, "time_id": 60}

    change(folder / "metadata.json", stamp)
    times = load_scene(folder, splits=SplitOptions(split="all")).info.cameras["train"].times
    assert times.tolist() == pytest.approx([number / 20 for number in range(11)])


def test_a_wrong_pixel_aspect_is_repaired(moving, nerfies_folder, caplog):
    folder, cameras = moving
    for number in range(11):
        path = folder / "camera" / f"{number:06d}.json"
        path.write_text(
            json.dumps({**nerfies_folder.camera_json(cameras, number), "pixel_aspect_ratio": 0.9})
        )
    assert torch.allclose(
        load_scene(folder).info.cameras["train"].focal[0], cameras.focal[0] * torch.tensor([1.0, 0.9])
    )
    focal = 0.5 * float(cameras.focal[0, 0])
    nerfies_folder.write_model(folder / "colmap" / "sparse" / "0", (focal, 1.1 * focal), (12, 12))
    with caplog.at_level(logging.WARNING, "lumigraph"):
        train = load_scene(folder, downscale=2).info.cameras["train"]
    assert torch.allclose(train.focal, torch.tensor([focal, 1.1 * focal]).expand(9, 2))
    assert [record.getMessage().split(" (in")[0] for record in caplog.records] == [
        "the pixel aspect ratio (fy/fx) of 11 of 11 cameras is 0.9000 in their files and 1.1000 in the COLMAP model "
        "beside them, which is believed"
    ]
    path = nerfies.recorded_path(folder, "orbit")
    assert torch.allclose(path.focal[0], torch.tensor([2 * focal, 2.2 * focal]))
    # A lens of another focal length says nothing of these cameras.
    (folder / "colmap").rename(folder / "other")
    nerfies_folder.write_model(folder / "sparse" / "0", (2.5 * focal, 3.0 * focal), (12, 12))
    assert torch.allclose(load_scene(folder).info.cameras["train"].focal[0, 1], 0.9 * cameras.focal[0, 0])


def test_recorded_paths(moving):
    folder, cameras = moving
    assert nerfies.path_names(folder) == ["orbit"]
    path, scene = nerfies.recorded_path(folder, "orbit", 2), load_scene(folder, downscale=2)
    assert torch.allclose(
        path[torch.tensor([1, 6])].camera_to_world, scene.info.cameras["val"].camera_to_world
    )
    assert torch.equal(path[0].size, scene.info.cameras["val"][0].size)
    assert path.times is None
    assert path.ids.tolist() == [-1] * 11
    # In the order of their numbers: 10 after 9.
    assert torch.allclose(path.transformed(scene.info.to_capture).positions, cameras.positions, atol=1e-5)
    with pytest.raises(LumigraphError, match="no recorded camera path '../x'.*There are: orbit"):
        nerfies.recorded_path(folder, "../x")


def test_points_of_the_background(moving, nerfies_folder):
    folder, _ = moving
    info = load_scene(folder).info
    assert nerfies.background_points(info) is None
    nerfies_folder.write_model(folder / "colmap" / "sparse" / "0", (10, 10), (12, 12))
    seen = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 3.0]])  # by five photos or more
    assert torch.allclose(nerfies.background_points(info), SCALE * (seen - torch.tensor(CENTRE)))
    np.save(folder / "points.npy", np.float32([[0.5, -1.0, 6.0]]))
    assert nerfies.background_points(info).tolist() == [[0.0, 0.0, 1.0]]


def test_models_in_text_and_binary_say_the_same(shared_data):
    folder = shared_data / "nerfies_capture1" / "colmap" / "sparse" / "0"
    assert colmap.read_lenses(folder)[0].size == (120, 214)
    assert max(point.track for point in colmap.read_points(folder)) > 5


def test_annotations(annotated):
    scene = load_scene(annotated)
    assert scene.info.attributes == ("head", "left arm")
    views = scene.views["train"]
    values = views.cameras.attributes
    assert values[1].tolist() == [-1.0, 0.5]
    # 000008, which YAML would not take for a number
    assert values[6].isnan().tolist() == [True, False]
    assert float(values[6, 1]) == 1.0
    assert values.isnan().sum() == 18 - 3
    assert views.annotated.nonzero().flatten().tolist() == [1, 6]
    head, arm = views.attribute_masks(1).unbind(-1)
    assert torch.equal(head, (torch.arange(24) < 12).float().expand(24, 24))
    assert float(arm.abs().max()) == 0.0  # its value is said, and nothing is outlined
    assert views.attribute_masks(6).isnan().all()
    assert not scene.views["val"].has_attribute_masks
    small = load_scene(annotated, downscale=4).views["train"].attribute_masks(1)
    assert small[..., 0].tolist() == [[1.0] * 3 + [0.0] * 3] * 6
    index, x, y = torch.tensor([1, 1, 0]), torch.tensor([11, 12, 0]), torch.tensor([3, 3, 0])
    masks = views.pixel_attribute_masks(index, x, y)
    assert masks[:2].tolist() == [[1.0, 0.0], [0.0, 0.0]]
    assert masks[2].isnan().all()


def test_attributes_and_masks_survive_other_steps(annotated, tmp_path):
    scene = load_scene(annotated, scales=2)
    write_json(tmp_path / "scene.json", scene.info.to_json())
    again = SceneInfo.from_json(read_json(tmp_path / "scene.json"))
    assert again.attributes == ("head", "left arm")
    assert torch.equal(
        again.cameras["train"].attributes.nan_to_num(9), scene.info.cameras["train"].attributes.nan_to_num(9)
    )
    views = scene.views["train"]
    assert views.annotated.nonzero().flatten().tolist() == [2, 3, 12, 13]
    assert views.attribute_masks(3).shape == (12, 12, 2)
    assert float(views.attribute_masks(3)[..., 0].mean()) == 0.5
    part = views.subset([3, 0])
    assert torch.equal(part.attribute_masks(0), views.attribute_masks(3))
    assert part.annotated.tolist() == [True, False]
    batch = PhotoSource(part, 0, attribute_masks=True).batch(0, 200)
    known = batch.attribute_masks.isfinite().all(1)
    assert torch.equal(known, batch.rays.camera_ids == 2)
    assert PhotoSource(part, 0).batch(0, 5).attribute_masks is None


def test_the_capture_of_a_phone(shared_data):
    """COLMAP's points fall on the key points that they were seen at, which they do not with the aspect of the files."""
    folder = shared_data / "nerfies_capture1"
    scene = load_scene(folder, downscale=4)
    assert {split: len(views) for split, views in scene.views.items()} == {"train": 82, "val": 5}
    model = folder / "colmap" / "sparse" / "0"
    places = {point.number: point.place for point in colmap.read_points(model)}
    images = {image.name: image for image in colmap.read_images(model)}
    cameras, errors = scene.info.cameras["train"], []
    for index in range(0, 82, 10):
        image = images[scene.views["train"].names[index].split("/")[-1]]
        seen = image.points >= 0
        points = torch.tensor([places[number] for number in image.points[seen]], dtype=torch.float64)
        points = points @ scene.info.world_transform[:3, :3].T + scene.info.world_transform[:3, 3]
        found, _ = cameras.project(points.float(), torch.full((len(points),), index))
        errors.append((found - torch.from_numpy(image.places[seen]).float()).norm(dim=1))
    assert float(torch.cat(errors).mean()) < 0.6  # 1.4 with square pixels
    assert len(nerfies.background_points(scene.info)) > 500
    assert len(nerfies.recorded_path(folder, "orbit-mild", 4)) == 100
