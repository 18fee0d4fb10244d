import json
import logging
import math

import numpy as np
import pytest
import torch

from lumigraph.errors import LumigraphError
from lumigraph.geometry.conventions import invert_similarity, split_similarity, transform_points
from lumigraph.scenes.depth_reading import DepthReading
from lumigraph.scenes.load import load_scene, load_scene_like
from lumigraph.scenes.scene import SceneInfo
from lumigraph.scenes.splits import SplitOptions


def read_positions(path) -> dict[str, torch.Tensor]:
    """Camera positions in the file's units, by image name."""
    frames = json.loads((path / "transforms.json").read_text())["frames"]
    return {frame["file_path"]: torch.tensor(frame["transform_matrix"])[:3, 3] for frame in frames}


def test_reads_photos(capture):
    scene = load_scene(capture)
    assert {split: len(views) for split, views in scene.views.items()} == {"train": 8, "test": 2}
    assert scene.views["test"].names == ["images/0.png", "images/8.png"]
    info = scene.info
    assert (info.format, info.background, info.bounds.unbounded) == ("transforms", "opaque", True)
    cameras = info.cameras["train"]
    assert cameras.focal[0].tolist() == [15.0, 16.0]
    assert cameras.principal[0].tolist() == [6.5, 4.5]
    assert cameras.ids.tolist() == [1, 2, 3, 4, 5, 6, 7, 9]
    assert load_scene(capture / "transforms.json").info.to_json() == info.to_json()


def test_scene_is_of_unit_size_and_upright(capture):
    cameras = load_scene(capture).info.cameras["train"]
    assert torch.allclose(cameras.positions.norm(dim=1), torch.ones(8), atol=1e-5)
    assert torch.allclose(cameras.forwards, -cameras.positions, atol=1e-5)
    assert (cameras.ups[:, 2] > 0.9).all()


def test_the_world_transform_leads_back_to_the_file(capture):
    scene = load_scene(capture)
    positions = read_positions(capture)
    for views in scene.views.values():
        back = transform_points(invert_similarity(scene.info.world_transform), views.cameras.positions)
        expected = torch.stack([positions[name] for name in views.names])
        assert torch.allclose(back, expected, atol=1e-4)


def test_applied_transform_leads_back_to_the_capture(capture, change):
    applied = [[0, 1, 0, 0.5], [1, 0, 0, 0], [0, 0, -1, 2]]
    before = load_scene(capture)
    change(
        capture / "transforms.json", lambda data: data.update(applied_transform=applied, applied_scale=0.25)
    )
    scene = load_scene(capture)
    assert torch.equal(scene.info.cameras["train"].positions, before.info.cameras["train"].positions)
    linear, offset = torch.tensor(applied)[:, :3].float(), torch.tensor(applied)[:, 3].float()
    for name, position in zip(scene.views["train"].names, scene.info.cameras["train"].positions, strict=True):
        original = linear.T @ (read_positions(capture)[name] / 0.25 - offset)
        assert torch.allclose(transform_points(scene.info.world_transform, original), position, atol=1e-5)


@pytest.mark.parametrize("turned", [False, True])
def test_any_position_size_and_orientation_gives_the_same_scene(capture, change, turned):
    before = load_scene(capture).info.cameras["train"]
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)))[0]
    rotation = (rotation * rotation.det().sign()).numpy() if turned else np.eye(3)

    def move(data):
        for frame in data["frames"]:
            pose = np.array(frame["transform_matrix"])
            pose[:3, :3] = rotation @ pose[:3, :3]
            pose[:3, 3] = 70 * rotation @ pose[:3, 3] + np.array([100.0, -200.0, 50.0])
            frame["transform_matrix"] = pose.tolist()

    change(capture / "transforms.json", move)
    after = load_scene(capture).info.cameras["train"]
    # Up to a turn about the vertical, which nothing in a capture fixes.
    assert torch.allclose(
        before.positions @ before.positions.T, after.positions @ after.positions.T, atol=1e-4
    )
    assert torch.allclose(before.positions[:, 2], after.positions[:, 2], atol=1e-4)


@pytest.mark.parametrize("step", [0.0, 0.3, 1e4])
@pytest.mark.parametrize("away", [[0, 0, 0], [1e4, 0, 0]])
def test_parallel_cameras_are_no_trouble(capture, change, step, away):
    def line_up(data):
        for number, frame in enumerate(data["frames"]):
            frame["transform_matrix"] = [
                [1, 0, 0, away[0] + step * number],
                [0, 1, 0, away[1]],
                [0, 0, 1, away[2]],
                [0, 0, 0, 1],
            ]

    change(capture / "transforms.json", line_up)
    info = load_scene(capture).info
    positions = info.cameras["train"].positions
    assert positions.isfinite().all()
    assert positions.abs().max() < 10
    assert info.world_transform.isfinite().all()


def test_cameras_that_look_outwards(capture, change):
    def turn(data):
        for frame in data["frames"]:
            pose = np.array(frame["transform_matrix"])
            pose[:3, 0] *= -1
            pose[:3, 2] *= -1
            frame["transform_matrix"] = pose.tolist()

    change(capture / "transforms.json", turn)
    positions = load_scene(capture).info.cameras["train"].positions
    assert 0.2 < positions.norm(dim=1).max() < 1.0


class TestIntrinsics:
    def camera(self, path):
        return load_scene(path, splits=SplitOptions(split="all")).info.cameras["train"]

    def test_angles(self, capture, change):
        def angles(data):
            del data["fl_x"], data["fl_y"], data["cx"], data["cy"]
            data.update(camera_angle_x=0.8, camera_angle_y=0.5)

        change(capture / "transforms.json", angles)
        cameras = self.camera(capture)
        expected = [6 / math.tan(0.4), 4 / math.tan(0.25)]
        assert cameras.focal[0].tolist() == pytest.approx(expected)
        assert cameras.principal[0].tolist() == [6.0, 4.0]

    def test_one_length_means_square_pixels(self, capture, change):
        change(capture / "transforms.json", lambda data: (data.pop("fl_y"), data.update(camera_angle_y=0.5)))
        assert self.camera(capture).focal[0].tolist() == [15.0, 15.0]

    def test_per_frame_goes_first(self, capture, change):
        change(capture / "transforms.json", lambda data: data["frames"][3].update(fl_x=20.0, cx=1.0, k1=0.1))
        cameras = self.camera(capture)
        assert cameras.focal[3].tolist() == [20.0, 20.0]
        assert cameras.principal[3].tolist() == [1.0, 4.5]
        assert cameras.distortion[:, 0].tolist() == pytest.approx([0, 0, 0, 0.1, 0, 0, 0, 0, 0, 0])

    def test_distortion(self, capture, change):
        terms = {"k1": 0.1, "k2": 0.2, "k3": 0.3, "k4": 0.4, "p1": 0.5, "p2": 0.6}
        change(capture / "transforms.json", lambda data: data.update(terms, camera_model="OPENCV"))
        cameras = self.camera(capture)
        assert cameras.distortion[0].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
        assert not cameras.fisheye

    def test_fisheye(self, capture, change):
        change(capture / "transforms.json", lambda data: data.update(camera_model="OPENCV_FISHEYE", k1=0.01))
        assert self.camera(capture).fisheye

    def test_lenses_that_see_nearly_everything_are_doubted(self, capture, change, caplog):
        """12 pixels across behind a focal length of 1.2: 2 atan(5) = 157 degrees."""
        change(capture / "transforms.json", lambda data: data.update(fl_x=1.2))
        with caplog.at_level(logging.WARNING, "lumigraph"):
            assert self.camera(capture).degrees_across.tolist() == pytest.approx(
                [math.degrees(2 * math.atan(5))] * 10
            )
            (record,) = caplog.records
            assert "see 157 degrees across" in record.getMessage()
            caplog.clear()
            change(
                capture / "transforms.json", lambda data: data.update(fl_x=4.0, camera_model="OPENCV_FISHEYE")
            )
            assert self.camera(capture).degrees_across.tolist() == pytest.approx([math.degrees(12 / 4)] * 10)
            for unsuspicious in ({"fl_x": 2.5}, {"fl_x": 1.2, "k1": 0.1}):
                change(
                    capture / "transforms.json",
                    lambda data, told=unsuspicious: data.update(told, camera_model="OPENCV"),
                )
                self.camera(capture)
        assert not caplog.records

    def test_images_of_another_size_than_declared(self, capture, change):
        change(
            capture / "transforms.json", lambda data: data.update(w=24.0, h=16.0, cx=13.0, cy=9.0, fl_x=30.0)
        )
        cameras = self.camera(capture)
        assert cameras.size[0].tolist() == [12, 8]
        assert cameras.focal[0].tolist() == [15.0, 8.0]
        assert cameras.principal[0].tolist() == [6.5, 4.5]


class TestSplits:
    def sizes(self, path, **options):
        scene = load_scene(path, splits=SplitOptions(**options))
        return {split: len(views) for split, views in scene.views.items()}

    def test_lists_of_the_file(self, capture, change):
        names = [f"images/{i}.png" for i in range(10)]
        lists = {"train_filenames": ["./" + name for name in names[:6]], "val_filenames": names[6:7]}
        change(capture / "transforms.json", lambda data: data.update(lists, test_filenames=names[7:]))
        assert self.sizes(capture) == {"train": 6, "val": 1, "test": 3}
        assert self.sizes(capture, split="every", every=5) == {"train": 8, "test": 2}

    def test_only_test_views_listed(self, capture, change):
        change(capture / "transforms.json", lambda data: data.update(test_filenames=["images/3.png"]))
        assert self.sizes(capture) == {"train": 9, "test": 1}

    def test_an_image_in_two_splits_is_refused(self, capture, change):
        names = [f"images/{i}.png" for i in range(10)]
        lists = {"train_filenames": names[:8], "test_filenames": ["./images/7.png", *names[8:]]}
        change(capture / "transforms.json", lambda data: data.update(lists))
        message = r"'train_filenames' and 'test_filenames' both name 'images/7\.png'"
        with pytest.raises(LumigraphError, match=message):
            load_scene(capture)

    def test_fraction_and_all(self, capture):
        assert self.sizes(capture, split="fraction", fraction=0.7) == {"train": 7, "test": 3}
        assert self.sizes(capture, split="all") == {"train": 10}

    def test_listed_but_missing_images_are_skipped(self, capture, change, caplog):
        (capture / "images" / "2.png").unlink()
        lists = {"train_filenames": [f"images/{i}.png" for i in range(9)], "test_filenames": ["images/9.png"]}
        change(capture / "transforms.json", lambda data: data.update(lists))
        with caplog.at_level(logging.WARNING, "lumigraph"):
            assert self.sizes(capture) == {"train": 8, "test": 1}
        assert [record.getMessage() for record in caplog.records] == [
            f"1 of 10 frames have no image and are skipped, first images/2.png (in {capture / 'transforms.json'})"
        ]


class TestBounds:
    def use_alpha(self, capture, save_image):
        for number in range(10):
            image = np.full((8, 12, 4), 255, np.uint8)
            image[:2] = 0
            save_image(capture / "images" / f"{number}.png", image)

    def test_objects_are_bounded(self, capture, save_image):
        self.use_alpha(capture, save_image)
        info = load_scene(capture).info
        assert info.background == "white"
        assert not info.bounds.unbounded
        # tan(half the field of view) at distance 1, and a quarter more.
        assert float(info.bounds.half_extent.max()) == pytest.approx(12 / 2 / 15 * 1.25, rel=1e-3)
        assert float(info.cameras["train"].near.min()) < 0.5 < 1.5 < float(info.cameras["train"].far.max())

    def test_cube_of_instant_ngp(self, capture, change, save_image):
        self.use_alpha(capture, save_image)
        keys = {"scale": 0.25, "offset": [0.5, 0.25, 0.5], "aabb_scale": 2}
        change(capture / "transforms.json", lambda data: data.update(keys))
        info = load_scene(capture).info
        inverse = invert_similarity(info.world_transform)
        corners = transform_points(inverse, torch.stack([info.bounds.lower, info.bounds.upper]))
        # The cube of side 2 about 0.5 in instant-ngp's units: (x - offset) / scale.
        expected = [
            [(-0.5 - 0.5) / 0.25, (-0.5 - 0.25) / 0.25, -4.0],
            [(1.5 - 0.5) / 0.25, (1.5 - 0.25) / 0.25, 4.0],
        ]
        assert torch.allclose(corners, torch.tensor(expected), atol=1e-5)
        assert info.bounds.upper.tolist() == [1.0] * 3

    def test_box_of_the_file(self, capture, change):
        change(capture / "transforms.json", lambda data: data.update(aabb=[[-2, -1, 0], [2, 1, 1]]))
        info = load_scene(capture).info
        assert not info.bounds.unbounded
        corners = transform_points(
            invert_similarity(info.world_transform), torch.stack([info.bounds.lower, info.bounds.upper])
        )
        assert torch.allclose(corners, torch.tensor([[-2.0, -1, 0], [2, 1, 1]]), atol=1e-5)

    def test_near_and_far_are_in_file_units(self, capture, change):
        change(capture / "transforms.json", lambda data: data.update(near=1.0, far=20.0))
        cameras = load_scene(capture).info.cameras["train"]
        assert float(cameras.near[0]) == pytest.approx(0.2, rel=1e-4)
        assert float(cameras.far[0]) == pytest.approx(4.0, rel=1e-4)


def test_what_depth_maps_hold_may_be_told(capture, change, save_image):
    values = np.full((8, 12), 5000, np.uint16)
    values[0] = 60000
    save_image(capture / "depth" / "1.png", values)
    change(
        capture / "transforms.json",
        lambda data: data["frames"][1].update(depth_file_path="depth/1.png") or data.update(depth_kind="z"),
    )
    reading = DepthReading(depth_unit=2e-3, depth_kind="euclidean", depth_range=(0.0, 100.0))
    scene = load_scene(capture, depths=reading)
    views = scene.views["train"]
    scale, _, _ = split_similarity(scene.info.world_transform)
    lengths = views.cameras.view_rays(0).directions.norm(dim=-1)
    depth = views.depth(0)
    assert bool(depth[0].isnan().all())
    assert torch.allclose(depth[1:] * lengths[1:], torch.full((7, 12), 10.0 * scale), rtol=1e-4)
    again = load_scene_like(SceneInfo.from_json(scene.info.to_json()), capture).views["train"].depth(0)
    assert torch.equal(again[1:], depth[1:])


def test_masks_and_depth(capture, change, save_image):
    mask = np.full((8, 12), 255, np.uint8)
    mask[:, :6] = 0
    save_image(capture / "masks" / "1.png", mask)
    save_image(capture / "depth" / "1.png", np.full((8, 12), 5000, np.uint16))

    def name(data):
        data["frames"][1].update(mask_path="masks/1.png", depth_file_path="depth/1.png")

    change(capture / "transforms.json", name)
    views = load_scene(capture, downscale=2).views["train"]
    assert views.mask(0).tolist() == [[False] * 3 + [True] * 3] * 4
    assert views.mask(1).all()
    # 5000 millimetres, as far as the cameras are from the middle: one scene unit.
    assert torch.allclose(views.depth(0), torch.ones(4, 6), rtol=1e-4)
    assert views.depth(1).isnan().all()
    change(capture / "transforms.json", lambda data: data.update(integer_depth_scale=2e-3))
    assert torch.allclose(load_scene(capture).views["train"].depth(0), torch.full((8, 12), 2.0), rtol=1e-4)


def test_windows_separators(capture, change):
    change(capture / "transforms.json", lambda data: data["frames"][0].update(file_path="images\\0.png"))
    assert load_scene(capture).views["test"].names[0] == "images/0.png"


def test_a_background_behind_opaque_photos_is_refused(capture):
    with pytest.raises(LumigraphError, match=r"the photos are opaque: --background random"):
        load_scene(capture, background="random")
