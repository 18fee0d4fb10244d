"""Views of several scales: made in memory, written, read back, and refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lumigraph.cli.main import main
from lumigraph.errors import LumigraphError
from lumigraph.files import read_json
from lumigraph.geometry.cameras import finest_of_each, pixel_radii
from lumigraph.scenes.formats import multiscale
from lumigraph.scenes.load import load_scene, load_scene_like
from lumigraph.scenes.procedural import make_scene, write_blender
from lumigraph.scenes.scene import Scene, SceneInfo
from lumigraph.scenes.splits import SplitOptions
from lumigraph.scenes.stored_arrays import MemoryBudget
from lumigraph.training.sources import PhotoSource


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train 3, test 2 RGBA pictures of 32 x 32 pixels, in Blender's format."""
    folder = tmp_path_factory.mktemp("scenes") / "still"
    write_blender(make_scene("still", 3, 0, 2, size=32), folder)
    return folder


@pytest.fixture
def written(still: Path, tmp_path: Path) -> Path:
    multiscale.write(load_scene(still, scales=3), tmp_path / "data")
    return tmp_path / "data"


def assert_equal(one: Scene, other: Scene) -> None:
    assert one.views.keys() == other.views.keys()
    for split, views in one.views.items():
        again = other.views[split]
        assert views.pixel_areas is not None
        assert again.pixel_areas is not None
        assert torch.equal(views.pixel_areas, again.pixel_areas)
        for name in ("camera_to_world", "focal", "principal", "size", "near", "far"):
            torch.testing.assert_close(getattr(views.cameras, name), getattr(again.cameras, name))
        for i in range(len(views)):
            assert torch.equal(views.image(i), again.image(i)), (split, i)
    assert one.info.background == other.info.background
    assert torch.equal(one.info.bounds.lower, other.info.bounds.lower)


def test_few_views_are_few_photos_at_all_their_sizes(still: Path, written: Path) -> None:
    for select, photos in (("first", [0, 1]), ("uniform", [0, 2])):
        options = SplitOptions(views=2, select=select)  # pyright: ignore[reportArgumentType]
        train = load_scene(written, splits=options).split("train")
        assert train.cameras.ids.tolist() == [photo for photo in photos for _ in range(3)]
        in_memory = load_scene(still, scales=3, splits=options).split("train")
        assert torch.equal(train.cameras.ids, in_memory.cameras.ids)
        assert all(torch.equal(train.image(i), in_memory.image(i)) for i in range(6))
    with pytest.raises(LumigraphError, match="more than the 3 training views"):
        load_scene(written, splits=SplitOptions(views=4))


def test_what_the_format_has_no_place_for_is_missed(still: Path, tmp_path: Path, caplog) -> None:
    multiscale.write(load_scene(still, scales=2), tmp_path / "data")
    assert "the depth maps and normal maps are not written" in caplog.text


# ------------------------------------------------------------------ in memory


def test_levels_are_means_of_premultiplied_blocks(still: Path) -> None:
    whole, scene = load_scene(still).split("train"), load_scene(still, scales=3)
    views = scene.split("train")
    assert (len(views), scene.info.scales) == (9, 3)
    assert [Path(name).stem for name in views.names[:4]] == ["r_000_d0", "r_000_d1", "r_000_d2", "r_001_d0"]
    assert views.pixel_areas is not None
    assert views.pixel_areas.tolist() == [1, 4, 16] * 3
    assert views.cameras.size[:3].tolist() == [[32, 32], [16, 16], [8, 8]]
    assert views.cameras.ids.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    for i in range(9):
        full = whole.image(i // 3).double()
        side = 2 ** (i % 3)
        mean = full.reshape(32 // side, side, 32 // side, side, 4).mean((1, 3))
        assert (views.image(i) - mean).abs().max() <= 0.5 + 1e-9
    depth, whole_depth = views.depth(1), whole.depth(0)
    assert depth is not None
    assert whole_depth is not None
    assert depth.shape == (16, 16)
    assert torch.isfinite(depth).any()


def test_pixels_of_all_levels_are_gathered(still: Path) -> None:
    views = load_scene(still, scales=3).split("train")
    source = PhotoSource(views, 0)
    index, x, y = source.draw(0, 300)
    batch = source.batch(0, 300)
    assert len(index.unique()) == 9
    assert batch.weight is not None
    for i in range(300):
        pixel = views.image(int(index[i]))[y[i], x[i]].float() / 255
        assert torch.equal(batch.rgba[i], pixel)
        assert float(batch.weight[i]) == 4.0 ** (int(index[i]) % 3)
    # A pixel twice as wide has a cone twice as wide.
    radii = torch.tensor([float(batch.rays.radii[index % 3 == level].mean()) for level in range(3)])
    torch.testing.assert_close(radii / radii[0], torch.tensor([1.0, 2.0, 4.0]))
    assert PhotoSource(load_scene(still).split("train"), 0).batch(0, 9).weight is None


def test_a_part_of_the_levels_and_little_memory(still: Path) -> None:
    views = load_scene(still, scales=3).split("train")
    part = views.subset([5, 0])
    assert part.pixel_areas is not None
    assert part.pixel_areas.tolist() == [16, 1]
    assert torch.equal(part.image(0), views.image(5))
    few = load_scene(still).split("train").with_scales(3, MemoryBudget(0))
    index, x, y = PhotoSource(views, 0).draw(0, 40)
    assert torch.equal(few.pixels(index, x, y), views.pixels(index, x, y))


def test_a_run_reads_its_scene_with_the_same_levels(still: Path) -> None:
    scene = load_scene(still, downscale=2, scales=2)
    info = SceneInfo.from_json(scene.info.to_json())
    assert info.scales == 2
    assert_equal(scene, load_scene_like(info, still))


def test_the_finest_of_each_photo() -> None:
    cameras = load_scene("builtin:still:32", scales=3).info.cameras["train"]
    finest = finest_of_each(cameras)
    assert torch.equal(finest.camera_to_world, cameras[::3].camera_to_world)
    assert torch.equal(finest_of_each(finest).size, finest.size)
    radii = pixel_radii(cameras)
    assert float(radii.min()) == pytest.approx(float(radii[1::3].min()) / 2)


@pytest.mark.parametrize(
    ("scales", "message"),
    [(0, "--scales 0 makes no sense"), (7, "Choose at most 6"), (60, "Choose at most 6")],
)
def test_levels_out_of_range(still: Path, scales: int, message: str) -> None:
    with pytest.raises(LumigraphError, match=message):
        load_scene(still, scales=scales)


# ------------------------------------------------------------------ on disk


def test_what_is_written_is_what_is_made_in_memory(still: Path, written: Path) -> None:
    scene = load_scene(written)
    assert (scene.info.format, scene.info.scales, scene.info.background) == ("multiscale", 1, "white")
    assert_equal(load_scene(still, scales=3), scene)
    assert scene.split("train").cameras.ids.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert scene.split("test").cameras.ids.tolist() == [3, 3, 3, 4, 4, 4]
    assert_equal(load_scene(written / "metadata.json"), scene)
    halved = load_scene(written, downscale=2).split("train")
    assert halved.cameras.size[:3].tolist() == [[16, 16], [8, 8], [4, 4]]


def test_the_file_has_the_published_form(written: Path) -> None:
    data = read_json(written / "metadata.json")
    assert set(data) == {"train", "test", "aabb"}
    train = data["train"]
    keys = {
        "file_path",
        "cam2world",
        "width",
        "height",
        "focal",
        "label",
        "near",
        "far",
        "lossmult",
        "pix2cam",
    }
    assert set(train) == keys
    assert {len(values) for values in train.values()} == {9}
    assert train["file_path"][:4] == [
        f"images_train/{name}.png" for name in ("000_d0", "000_d1", "000_d2", "001_d0")
    ]
    assert train["label"][:4] == [0, 1, 2, 0]
    assert train["lossmult"][:4] == [1, 4, 16, 1]
    f, w, h = train["focal"][1], train["width"][1], train["height"][1]
    expected = [[1 / f, 0, -0.5 * w / f], [0, -1 / f, 0.5 * h / f], [0, 0, -1]]
    np.testing.assert_allclose(train["pix2cam"][1], expected, rtol=1e-6)
    assert train["focal"][1] == pytest.approx(train["focal"][0] / 2)
    # Other programs read straight alpha, and composite it on white.
    scene = load_scene(written).split("train")
    straight = np.asarray(Image.open(written / train["file_path"][1]), float) / 255
    premultiplied = scene.image(1).numpy() / 255
    np.testing.assert_allclose(straight[..., :3] * straight[..., 3:], premultiplied[..., :3], atol=0.51 / 255)


def test_published_data_without_our_key(written: Path, change) -> None:
    """Without bounds they are those of NeRF-synthetic, where cameras are about 4 from the origin."""

    def published(data: dict[str, Any]) -> None:
        del data["aabb"]
        for split in data.values():
            for pose in split["cam2world"]:
                position = np.array(pose)[:3, 3]
                for row, value in zip(pose[:3], 4 * position / np.linalg.norm(position), strict=True):
                    row[3] = float(value)

    change(written / "metadata.json", published)
    scene = load_scene(written)
    assert scene.info.bounds.lower.tolist() == [-1.5] * 3
    assert scene.split("train").cameras.near[0] == pytest.approx(
        float(load_scene(written).info.cameras["train"].near[0])
    )


def test_missing_pictures_are_skipped(written: Path) -> None:
    (written / "images_train" / "001_d1.png").unlink()
    scene = load_scene(written)
    assert scene.missing == ["images_train/001_d1.png"]
    assert len(scene.split("train")) == 8


def column(key: str, value: Any) -> Callable[[dict[str, Any]], object]:
    def apply(data: dict[str, Any]) -> None:
        data["train"][key][1] = value

    return apply


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (lambda data: data.pop("train"), "'train' is missing"),
        (lambda data: data.update(train=[1]), "expected an object"),
        (lambda data: data["train"].pop("pix2cam"), "'pix2cam' is missing"),
        (lambda data: data["train"].update(lossmult=4), "'lossmult' must be a list"),
        (lambda data: data["train"]["near"].pop(), "'near' has 8 entries, 'file_path' has 9"),
        (column("file_path", 7), "'file_path' must be a text"),
        (column("file_path", "../secret.png"), "leaves the folder"),
        (column("file_path", "images_train/000_d0.png"), "same image"),
        (column("width", 17), "the image is 16x16, but 17x16 is declared"),
        (column("height", "x"), "'height' must be a positive number"),
        (column("cam2world", [[1, 0], [0, 1]]), "'cam2world' must be a 4x4 matrix"),
        (column("pix2cam", [[1, 0, 0], [0, 1, 0], [0, 0, 1]]), "'pix2cam' must be [[1/fx"),
        (column("lossmult", 0), "'lossmult' must be a positive number"),
        (column("far", 0.1), "not in order"),
    ],
)  # fmt: skip
def test_bad_metadata_ends_in_one_message(written: Path, change, how, message: str) -> None:
    change(written / "metadata.json", how)
    with pytest.raises(LumigraphError) as caught:
        load_scene(written)
    assert message in str(caught.value)
    assert "metadata.json" in str(caught.value)
    assert caught.value.todo


def test_a_file_that_is_no_json(written: Path) -> None:
    (written / "metadata.json").write_text("{")
    with pytest.raises(LumigraphError, match="not valid JSON"):
        load_scene(written)


def test_options_that_make_no_sense_of_it(written: Path) -> None:
    with pytest.raises(LumigraphError, match="several scales already"):
        load_scene(written, scales=2)
    with pytest.raises(LumigraphError, match="--split every"):
        load_scene(written, splits=SplitOptions(split="every"))


def test_captures_of_nerfies_are_not_taken_for_it(tmp_path: Path) -> None:
    (tmp_path / "metadata.json").write_text("{}")
    assert multiscale.is_multiscale(tmp_path)
    (tmp_path / "dataset.json").write_text("{}")
    assert not multiscale.is_multiscale(tmp_path)


# ------------------------------------------------------------------ the verb


def test_one_scene(still: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    argv = ["multiscale", str(still), "--out", str(out), "--scales", "2"]
    assert main(argv) == 0
    assert "10 pictures, of 32x32, 16x16 pixels" in capsys.readouterr().out
    assert_equal(load_scene(still, scales=2), load_scene(out))
    assert main(argv) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([*argv, "--overwrite"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_folder_of_scenes(tmp_path: Path, capsys) -> None:
    for name in ("one", "two", "three"):
        write_blender(make_scene("still", 2, 0, 1, size=8), tmp_path / "in" / name)
    (tmp_path / "in" / "notes").mkdir()
    out = tmp_path / "out"
    argv = ["multiscale", str(tmp_path / "in"), "--out", str(out), "--scales", "2"]
    assert main([*argv, "--scenes", "one"]) == 0
    assert [path.name for path in out.iterdir()] == ["one"]
    before = (out / "one" / "metadata.json").stat().st_mtime_ns
    assert main(argv) == 2
    assert main([*argv, "--resume"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["one", "three", "two"]
    assert (out / "one" / "metadata.json").stat().st_mtime_ns == before
    assert main([*argv, "--resume"]) == 0
    assert "nothing left to do" in capsys.readouterr().out
    assert main([*argv, "--scenes", "four"]) == 2
    assert "there is no scene 'four'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["builtin:moving:16"], "times"),
        (["builtin:still:16", "--scales", "1"], "no multi-scale data"),
        (["builtin:still:16", "--scales", "9"], "Choose at most 5"),
        (["builtin:still:16", "--scenes", "a"], "folder of scenes"),
        (["nowhere"], "no such scene folder"),
    ],
)
def test_bad_requests_write_nothing(argv: list[str], message: str, tmp_path: Path, capsys) -> None:
    assert main(["multiscale", *argv, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("lumigraph:") == 1
    assert not list(tmp_path.iterdir())


def test_the_file_is_plain_json(written: Path) -> None:
    assert json.loads((written / "metadata.json").read_text())["train"]["width"][0] == 32
