import json
import logging
import math

import numpy as np
import OpenEXR
import pytest
import torch
from PIL import Image

from lumigraph.errors import LumigraphError
from lumigraph.geometry.conventions import split_similarity
from lumigraph.scenes.depth_reading import DepthReading
from lumigraph.scenes.formats.decoding import decode_image
from lumigraph.scenes.formats.pictures import premultiplied
from lumigraph.scenes.load import load_scene, load_scene_like
from lumigraph.scenes.splits import SplitOptions


def test_reads_splits_cameras_and_images(blender_scene):
    scene = load_scene(blender_scene)
    info = scene.info
    assert {split: len(views) for split, views in scene.views.items()} == {"train": 4, "val": 2, "test": 2}
    assert (info.name, info.format, info.background, info.downscale) == ("scene", "blender", "white", 1)
    assert torch.equal(info.world_transform, torch.eye(4, dtype=torch.float64))
    cameras = scene.views["train"].cameras
    assert cameras.size.tolist() == [[12, 8]] * 4
    assert torch.allclose(cameras.focal, torch.tensor(6.0 / math.tan(0.35)))
    assert cameras.principal.tolist() == [[6.0, 4.0]] * 4
    assert set(cameras.near.tolist()) == {2.0}
    assert set(cameras.far.tolist()) == {6.0}
    assert info.bounds.upper.tolist() == [1.5] * 3
    assert not info.bounds.unbounded
    assert cameras.ids.tolist() == [0, 1, 2, 3]
    assert scene.views["test"].cameras.ids.tolist() == [6, 7]
    assert scene.views["val"].names == ["val/r_0.png", "val/r_1.png"]
    image = decode_image(blender_scene / "train" / "r_2.png")
    assert np.array_equal(scene.views["train"].image(2).numpy(), premultiplied(image))


def test_cameras_look_at_the_object(blender_scene):
    cameras = load_scene(blender_scene).views["train"].cameras
    towards = -cameras.positions / cameras.positions.norm(dim=1, keepdim=True)
    assert torch.allclose(cameras.forwards, towards, atol=1e-6)
    assert (cameras.ups[:, 2] > 0.9).all()
    xy, depth = cameras.project(torch.zeros(4, 3), torch.arange(4))
    assert torch.allclose(xy, cameras.principal, atol=1e-4)
    assert torch.allclose(depth, torch.full((4,), 4.0))


def test_downscale(blender_scene):
    scene = load_scene(blender_scene, downscale=3)
    cameras = scene.views["train"].cameras
    assert cameras.size.tolist() == [[4, 2]] * 4
    assert torch.allclose(cameras.focal * 3, torch.tensor(6.0 / math.tan(0.35)))
    image = decode_image(blender_scene / "train" / "r_1.png")
    assert np.array_equal(scene.views["train"].image(1).numpy(), premultiplied(image, 3))
    assert scene.info.cameras["train"].size.tolist() == [[4, 2]] * 4


def test_times_and_attributes(blender_scene, change):
    for split in ("train", "val", "test"):

        def add(data):
            for number, frame in enumerate(data["frames"]):
                frame.update(time=number / 4, attributes=[number / 4, None if number == 2 else 0.5])

        change(blender_scene / f"transforms_{split}.json", add)
    scene = load_scene(blender_scene)
    cameras = scene.views["train"].cameras
    assert cameras.times.tolist() == [0.0, 0.25, 0.5, 0.75]
    assert cameras.attributes[:, 0].tolist() == [0.0, 0.25, 0.5, 0.75]
    assert cameras.attributes[:, 1].isnan().tolist() == [False, False, True, False]
    assert scene.info.attributes == ("attribute_0", "attribute_1")


def test_a_split_without_times_is_evenly_timed(blender_scene, change, caplog):
    """D-NeRF's reader: i / (n - 1) in the order of the file, also where images are missing."""

    def add(data):
        for number, frame in enumerate(data["frames"]):
            frame["time"] = number / 3

    change(blender_scene / "transforms_train.json", add)
    change(blender_scene / "transforms_val.json", lambda data: data["frames"].reverse())
    (blender_scene / "test" / "r_1.png").unlink()
    with caplog.at_level(logging.WARNING, "lumigraph"):
        cameras = load_scene(blender_scene).info.cameras
    assert [cameras[split].times.tolist() for split in ("val", "test")] == [[1.0, 0.0], [0.0]]
    assert sum("evenly spread from 0 to 1" in record.getMessage() for record in caplog.records) == 2


def test_masks_of_attributes_beside_images(blender_scene, change, save_image):
    for split in ("train", "val", "test"):

        def add(data):
            data["attribute_names"] = ["door", "lamp"]
            for frame in data["frames"]:
                frame["attributes"] = [None, None]

        change(blender_scene / f"transforms_{split}.json", add)
    share = np.zeros((8, 12), np.uint8)
    share[:, :3] = 255
    share[:, 3] = 51
    save_image(blender_scene / "train" / "r_1_attribute_1.png", share)
    scene = load_scene(blender_scene, downscale=2)
    views = scene.views["train"]
    assert scene.info.attributes == ("door", "lamp")
    assert views.annotated.tolist() == [False, True, False, False]
    door, lamp = views.attribute_masks(1).unbind(-1)
    assert door.isnan().all()
    assert torch.allclose(lamp, torch.tensor([1.0, 0.6, 0, 0, 0, 0]).expand(4, 6))
    assert views.attribute_masks(0).isnan().all()
    assert scene.views["val"].attribute_masks(0) is None


def test_angles_of_a_frame_go_first(blender_scene, change):
    change(
        blender_scene / "transforms_train.json",
        lambda data: data["frames"][2].update(camera_angle_x=1.0),
    )
    focal = load_scene(blender_scene).views["train"].cameras.focal[:, 0]
    assert torch.allclose(focal, 6.0 / torch.tan(torch.tensor([0.35, 0.35, 0.5, 0.35])))


def test_intrinsics_of_a_frame_go_first(blender_scene, change, save_image):
    save_image(blender_scene / "train" / "r_1.png", np.zeros((20, 30, 4), np.uint8))
    change(
        blender_scene / "transforms_train.json",
        lambda data: data["frames"][1].update(fl_x=50.0, fl_y=51.0, cx=14.0, w=30, h=20),
    )
    cameras = load_scene(blender_scene).views["train"].cameras
    assert cameras.size.tolist() == [[12, 8], [30, 20], [12, 8], [12, 8]]
    assert cameras.focal[1].tolist() == [50.0, 51.0]
    assert cameras.principal[1].tolist() == [14.0, 10.0]


def test_near_far_and_bounds_of_the_file(blender_scene, change):
    change(
        blender_scene / "transforms_train.json",
        lambda data: data.update(near=3.0, far=5.0, aabb=[[-1, -2, -3], [1, 2, 3]]),
    )
    info = load_scene(blender_scene).info
    assert set(info.cameras["train"].near.tolist()) == {3.0}
    assert set(info.cameras["test"].near.tolist()) == {2.0}
    assert info.bounds.lower.tolist() == [-1, -2, -3]


@pytest.mark.parametrize("size", [0.02, 50.0])
def test_scenes_of_another_size(blender_scene, change, size):
    for split in ("train", "val", "test"):

        def scale(data):
            for frame in data["frames"]:
                for row in frame["transform_matrix"][:3]:
                    row[3] *= size

        change(blender_scene / f"transforms_{split}.json", scale)
    info = load_scene(blender_scene).info
    cameras = info.cameras["train"]
    extent = float(info.bounds.half_extent.max())
    assert 0.2 * 4 * size < extent < 4 * size
    assert float(cameras.near.min()) > 0.01 * size
    assert float(cameras.near.max()) < 4 * size < float(cameras.far.min())
    corners = torch.stack([info.bounds.lower, info.bounds.upper])
    _, depth = cameras.project(corners[:, None].expand(2, 4, 3), torch.arange(4).expand(2, 4))
    assert (depth < cameras.far).all()


def test_depth_is_along_the_axis(blender_scene, save_image):
    values = np.full((8, 12), 128, np.uint8)
    save_image(blender_scene / "train" / "r_0_depth_0001.png", values)
    image = np.full((8, 12, 4), 255, np.uint8)
    image[0, 0, 3] = 254
    save_image(blender_scene / "train" / "r_0.png", image)
    views = load_scene(blender_scene).views["train"]
    depth = views.depth(0)
    assert depth[0, 0].isnan()
    rays = views.cameras.view_rays(0)
    distance = (depth * rays.directions.norm(dim=-1)).flatten()[1:]
    assert torch.allclose(distance, torch.full_like(distance, 8 * (1 - 128 / 255)), rtol=1e-5)
    assert views.depth(1).isnan().all()


def test_opaque_images_need_no_background(blender_scene, save_image):
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        for number in range(count):
            save_image(blender_scene / split / f"r_{number}.png", np.full((8, 12, 4), 255, np.uint8))
    scene = load_scene(blender_scene)
    assert scene.info.background == "opaque"
    assert scene.views["train"].image(0).shape == (8, 12, 3)


def test_opaque_photos_of_a_room_are_unbounded_and_of_unit_size(blender_scene, save_image):
    """Cameras in the middle of a room look at its walls, which must not be cut off; files of rooms say near and far,
    in their own units, and so do their depth maps."""
    make_opaque(blender_scene, save_image)
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        path = blender_scene / f"transforms_{split}.json"
        content = json.loads(path.read_text()) | {"near": 0.1, "far": 6.0}
        for number, frame in enumerate(content["frames"]):
            angle = number + 0.3 * len(split)
            rotation = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
            frame["transform_matrix"] = [
                [rotation[0][0], 0, -rotation[0][1], 0.6 * rotation[0][1]],
                [rotation[1][0], 0, -rotation[1][1], 0.6 * rotation[1][1]],
                [0, 1, 0, 0.0],
                [0, 0, 0, 1],
            ]
        path.write_text(json.dumps(content))
        for number in range(count):
            np.save(blender_scene / split / f"r_{number}_depth.npy", np.full((8, 12), 3.0, np.float32))
    info = (scene := load_scene(blender_scene)).info
    assert info.bounds.unbounded
    scale, _, _ = split_similarity(info.world_transform)
    cameras = info.cameras["train"]
    assert cameras.far.tolist() == pytest.approx([6.0 * scale] * 4)
    assert cameras.near.tolist() == pytest.approx([0.1 * scale] * 4)
    assert float(cameras.positions.abs().max()) < 1.5
    assert scene.views["train"].depth(0).mean().item() == pytest.approx(3.0 * scale)
    # A box that the file gives is another matter.
    path = blender_scene / "transforms_train.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"aabb": [[-3, -3, -1], [3, 3, 2]]}))
    boxed = load_scene(blender_scene).info
    assert not boxed.bounds.unbounded
    assert torch.equal(boxed.world_transform, torch.eye(4, dtype=torch.float64))


def test_background_policy(blender_scene):
    assert load_scene(blender_scene, background="random").info.background == "random"
    with pytest.raises(LumigraphError, match="chosen by itself"):
        load_scene(blender_scene, background="opaque")


def make_opaque(folder, save_image):
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        for number in range(count):
            save_image(folder / split / f"r_{number}.png", np.full((8, 12, 4), 255, np.uint8))


def test_transparency_that_was_not_looked_at_is_found_when_it_matters(blender_scene, save_image):
    make_opaque(blender_scene, save_image)
    image = np.full((8, 12, 4), 255, np.uint8)
    image[3, 4, 3] = 200
    save_image(blender_scene / "train" / "r_1.png", image)
    scene = load_scene(blender_scene)
    assert scene.info.background == "opaque"
    with pytest.raises(LumigraphError, match=r"transparent in places.*r_1\.png.*--background white"):
        scene.views["train"].load()
    scene = load_scene(blender_scene, background="black")
    assert scene.info.background == "black"
    assert scene.views["train"].image(1)[3, 4].tolist() == [200] * 4
    # What was trained on with a background is read again in the same way.
    again = load_scene_like(scene.info, blender_scene)
    assert again.info.background == "black"
    assert again.views["train"].has_alpha


def test_a_background_behind_opaque_photos_is_refused(blender_scene, save_image):
    make_opaque(blender_scene, save_image)
    with pytest.raises(LumigraphError, match=r"the photos are opaque: --background white .*Leave --backgr"):
        load_scene(blender_scene, background="white")


def test_splits_share_the_memory_that_is_free(blender_scene, monkeypatch, caplog):
    """Enough for the training views; the others are told that nothing is left."""
    monkeypatch.setattr("lumigraph.scenes.stored_arrays.available_memory", lambda: 2 * 4 * 12 * 8 * 4)
    views = load_scene(blender_scene).views
    with caplog.at_level(logging.WARNING, "lumigraph"):
        views["train"].load()
        assert not caplog.records
        views["test"].load()
    assert "2 of 2 are decoded anew each time" in caplog.records[0].getMessage()


def test_missing_images_are_counted_once(blender_scene, caplog):
    (blender_scene / "train" / "r_1.png").unlink()
    (blender_scene / "test" / "r_0.png").unlink()
    with caplog.at_level(logging.WARNING, "lumigraph"):
        scene = load_scene(blender_scene)
    assert [record.getMessage() for record in caplog.records] == [
        f"2 of 8 frames have no image and are skipped, first ./train/r_1 (in {blender_scene})"
    ]
    assert scene.missing == ["./train/r_1", "./test/r_0"]
    assert scene.views["train"].names == ["train/r_0.png", "train/r_2.png", "train/r_3.png"]


def test_without_test_views(blender_scene):
    (blender_scene / "transforms_test.json").unlink()
    scene = load_scene(blender_scene)
    with pytest.raises(
        LumigraphError, match=r"the scene has no test views .* train \(4 views\), val \(2 views\)"
    ):
        scene.split("test")


def test_other_splits_pool_all_views(blender_scene):
    scene = load_scene(blender_scene, splits=SplitOptions(split="every", every=4))
    assert {split: len(views) for split, views in scene.views.items()} == {"train": 6, "test": 2}
    assert scene.views["test"].names == ["train/r_0.png", "val/r_0.png"]
    assert len(load_scene(blender_scene, splits=SplitOptions(split="all")).views["train"]) == 8


def test_names_are_in_natural_order(blender_scene, change):
    change(blender_scene / "transforms_train.json", lambda data: data["frames"].reverse())
    (blender_scene / "train" / "r_3.png").rename(blender_scene / "train" / "r_10.png")
    change(
        blender_scene / "transforms_train.json",
        lambda data: data["frames"][0].update(file_path="train/r_10.png"),
    )
    names = load_scene(blender_scene).views["train"].names
    assert names == ["train/r_0.png", "train/r_1.png", "train/r_2.png", "train/r_10.png"]


def test_depth_arrays_go_before_depth_pictures(blender_scene, save_image):
    save_image(blender_scene / "train" / "r_1_depth_0001.png", np.full((8, 12), 128, np.uint8))
    depth = np.arange(96, dtype=np.float32).reshape(8, 12)
    np.save(blender_scene / "train" / "r_1_depth.npy", depth)
    read = load_scene(blender_scene).views["train"].depth(1).numpy()
    assert np.isnan(read[0, 0])
    assert np.array_equal(read.flatten()[1:], depth.flatten()[1:])


def write_exr(path, **channels: np.ndarray) -> None:
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    with OpenEXR.File(header, channels) as file:
        file.write(str(path))


@pytest.mark.parametrize(("kind", "channel"), [(np.float32, "V"), (np.float16, "RGB")])
def test_depth_as_blender_writes_it(blender_scene, kind, channel):
    """Depth along the axis; where nothing is, 1e10, or in half precision the largest number there is."""
    depth = np.linspace(2, 6, 96).reshape(8, 12).astype(kind)
    depth[0, 0] = 1e10 if kind == np.float32 else 65504
    picture = depth if channel == "V" else np.repeat(depth[..., None], 3, axis=2)
    write_exr(blender_scene / "train" / "r_1_depth_0001.exr", **{channel: picture})
    read = load_scene(blender_scene).views["train"].depth(1).numpy()
    assert np.isnan(read[0, 0])
    assert np.array_equal(read.flatten()[1:], depth.flatten()[1:].astype(np.float32))


def test_exr_files_that_cannot_be_read_are_told(blender_scene):
    path = blender_scene / "train" / "r_1_depth_0001.exr"
    for damage in (lambda data: data[:-40], lambda data: data[:100], lambda _: b"no picture"):
        write_exr(path, V=np.ones((8, 12), np.float32))
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(LumigraphError, match="the OpenEXR file cannot be read") as caught:
            load_scene(blender_scene).views["train"].depth(1)
        assert caught.value.where == str(path)
    write_exr(path, normals=np.ones((8, 12), np.float32))
    with pytest.raises(LumigraphError, match="none of the channels V, Z, Y, R"):
        load_scene(blender_scene).views["train"].depth(1)


def test_built_in_scenes_have_their_own_splits():
    with pytest.raises(LumigraphError, match="has its own splits"):
        load_scene("builtin:still", splits=SplitOptions(split="every"))


def test_depth_maps_that_frames_name(blender_scene, change, save_image):
    """As Dense Depth Priors keeps rooms: 16-bit pictures, a unit for each file, focal lengths in each frame."""
    for split, unit in (("train", 1000.0), ("val", 500.0)):
        save_image(blender_scene / "depth" / f"{split}.png", np.full((8, 12), 4000, np.uint16))
        save_image(blender_scene / "masks" / f"{split}.png", np.eye(8, 12, dtype=np.uint8))

        def name(data, split=split, unit=unit):
            data.update(depth_scaling_factor=unit)
            del data["camera_angle_x"]
            for frame in data["frames"]:
                frame.update(fx=20.0, fy=21.0, cx=6.0, cy=4.0)
            data["frames"][1].update(depth_file_path=f"depth/{split}.png", mask_path=f"masks/{split}.png")

        change(blender_scene / f"transforms_{split}.json", name)
    scene = load_scene(blender_scene)
    assert scene.views["train"].cameras.focal[0].tolist() == [20.0, 21.0]
    train, val = scene.views["train"], scene.views["val"]
    torch.testing.assert_close(train.depth(1), torch.full((8, 12), 4.0))
    torch.testing.assert_close(val.depth(1), torch.full((8, 12), 8.0))
    assert bool(train.depth(0).isnan().all())
    assert int(train.mask(1).sum()) == 8
    change(
        blender_scene / "transforms_train.json",
        lambda data: data["frames"][0].update(depth_file_path="depth/7.png"),
    )
    with pytest.raises(LumigraphError, match=r"no file 'depth/7.png'"):
        load_scene(blender_scene)


def test_what_depth_arrays_hold_may_be_told(blender_scene):
    np.save(blender_scene / "train" / "r_1_depth.npy", np.full((8, 12), 200.0, np.float32))
    reading = DepthReading(depth_unit=0.01, depth_kind="euclidean")
    views = load_scene(blender_scene, depths=reading).views["train"]
    lengths = views.cameras.view_rays(1).directions.norm(dim=-1)
    torch.testing.assert_close(views.depth(1) * lengths, torch.full((8, 12), 2.0))
    near = load_scene(blender_scene, depths=DepthReading(depth_range=(0.1, 100.0))).views["train"]
    assert bool(near.depth(1).isnan().all())


def test_pictures_of_distances_say_themselves_what_they_hold(blender_scene, save_image):
    save_image(blender_scene / "train" / "r_1_depth_0001.png", np.full((8, 12), 128, np.uint8))
    views = load_scene(blender_scene, depths=DepthReading(depth_range=(0.1, 3.0))).views["train"]
    assert bool(views.depth(1).isnan().all())
    for reading in (DepthReading(depth_unit=0.01), DepthReading(depth_kind="z")):
        with pytest.raises(LumigraphError, match="have no effect: NAME_depth_0001.png"):
            load_scene(blender_scene, depths=reading)


def test_depths_of_rooms_lie_beside_the_photos_folder(blender_scene, change):
    """rgb/NAME.png with target_depth/NAME.png in millimetres, and the farthest depth that counts in config.json."""
    rgb, depths = blender_scene / "train" / "rgb", blender_scene / "train" / "target_depth"
    rgb.mkdir()
    depths.mkdir()
    stored = np.full((8, 12), 2500, np.uint16)
    stored[0], stored[1], stored[2] = 0, 50, 9000
    for photo in (blender_scene / "train").glob("*.png"):
        photo.rename(rgb / photo.name)
        Image.fromarray(stored).save(depths / photo.name)

    def moved(data) -> None:
        for frame in data["frames"]:
            frame["file_path"] = frame["file_path"].replace("train/", "train/rgb/")

    change(blender_scene / "transforms_train.json", moved)
    far = load_scene(blender_scene).split("train").depth(0)
    assert far[:, 0].nan_to_num(-1).tolist() == pytest.approx([-1, -1, 9.0, *[2.5] * 5])
    (blender_scene / "config.json").write_text('{"max_depth": 6.0}')
    depth = load_scene(blender_scene).split("train").depth(0)
    assert depth[:, 0].nan_to_num(-1).tolist() == pytest.approx([-1, -1, -1, *[2.5] * 5])
    told = load_scene(blender_scene, depths=DepthReading(depth_unit=0.002)).split("train").depth(0)
    assert float(told[5, 5]) == pytest.approx(5.0)
    # The file's own unit is that of these maps as well; what the command line says goes before it.
    change(blender_scene / "transforms_train.json", lambda data: data.update(depth_scaling_factor=500.0))
    assert float(load_scene(blender_scene).split("train").depth(0)[5, 5]) == pytest.approx(5.0)
    told = load_scene(blender_scene, depths=DepthReading(depth_unit=0.001)).split("train").depth(0)
    assert float(told[5, 5]) == pytest.approx(2.5)
