"""Captures in LLFF's format: published placing, folders of images, splits, and what is kept to read them again."""

import dataclasses
import logging

import numpy as np
import pytest
import torch

from lumigraph.cli.main import main
from lumigraph.errors import LumigraphError
from lumigraph.files import read_json, write_json
from lumigraph.geometry.conventions import invert_similarity, opencv_to_opengl
from lumigraph.geometry.ndc import require_ahead
from lumigraph.scenes.facing import FacingOptions
from lumigraph.scenes.load import load_scene, load_scene_like
from lumigraph.scenes.scene import SceneInfo
from lumigraph.scenes.splits import SplitOptions

ALL = SplitOptions(split="all")


def unit(vector):
    return vector / np.linalg.norm(vector)


def published(rows):
    """Recentring and scaling as nerf_pl and nerf-pytorch do it: poses [N, 3, 4] (right, up, back), bounds, scale."""
    matrices = rows[:, :15].reshape(-1, 3, 5)
    poses = np.concatenate([matrices[..., 1:2], -matrices[..., :1], matrices[..., 2:4]], -1)
    scale = rows[:, 15].min() * 0.75
    poses[..., 3] /= scale
    back = unit(poses[..., 2].mean(0))
    right = unit(np.cross(poses[..., 1].mean(0), back))
    average = np.eye(4)
    average[:3] = np.stack([right, np.cross(back, right), back, poses[..., 3].mean(0)], 1)
    last = np.broadcast_to([0.0, 0.0, 0.0, 1.0], (len(poses), 1, 4))
    return (np.linalg.inv(average) @ np.concatenate([poses, last], 1))[:, :3], rows[:, 15:] / scale, scale


def spherified(poses):
    """nerf-pytorch's `spherify_poses` of recentred poses, without its last steps: [N, 3, 4] and the scale."""
    directions, origins = poses[:, :, 2:3], poses[:, :, 3:4]
    projectors = np.eye(3) - directions * directions.transpose(0, 2, 1)
    centre = np.linalg.inv(projectors.mean(0)) @ (projectors @ origins).mean(0)[:, 0]
    up = unit((poses[:, :, 3] - centre).mean(0))
    first = unit(np.cross([0.1, 0.2, 0.3], up))
    frame = np.eye(4)
    frame[:3] = np.stack([first, unit(np.cross(up, first)), up, centre], 1)
    last = np.broadcast_to([0.0, 0.0, 0.0, 1.0], (len(poses), 1, 4))
    reset = (np.linalg.inv(frame) @ np.concatenate([poses, last], 1))[:, :3]
    scale = 1.0 / np.sqrt((reset[:, :, 3] ** 2).sum(1).mean())
    reset[:, :, 3] *= scale
    return reset, scale


def opengl(cameras):
    return opencv_to_opengl(cameras.camera_to_world).numpy()


def test_forward_facing_scenes_stand_as_published(llff_scene, llff_rows):
    info = load_scene(llff_scene, splits=ALL).info
    poses, bounds, _ = published(llff_rows)
    cameras = info.cameras["train"]
    np.testing.assert_allclose(opengl(cameras), poses, atol=1e-5)
    np.testing.assert_allclose(cameras.near.numpy(), 0.9 * bounds[:, 0], rtol=1e-5)
    np.testing.assert_allclose(cameras.far.numpy(), bounds.max(), rtol=1e-5)
    assert bounds.min() == pytest.approx(4 / 3)
    assert (info.format, info.background) == ("llff", "opaque")
    assert info.forward is not None
    assert info.forward.near == 1.0
    assert info.forward.tangents == pytest.approx((24 / 2 / 30, 16 / 2 / 30))
    average = opencv_to_opengl(info.forward.camera_to_world[None])[0]
    assert torch.equal(average, torch.eye(3, 4))
    for index in range(len(cameras)):
        require_ahead(info.forward, cameras.view_rays(index))
    # The box holds what is in front of the cameras, at the depths that were reconstructed.
    assert info.bounds.unbounded
    ahead = torch.tensor([[0.0, 0.0, -4 / 3], [0.0, 0.0, -float(bounds.max()) / 2]])
    assert bool((info.bounds.normalise(ahead).abs() <= 1).all())


def test_the_transform_leads_back_to_the_capture(llff_scene, llff_rows):
    for facing in ("auto", "forward", "inward", "spherify"):
        info = load_scene(llff_scene, splits=ALL, facing=FacingOptions(facing=facing)).info
        back = info.cameras["train"].transformed(invert_similarity(info.world_transform))
        np.testing.assert_allclose(back.positions.numpy(), llff_rows[:, [3, 8, 13]], atol=1e-4)


def test_images_of_the_folder_for_the_scale_are_taken(llff_scene, caplog):
    with caplog.at_level(logging.INFO, "lumigraph"):
        full, folder, further = (load_scene(llff_scene, downscale=factor) for factor in (1, 2, 4))
    assert [record.getMessage() for record in caplog.records] == [
        "9 images of images/, averaged over blocks of 1x1 pixels",
        "9 images of images_2/, averaged over blocks of 1x1 pixels",
        "9 images of images_2/, averaged over blocks of 2x2 pixels",
    ]
    assert full.views["test"].names == folder.views["test"].names == ["0.png", "8.png"]
    for scene, factor in ((full, 1), (folder, 2), (further, 4)):
        cameras = scene.views["train"].cameras
        assert scene.info.downscale == factor
        assert cameras.size[0].tolist() == [24 // factor, 16 // factor]
        torch.testing.assert_close(cameras.focal[0], torch.full((2,), 30.0 / factor))
        torch.testing.assert_close(cameras.principal[0], torch.tensor([12.0, 8.0]) / factor)
        assert scene.views["train"].image(0).shape == (16 // factor, 24 // factor, 3)
    # images_2 is of one colour, images is not.
    assert int(further.views["train"].image(0).float().std()) == 0
    assert int(load_scene(llff_scene, downscale=3).views["train"].image(0).float().std()) > 0


def test_a_downscale_that_makes_no_pictures_is_refused(llff_scene):
    for scene in (llff_scene, "builtin:still:16"):
        with pytest.raises(LumigraphError, match="--downscale 0 makes no pictures"):
            load_scene(scene, downscale=0)


def test_photos_keep_their_names_in_reduced_copies(llff_scene):
    """Whose files may be called otherwise, as those of published captures are."""
    for number in range(9):
        (llff_scene / "images_2" / f"{number}.png").rename(llff_scene / "images_2" / f"image{number:03d}.png")
    scenes = [load_scene(llff_scene, downscale=factor, splits=ALL) for factor in (1, 2)]
    names = [scene.views["train"].names for scene in scenes]
    assert names[0] == names[1] == [f"{number}.png" for number in range(9)]
    assert scenes[1].views["train"].image(3).unique().tolist() == [60]
    (llff_scene / "images" / "8.png").unlink()
    assert load_scene(llff_scene, downscale=2, splits=ALL).views["train"].names[8] == "image008.png"


def test_rows_follow_the_images_as_llff_sorts_them(llff_scene, save_image):
    for folder in ("images", "images_2"):
        (llff_scene / folder / "2.png").rename(llff_scene / folder / "10.png")
    names = load_scene(llff_scene, splits=ALL).views["train"].names
    assert names[:3] == ["0.png", "1.png", "10.png"]


def test_inward_captures_are_recognised_and_placed_like_others(inward_llff_scene, inward_llff_rows):
    info = load_scene(inward_llff_scene, splits=ALL).info
    cameras = info.cameras["train"]
    assert info.forward is None
    assert float(cameras.positions.norm(dim=1).median()) == pytest.approx(1.0, rel=1e-4)
    assert float(cameras.ups.mean(0)[2]) > 0.9
    focus = (info.world_transform @ torch.tensor([1.0, 2.0, 3.0, 1.0]).double())[:3]
    assert float(focus.norm()) < 0.05
    scale = float(torch.linalg.det(info.world_transform[:3, :3])) ** (1 / 3)
    np.testing.assert_allclose(cameras.near.numpy(), 0.9 * scale * inward_llff_rows[:, 15], rtol=1e-4)
    np.testing.assert_allclose(cameras.far.numpy(), scale * inward_llff_rows[:, 16].max(), rtol=1e-4)


def test_inward_captures_as_nerf_pytorch_reads_them(inward_llff_scene, inward_llff_rows):
    info = load_scene(inward_llff_scene, splits=ALL, facing=FacingOptions(facing="spherify")).info
    poses, bounds, _ = published(inward_llff_rows)
    poses, scale = spherified(poses)
    cameras = info.cameras["train"]
    np.testing.assert_allclose(opengl(cameras), poses, atol=1e-5)
    assert float(cameras.positions.square().sum(1).mean()) == pytest.approx(1.0, rel=1e-5)
    np.testing.assert_allclose(cameras.near.numpy(), 0.9 * scale * bounds.min(), rtol=1e-5)
    np.testing.assert_allclose(cameras.far.numpy(), scale * bounds.max(), rtol=1e-5)
    assert info.forward is None
    assert (info.bounds.lower.tolist(), info.bounds.upper.tolist()) == ([-1.0] * 3, [1.0] * 3)


@pytest.mark.parametrize("factor", [1.5, 8.0])
def test_inward_captures_as_nerf_pl_reads_them(inward_llff_scene, inward_llff_rows, factor):
    facing = FacingOptions(facing="inward", far_factor=factor)
    info = load_scene(inward_llff_scene, splits=ALL, facing=facing).info
    poses, bounds, _ = published(inward_llff_rows)
    cameras = info.cameras["train"]
    np.testing.assert_allclose(opengl(cameras), poses, atol=1e-5)
    np.testing.assert_allclose(cameras.near.numpy(), bounds.min(), rtol=1e-5)
    np.testing.assert_allclose(cameras.far.numpy(), min(factor * bounds.min(), bounds.max()), rtol=1e-5)
    assert info.forward is None
    assert bool((info.bounds.normalise(cameras.positions).abs().amax(1) < 2.0).all())


def test_a_scene_is_read_again_alike(inward_llff_scene, tmp_path):
    splits = SplitOptions(split="names", test_names=("3.png", "5.png"))
    facing = FacingOptions(facing="inward", far_factor=2.0)
    info = load_scene(inward_llff_scene, downscale=2, splits=splits, facing=facing).info
    write_json(tmp_path / "scene.json", info.to_json())
    back = SceneInfo.from_json(read_json(tmp_path / "scene.json"))
    assert (back.facing, back.splits) == (facing, splits)
    again = load_scene_like(back, inward_llff_scene).info
    assert again.to_json() == info.to_json()


def test_a_forward_facing_scene_is_read_again_alike(llff_scene):
    info = load_scene(llff_scene / "poses_bounds.npy").info
    again = load_scene_like(SceneInfo.from_json(info.to_json()), llff_scene).info
    assert again.to_json() == info.to_json()


def test_the_most_centred_view_is_held_out(llff_scene, llff_rows):
    scene = load_scene(llff_scene, splits=SplitOptions(split="most_centred"))
    poses, _, _ = published(llff_rows)
    nearest = int(np.linalg.norm(poses[:, :, 3], axis=1).argmin())
    assert scene.views["test"].names == [f"{nearest}.png"]
    assert len(scene.views["train"]) == len(llff_rows) - 1


def test_cameras_that_look_outwards_are_no_forward_facing_scene(inward_llff_scene, inward_llff_rows):
    rows = inward_llff_rows.copy()
    matrices = rows[:, :15].reshape(-1, 3, 5)
    matrices[..., 1:3] *= -1  # turned about the vertical
    np.save(inward_llff_scene / "poses_bounds.npy", rows)
    info = load_scene(inward_llff_scene).info
    assert info.forward is None
    assert info.bounds.unbounded
    info.cameras["train"].check()


def test_transparent_images_have_a_background(llff_scene, save_image):
    for number in range(9):
        values = np.zeros((16, 24, 4), np.uint8)
        values[:8] = 255
        save_image(llff_scene / "images" / f"{number}.png", values)
    info = load_scene(llff_scene, background="black").info
    assert info.background == "black"
    assert load_scene_like(info, llff_scene).info.background == "black"


@pytest.mark.parametrize("options", [{"facing": "inward"}, {"far_factor": 3.0}])
def test_other_formats_refuse_to_be_placed(blender_scene, options):
    for source in (blender_scene, "builtin:still:16"):
        with pytest.raises(LumigraphError, match="--facing"):
            load_scene(source, facing=FacingOptions(**options))


@pytest.mark.parametrize("factor", [1.0, 0.0, -2.0, float("nan"), float("inf")])
def test_a_far_factor_that_leaves_nothing(llff_scene, factor):
    with pytest.raises(LumigraphError, match="--far-factor"):
        load_scene(llff_scene, facing=FacingOptions(far_factor=factor))


def test_inspect_says_what_was_read(llff_scene, tmp_path, capsys):
    arguments = ["inspect", str(llff_scene), "--downscale", "2", "--out", str(tmp_path)]
    assert main([*arguments, "--split", "most_centred", "--json", str(tmp_path / "x.json")]) == 0
    printed = capsys.readouterr().out
    for text in ("llff", "images_2", "forward, from a near plane to infinity", "12x8"):
        assert text in printed
    assert read_json(tmp_path / "x.json")["splits"]["test"]["views"] == 1


def test_info_without_the_new_keys_is_read(llff_scene):
    info = load_scene(llff_scene).info
    data = info.to_json()
    for key in ("facing", "forward"):
        del data[key]
    old = SceneInfo.from_json(data)
    assert old.facing == FacingOptions()
    assert old.to_json() == dataclasses.replace(info, forward=None).to_json()
