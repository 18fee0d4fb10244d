"""Files of depth: what is written is what was seen, and says its unit."""

import colorsys
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lumigraph.configs.depth_files import DepthFiles
from lumigraph.errors import LumigraphError
from lumigraph.evaluation.depth_pictures import (
    depth_picture,
    disparity_picture,
    png_unit,
    saving_depth,
    steps_of,
    turbo,
)
from lumigraph.files import read_json
from lumigraph.geometry.ndc import ForwardFrame
from lumigraph.rendering.renderer import Renderer, Rendering
from lumigraph.scenes.formats.pictures import read_depth
from lumigraph.scenes.load import load_scene
from lumigraph.scenes.scene import SceneInfo

SCALE = 0.25
"""Scene units in a unit of the capture."""
TURN = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)


@pytest.fixture(scope="module")
def info() -> SceneInfo:
    transform = torch.eye(4, dtype=torch.float64)
    transform[:3, :3] = SCALE * TURN
    transform[:3, 3] = torch.tensor([1.0, 2, 3])
    return replace(load_scene("builtin:still:16").info, world_transform=transform)


def seen(size: tuple[int, int] = (5, 7)) -> Rendering:
    """Depths of 1 to 2 scene units; the first row shows nothing."""
    depth = torch.linspace(1, 2, math.prod(size)).reshape(size)
    opacity = torch.ones(size)
    opacity[0] = 0.1
    extras = {"depth_median": depth + 0.1, "depth_raw": 0.5 * depth}
    return Rendering(torch.zeros(*size, 3), depth, opacity, extras)


def read_pfm(path: Path) -> np.ndarray:
    """One that knows nothing of the writer."""
    kind, size, scale, pixels = path.read_bytes().split(b"\n", 3)
    assert kind == b"Pf"
    width, height = map(int, size.split())
    values = np.frombuffer(pixels, "<f4" if float(scale) < 0 else ">f4")
    return values.reshape(height, width)[::-1]


def written(
    folder: Path, info: SceneInfo, *renderings: Rendering, renderer: Renderer | None = None, **options
) -> dict:
    chosen = DepthFiles(save_depth=folder, **options)
    names = [f"view_{index}" for index in range(len(renderings))]
    cameras = info.cameras["train"][torch.zeros(len(renderings), dtype=torch.int64)]
    with saving_depth(chosen, names, cameras, renderer or Renderer(), info) as look:
        assert look is not None
        for index, rendering in enumerate(renderings):
            look(index, rendering)
    return read_json(folder / "depth.json")


@pytest.mark.parametrize("statistic", ["expected", "median", "raw"])
def test_every_format_holds_the_same_depth(statistic, info: SceneInfo, tmp_path: Path) -> None:
    rendering = seen()
    assert rendering.depth is not None
    kinds = ("pfm", "npy", "bytes", "png16")
    about = written(tmp_path, info, rendering, depth_files=kinds, depth_statistic=statistic)
    values = rendering.depth if statistic == "expected" else rendering.extras[f"depth_{statistic}"]
    wanted = values.numpy() / SCALE
    wanted[0] = np.nan
    assert (about["statistic"], about["unit"]) == (statistic, "units of the capture")
    view = about["views"][0]
    told, cameras = about["cameras"], info.cameras["train"].transformed(info.to_capture)
    np.testing.assert_allclose(told["camera_to_world"], cameras.camera_to_world[:1].numpy())
    assert told["near"] == pytest.approx(cameras.near[:1].tolist())
    assert (view["name"], view["width"], view["height"], view["too_far_for_png16"]) == ("view_0", 7, 5, 0)
    assert sorted(view["files"].values()) == [f"view_0_depth.{end}" for end in ("bytes", "npy", "pfm", "png")]
    pfm = read_pfm(tmp_path / "view_0_depth.pfm")
    assert np.isposinf(pfm[0]).all()
    np.testing.assert_allclose(pfm[1:], wanted[1:], rtol=1e-6)
    plain = np.fromfile(tmp_path / "view_0_depth.bytes", "<f4").reshape(5, 7)
    np.testing.assert_allclose(plain, wanted, rtol=1e-6)
    # The reader of scenes, which takes depth for training from such files.
    array = read_depth(tmp_path / "view_0_depth.npy", (7, 5), 1.0)
    np.testing.assert_allclose(array, wanted, rtol=1e-6)
    unit = about["files"]["png16"]["depth_unit"]
    assert unit == 1e-3
    with Image.open(tmp_path / "view_0_depth.png") as image:
        assert image.mode == "I;16"
    png = read_depth(tmp_path / "view_0_depth.png", (7, 5), unit)
    np.testing.assert_allclose(png, wanted, atol=0.51 * unit, rtol=0)


def test_the_unit_of_pngs_leaves_room() -> None:
    for largest, unit in ((0.3, 1e-5), (1.0, 1e-3), (32.0, 1e-3), (40.0, 1e-2), (5e4, 10.0)):
        assert png_unit(np.array([[np.nan, largest, 0.5 * largest]])) == unit
    steps = steps_of(np.array([[0.0001, 65.534, 65.536, np.nan, 2.0]]), 1e-3)
    assert steps.tolist() == [[1, 65534, 0, 0, 2000]]


def test_what_is_farther_than_pngs_tell_is_counted(info: SceneInfo, tmp_path: Path, caplog) -> None:
    near, far = seen(), seen()
    assert far.depth is not None
    far.depth[2, 3] = 1e4
    about = written(tmp_path, info, near, far, depth_files=("png16",))
    assert [view["too_far_for_png16"] for view in about["views"]] == [0, 1]
    assert np.isnan(read_depth(tmp_path / "view_1_depth.png", (7, 5), 1e-3)[2, 3])
    assert "1 pixels are farther away" in caplog.text


def test_colours_go_from_blue_to_red() -> None:
    colours = turbo(np.linspace(-1, 2, 301)[100:201])
    assert colours[0].tolist() == [48, 18, 59]
    assert colours[-1].tolist() == [122, 4, 3]
    hues = [hue(colour) for colour in colours[5:]]
    assert (np.diff(hues) < 0.003).all()
    assert len(np.unique(colours, axis=0)) == 101
    assert (turbo(np.array([-3.0, 7.0])) == turbo(np.array([0.0, 1.0]))).all()


def hue(colour: np.ndarray) -> float:
    return colorsys.rgb_to_hsv(*(colour / 255))[0]


def test_near_is_red_and_far_is_blue() -> None:
    depth = np.array([[1.0, 2.0, 4.0, 9.0, np.nan, 0.5]])
    for picture in (depth_picture(depth, 1.0, 4.0), disparity_picture(depth, 1.0, 4.0)):
        assert (picture[0, 0] == turbo(np.array(1.0))).all()
        assert (picture[0, 2] == turbo(np.array(0.0))).all()
        assert (picture[0, 3] == picture[0, 2]).all()
        assert (picture[0, 5] == picture[0, 0]).all()
        assert picture[0, 4].tolist() == [0, 0, 0]
        assert hue(picture[0, 0]) < hue(picture[0, 1]) < hue(picture[0, 2])
    # Half way in depth is a third of the way in disparity.
    assert (disparity_picture(depth, 1.0, 4.0)[0, 1] == turbo(np.array(1 / 3))).all()
    assert (depth_picture(depth, 1.0, 4.0)[0, 1] == turbo(np.array(2 / 3))).all()


def test_colours_of_all_views_have_one_range(info: SceneInfo, tmp_path: Path) -> None:
    nothing, first, second = seen(), seen(), seen()
    assert nothing.opacity is not None
    assert second.depth is not None
    nothing.opacity[:] = 0
    second.depth += 5
    kinds = ("colours", "disparity")
    about = written(tmp_path, info, nothing, first, second, depth_files=kinds)
    near, far = about["files"]["colours"]["range"]
    assert about["files"]["disparity"]["range"] == [near, far]
    assert about["files"]["colours"]["range_from"] == "the first view"
    shown = first.depth[1:].numpy() / SCALE  # pyright: ignore
    assert shown.min() < near < 1.02 * shown.min()
    assert 0.98 * shown.max() < far < shown.max()

    def picture(index: int) -> np.ndarray:
        return np.asarray(Image.open(tmp_path / f"view_{index}_depth_colours.png"))

    assert not picture(0).any()
    assert not picture(1)[0].any()
    assert (picture(1)[1:].max(-1) > 0).all()
    assert (picture(2)[1:] == turbo(np.array(0.0))).all()
    about = written(tmp_path, info, second, depth_range=(20.0, 32.0))
    assert about["files"]["colours"]["range"] == [20, 32]
    assert about["files"]["colours"]["range_from"] == "the command"
    assert len(np.unique(picture(0)[1:].reshape(-1, 3), axis=0)) > 10


def test_normals_are_turned_into_the_axes_of_the_capture(info: SceneInfo, tmp_path: Path) -> None:
    rendering = seen()
    rendering.extras["normals"] = torch.tensor([0.0, 1, 0]).expand(5, 7, 3)
    written(tmp_path, info, rendering, depth_files=("normals",))
    picture = np.asarray(Image.open(tmp_path / "view_0_normals.png"))
    assert picture[0].tolist() == [[0, 0, 0]] * 7
    # y of the scene is x of the capture.
    assert picture[1:].reshape(-1, 3).tolist() == [[255, 128, 128]] * 28


def test_the_raw_sum_of_ndc_is_no_length(info: SceneInfo, tmp_path: Path) -> None:
    renderer = Renderer()
    renderer.frame = ForwardFrame(torch.eye(3, 4), (1.0, 1.0), 1.0)
    about = written(tmp_path, info, seen(), renderer=renderer, depth_statistic="raw", depth_files=("npy",))
    assert "normalised device coordinates" in about["unit"]
    raw = read_depth(tmp_path / "view_0_depth.npy", (7, 5), 1.0)
    np.testing.assert_allclose(raw[1:], seen().extras["depth_raw"][1:].numpy(), rtol=1e-6)
    with pytest.raises(LumigraphError, match="no inverse"):
        written(tmp_path, info, seen(), renderer=renderer, depth_statistic="raw", depth_files=("disparity",))
    about = written(tmp_path, info, seen(), renderer=renderer)
    assert about["unit"] == "units of the capture"


def test_what_a_renderer_does_not_tell_is_refused(info: SceneInfo, tmp_path: Path) -> None:
    colours = Rendering(torch.zeros(5, 7, 3))
    with pytest.raises(LumigraphError, match="no depth"):
        written(tmp_path, info, colours)
    student = replace(seen(), extras={})
    with pytest.raises(LumigraphError, match="not the median one"):
        written(tmp_path, info, student, depth_statistic="median")
    with pytest.raises(LumigraphError, match="no normals"):
        written(tmp_path, info, student, depth_files=("normals",))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth_statistic": "median"}, "need --save-depth"),
        ({"save_depth": Path("x"), "depth_files": ()}, "names no files"),
        ({"save_depth": Path("x"), "depth_range": (2.0, 1.0)}, "the nearest first"),
        ({"save_depth": Path("x"), "depth_range": (0.0, 1.0)}, "above 0"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DepthFiles(**options)
