"""MobileR2L's folders of pseudo views: there and back, as published, learnt from, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lumigraph.cli.main import main
from lumigraph.distillation.bake import bake_shards, prepare
from lumigraph.distillation.legacy_pictures import TEACHER_UNIT, LegacyPictures, export_pictures
from lumigraph.distillation.poses import sample_poses
from lumigraph.distillation.shards import Plan, Shards, finish
from lumigraph.errors import LumigraphError
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.ndc import ForwardFrame
from lumigraph.geometry.rotations import so3_exp
from lumigraph.scenes.scene import Scene
from lumigraph.training.runs import Run

from .conftest import SIZE, Ball, cameras

SMALL = [
    *("--points", "3", "--octaves", "2", "--width", "8", "--blocks", "1", "--up-blocks", "0"),
    *("--up-widths", "8", "8", "--pictures", "2", "--max-steps", "2", "--device", "cpu"),
]


@pytest.fixture
def moved(scene: Scene) -> Scene:
    """The scene in other units, turned about its vertical axis, of which the capture's origin stays the middle."""
    transform = torch.eye(4, dtype=torch.float64)
    transform[:3, :3] = 0.5 * so3_exp(torch.tensor([0.0, 0.0, 0.9], dtype=torch.float64))
    parts = {name: part.transformed(transform) for name, part in scene.info.cameras.items()}
    return replace(scene, info=replace(scene.info, world_transform=transform, cameras=parts))


def shards_of(folder: Path, scene: Scene, poses: Cameras) -> Shards:
    plan = Plan(poses, scene.info, 4)
    prepare(folder, plan, resume=False, overwrite=False)
    bake_shards(Ball(), folder, plan, list(range(plan.count)))
    finish(folder, plan)
    return Shards.open(folder)


def written(tmp_path: Path, scene: Scene) -> tuple[Shards, Path]:
    shards = shards_of(tmp_path / "shards", scene, sample_poses("mobile", 7, 0, scene.info.cameras["train"]))
    assert export_pictures(shards, tmp_path / "folder") == 7
    return shards, tmp_path / "folder"


def test_there_and_back(tmp_path: Path, moved: Scene) -> None:
    shards, folder = written(tmp_path, moved)
    source = LegacyPictures(folder, moved.info, 0)
    torch.testing.assert_close(source.cameras.camera_to_world, shards.cameras.camera_to_world)
    torch.testing.assert_close(source.cameras.focal, shards.cameras.focal)
    assert source.picture_pixels == SIZE**2
    for view in range(7):
        np.testing.assert_allclose(source.colours(view) * 255, shards.image(view), atol=1e-4)
    drawn, again = (LegacyPictures(folder, moved.info, 0).pictures(5, 3) for _ in range(2))
    assert torch.equal(drawn.rgba, again.rgba)
    for picture in range(3):
        of_view = Ball().view(drawn.cameras[picture]).rgb
        assert float((drawn.rgba[picture, ..., :3] - of_view).abs().max()) < 0.51 / 255
    batch = source.batch(2, 200)
    assert float((batch.rgba[:, :3] - Ball().render(batch.rays).rgb).abs().max()) < 0.51 / 255


def test_it_is_the_published_layout(tmp_path: Path, moved: Scene) -> None:
    shards, folder = written(tmp_path, moved)
    picture = np.load(folder / f"{SIZE}x{SIZE}_rgb" / "rendered_rgb_00003.npy")
    assert (picture.shape, picture.dtype) == ((SIZE * SIZE, 3), np.float32)
    np.testing.assert_allclose(picture[SIZE + 2] * 255, shards.image(3)[1, 2], atol=1e-4)
    pose = np.load(folder / "poses" / "c2w_00003.npy")
    in_capture = shards.cameras.positions[3] @ torch.linalg.inv(moved.info.world_transform[:3, :3]).T.float()
    np.testing.assert_allclose(pose, 1.5 / 4.031128857175551 * in_capture.numpy(), rtol=1e-5, atol=1e-6)
    info = json.loads((folder / "hwf" / "dataset_info.json").read_text())
    assert (info["downscaled_height"], info["downscaled_width"]) == (5, 5)
    assert info["downscaled_focal"] == pytest.approx(30 / 4)
    numbers = np.load(folder / "hwf" / "hwfs.npy")
    assert numbers[:4].tolist() == [5, 5, 7.5, 1]
    assert numbers[5] <= numbers[4] <= numbers[6] == pytest.approx(info["max_radius"])
    assert len(list((folder / "vis").glob("*.png"))) == 7


def test_forward_facing_poses_are_read_where_a_manifest_tells_their_frame(
    tmp_path: Path, moved: Scene
) -> None:
    frame = ForwardFrame(torch.tensor([[1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 0]]), (0.5, 0.5), 1.0)
    facing = replace(moved, info=replace(moved.info, forward=frame))
    shards = shards_of(tmp_path / "shards", facing, moved.info.cameras["train"])
    export_pictures(shards, tmp_path / "folder")
    assert np.load(tmp_path / "folder" / "poses" / "c2w_00000.npy").shape == (3, 4)
    source = LegacyPictures(tmp_path / "folder", facing.info, 0)
    torch.testing.assert_close(
        source.cameras.camera_to_world, shards.cameras.camera_to_world, atol=1e-5, rtol=1e-5
    )
    (tmp_path / "folder" / "manifest.json").unlink()
    with pytest.raises(LumigraphError, match="nothing here tells where that is"):
        LegacyPictures(tmp_path / "folder", facing.info, 0)


def test_views_that_the_layout_cannot_hold_are_refused(tmp_path: Path, scene: Scene) -> None:
    train = scene.info.cameras["train"]
    astray = replace(train, camera_to_world=train.camera_to_world.clone())
    astray.camera_to_world[:, :, 3] += torch.tensor([0.0, 0.0, 0.2])
    zoomed = replace(train, focal=train.focal * torch.linspace(1, 2, len(train))[:, None])
    timed = replace(train, times=torch.linspace(0, 1, len(train)))
    for number, (poses, message) in enumerate(
        ((astray, "look at the origin"), (zoomed, "one focal length"), (timed, "no times"))
    ):
        shards = shards_of(tmp_path / str(number), scene, poses)
        with pytest.raises(LumigraphError, match=message):
            export_pictures(shards, tmp_path / "folder")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    shards = shards_of(tmp_path / "good", scene, train)
    with pytest.raises(LumigraphError, match="something else here"):
        export_pictures(shards, tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").is_file()


def _spoil(path: Path, values: np.ndarray | bytes) -> None:
    if isinstance(values, bytes):
        path.write_bytes(values)
    else:
        np.save(path, values)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        (f"{SIZE}x{SIZE}_rgb/rendered_rgb_00002.npy", np.full((400, 3), 200, np.float32), "from 0 to 1"),
        (f"{SIZE}x{SIZE}_rgb/rendered_rgb_00002.npy", np.zeros((10, 3), np.float32), r"\[400, 3\]"),
        (f"{SIZE}x{SIZE}_rgb/rendered_rgb_00002.npy", b"no array", "cannot be used"),
        (f"{SIZE}x{SIZE}_rgb/rendered_rgb_00002.npy", np.full((400, 3), np.nan, np.float32), "from 0 to 1"),
        ("poses/c2w_00001.npy", np.zeros(3, np.float32), "does not stand in it"),
        ("poses/c2w_00001.npy", np.full(3, np.inf, np.float32), "finite"),
        ("hwf/dataset_info.json", b'{"downscaled_height": 0}', "positive number"),
        ("hwf/dataset_info.json", b"[", "hwf/dataset_info.json"),
    ],
)
def test_damaged_folders_end_in_one_message(
    tmp_path: Path, scene: Scene, name: str, values: np.ndarray | bytes, message: str
) -> None:
    _, folder = written(tmp_path, scene)
    _spoil(folder / name, values)
    with pytest.raises(LumigraphError, match=message):
        LegacyPictures(folder, scene.info, 0).pictures(0, 7)
    (folder / "poses" / "c2w_00001.npy").unlink()
    with pytest.raises(LumigraphError):
        LegacyPictures(folder, scene.info, 0)


def test_bake_writes_and_distil_reads(
    tmp_path: Path, teacher: Run, scene: Scene, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr("lumigraph.scenes.load.load_scene", lambda *a, **k: scene)

    def call(*words: object) -> int:
        return main([str(word) for word in words])

    folder = tmp_path / "folder"
    bake = [
        "bake",
        teacher.path,
        "--out",
        tmp_path / "s",
        "--views",
        6,
        "--device",
        "cpu",
        "--legacy",
        folder,
    ]
    assert call(*bake, "--legacy-layout", "mobile-r2l", "--poses", "r2l") == 2
    assert "one focal length" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()
    assert call(*bake, "--legacy-layout", "mobile-r2l", "--poses", "mobile") == 0
    distil = ["distill", "mobile-r2l", folder, "--run", tmp_path / "run", *SMALL]
    assert call(*distil) == 2
    assert "--scene" in capsys.readouterr().err
    assert call(*distil, "--scene", "builtin:ball", "--layout", "dylin") == 2
    assert "pseudo views of MobileR2L, not of layout dylin" in " ".join(capsys.readouterr().err.split())
    assert call(*distil, "--scene", "builtin:ball") == 0
    assert Run.open(tmp_path / "run").provenance["distilled_from"]["views"] == 6
    rays = ["distill", "r2l", folder, "--scene", "builtin:ball", "--run", tmp_path / "rays", "--max-steps", 2]
    assert (
        call(*rays, "--width", 8, "--depth", 4, "--rays", 32, "--layout", "mobile-r2l", "--device", "cpu")
        == 0
    )


def test_a_published_synthetic_folder_lies_where_its_scene_does(tmp_path: Path, scene: Scene) -> None:
    """Cameras at 1.5, whatever wrote them: no manifest, and numbers that nobody needs are absent."""
    _, folder = written(tmp_path, scene)
    (folder / "manifest.json").unlink()
    (folder / "hwf" / "hwfs.npy").unlink()
    np.save(folder / "poses" / "c2w_00000.npy", np.array([1.5, 0, 0], np.float32))
    seen = LegacyPictures(folder, scene.info, 0).cameras[0]
    pose = seen.camera_to_world[0]
    torch.testing.assert_close(pose[:, 3], torch.tensor([1.5 / TEACHER_UNIT, 0, 0]))
    wanted = torch.tensor([[0.0, 0, -1], [1, 0, 0], [0, -1, 0]])
    torch.testing.assert_close(pose[:, :3], wanted, atol=1e-6, rtol=0)
    assert seen.near.tolist() == cameras(1, 0.0).near.tolist()


@pytest.mark.parametrize("told", [{"dataset_type": "colmap"}, {"ff": True}, {"dataset_type": None}])
def test_centres_of_captures_that_the_teacher_moved_are_refused(
    tmp_path: Path, scene: Scene, told: dict[str, object]
) -> None:
    """Published folders of COLMAP captures around an object: the frame of their [3] centres stands nowhere."""
    _, folder = written(tmp_path, scene)
    path = folder / "hwf" / "dataset_info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | told))
    LegacyPictures(folder, scene.info, 0)  # the manifest beside it says where they are
    (folder / "manifest.json").unlink()
    with pytest.raises(LumigraphError, match=r"lie in a frame of their teacher's.*lumigraph bake"):
        LegacyPictures(folder, scene.info, 0)
