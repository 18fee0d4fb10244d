"""The readers on real captures, where they are at hand."""

import json
import logging
import time

import numpy as np
import pytest
import torch
from PIL import Image

from lumigraph.errors import LumigraphError
from lumigraph.geometry.fitting import fit_focus
from lumigraph.geometry.ndc import require_ahead
from lumigraph.scenes.load import load_scene


def test_lego(shared_data):
    folder = shared_data / "nerf_synthetic" / "lego"
    scene = load_scene(folder, downscale=4)
    assert {split: len(views) for split, views in scene.views.items()} == {
        "train": 100,
        "val": 10,
        "test": 25,
    }
    cameras = scene.views["test"].cameras
    assert cameras.size.unique(dim=0).tolist() == [[200, 200]]
    # f = 1111.111 at 800 pixels.
    assert torch.allclose(cameras.focal, torch.tensor(277.7778))
    assert scene.views["test"].has_depths
    assert not scene.views["train"].has_depths


def test_lego_area_filter_is_that_of_the_definition(shared_data):
    folder = shared_data / "nerf_synthetic" / "lego"
    views = load_scene(folder, downscale=4).views["train"]
    values = np.asarray(Image.open(folder / views.names[5])).astype(np.float64) / 255
    values[..., :3] *= values[..., 3:]
    expected = values.reshape(200, 4, 200, 4, 4).mean(axis=(1, 3)) * 255
    assert np.abs(views.image(5).numpy() - expected).max() <= 0.5 + 1e-9


def test_lego_depth_agrees_between_views(shared_data):
    """A surface point of one view is seen at the depth that another view's map has there, or is hidden behind it."""
    views = load_scene(shared_data / "nerf_synthetic" / "lego", downscale=4).views["test"]
    cameras = views.cameras
    agree, seen = 0, 0
    for first, second in ((0, 1), (3, 4), (10, 11)):
        depth, other = views.depth(first), views.depth(second)
        rows, columns = torch.nonzero(depth.isfinite(), as_tuple=True)
        rays = cameras.rays(torch.full_like(rows, first), columns, rows)
        points = rays.points(depth[rows, columns][:, None])[:, 0]
        xy, z = cameras.project(points, torch.full_like(rows, second))
        x, y = xy.long().unbind(-1)
        inside = (x >= 0) & (x < 200) & (y >= 0) & (y < 200)
        found = other[y[inside], x[inside]]
        error = (found - z[inside])[found.isfinite()]
        agree += int((error.abs() < 0.06).sum())
        seen += int((error > -0.06).sum())  # not hidden
        assert (error.abs() < 0.06).float().mean() > 0.4
    assert agree > 0.8 * seen


def test_dnerf_has_times(shared_data):
    scene = load_scene(shared_data / "dnerf_400" / "standup")
    for split, views in scene.views.items():
        entries = json.loads((shared_data / "dnerf_400" / "standup" / f"transforms_{split}.json").read_text())
        expected = sorted((frame["file_path"], frame["time"]) for frame in entries["frames"])
        assert views.cameras.times.tolist() == pytest.approx([value for _, value in expected])
        assert views.cameras.size[0].tolist() == [400, 400]


def test_fox(shared_data, caplog):
    start = time.perf_counter()
    with caplog.at_level(logging.WARNING, "lumigraph"):
        scene = load_scene(shared_data / "fox", downscale=8)
    for views in scene.views.values():
        views.load()
    assert time.perf_counter() - start < 30
    assert [record.getMessage().split(",")[0] for record in caplog.records] == [
        "17 of 67 frames have no image and are skipped"
    ]
    assert len(scene.missing) == 17
    assert {split: len(views) for split, views in scene.views.items()} == {"train": 43, "test": 7}
    cameras = scene.info.cameras["train"]
    assert cameras.size[0].tolist() == [135, 240]
    assert cameras.distortion[0].tolist() == pytest.approx(
        [0.0578421, -0.0805099, 0, 0, -0.000980296, 0.00015575]
    )
    assert scene.info.background == "opaque"
    # The fox is near the origin, about one unit away, and in front of every camera.
    _, depth = cameras.project(torch.zeros(43, 3), torch.arange(43))
    assert (depth > 0.5).all()
    assert 0.8 < float(cameras.positions.norm(dim=1).median()) < 1.2
    # What lies right in front of a camera is left out, and nothing of the fox.
    assert 0.2 < float(cameras.near[0]) < 0.3


def test_fern(shared_data):
    folder = shared_data / "nerf_llff_data" / "fern"
    scene = load_scene(folder, downscale=8)
    assert {split: len(views) for split, views in scene.views.items()} == {"train": 17, "test": 3}
    assert scene.views["test"].names == [f"image0{number}.png" for number in ("00", "08", "16")]
    cameras = scene.info.cameras["train"]
    assert cameras.size.unique(dim=0).tolist() == [[504, 378]]
    assert torch.allclose(cameras.focal, torch.tensor(3260.52633 / 8))
    frame = scene.info.forward
    assert frame is not None
    for index in range(len(cameras)):
        require_ahead(frame, cameras.view_rays(index))
    assert float(cameras.near.min()) == pytest.approx(0.9 * 4 / 3, rel=0.1)
    with pytest.raises(LumigraphError, match="--downscale 8"):
        load_scene(folder)


def test_beer_is_an_inward_capture(shared_data):
    scene = load_scene(shared_data / "beer")
    assert {split: len(views) for split, views in scene.views.items()} == {"train": 62, "test": 9}
    assert scene.info.forward is None
    cameras = scene.info.cameras["train"]
    assert fit_focus(cameras)[1]
    assert 0.9 < float(cameras.positions.norm(dim=1).median()) < 1.1
    # The object is near the origin, in front of every camera, and up is z.
    xy, depth = cameras.project(torch.zeros(62, 3), torch.arange(62))
    assert (depth > 0.3).all()
    assert ((xy > 0) & (xy < cameras.size)).all()
    assert float(cameras.ups.mean(0)[2]) > 0.5
