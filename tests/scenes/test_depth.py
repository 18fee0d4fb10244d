"""Few views, part of the depth, and depth maps that cannot be right."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lumigraph.errors import LumigraphError
from lumigraph.scenes.depth import check_depths
from lumigraph.scenes.depth_reading import DepthReading
from lumigraph.scenes.load import load_scene, load_scene_like
from lumigraph.scenes.procedural import make_scene, write_blender
from lumigraph.scenes.scene import Scene, Views
from lumigraph.scenes.splits import SplitOptions, few
from lumigraph.training.sources import PhotoSource


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene("still", views_train=6, views_val=0, views_test=1, size=16)


def with_train(scene: Scene, views: Views) -> Scene:
    return Scene(scene.info, {**scene.views, "train": views})


def test_which_few_views_train() -> None:
    line = [[float(x), 0.0, 0.0] for x in (0, 1, 2, 9, 10)]
    assert few(line, 2, "first", "s") == [0, 1]
    assert few(line, 3, "uniform", "s") == [0, 2, 4]
    assert few(line, 1, "uniform", "s") == [0]
    assert few(line, 2, "farthest", "s") == [0, 4]
    assert few(line, 3, "farthest", "s") == [0, 2, 4]
    assert few([[0.0, 0.0, 0.0]] * 3, 3, "farthest", "s") == [0, 1, 2]
    with pytest.raises(LumigraphError, match="more than the 5 training views"):
        few(line, 6, "first", "s")


def test_the_same_few_views_are_found_again() -> None:
    options = SplitOptions(views=4, select="farthest")
    scene = load_scene("builtin:still:16", splits=options)
    assert len(scene.split("train")) == len(scene.info.cameras["train"]) == 4
    assert len(scene.split("test")) == 8
    again = load_scene_like(scene.info, "builtin:still:16")
    assert again.split("train").names == scene.split("train").names
    assert torch.equal(again.info.cameras["train"].ids, scene.info.cameras["train"].ids)


@pytest.mark.parametrize("count", [0, -1])
def test_no_views_are_refused(count: int) -> None:
    with pytest.raises(LumigraphError, match="--views"):
        load_scene("builtin:still:16", splits=SplitOptions(views=count))


def test_only_the_chosen_views_are_decoded() -> None:
    loaded = []
    scene = make_scene("still", views_train=5, views_val=0, views_test=1, size=8)
    train = scene.split("train")

    def load(index: int) -> np.ndarray:
        loaded.append(index)
        return train.image(index).numpy()

    views = Views(train.cameras, train.names, True, load)
    source = PhotoSource(views.subset([1, 4]), 0)
    first = source.batch(0, 50)
    assert sorted(loaded) == [1, 4]
    assert set(first.rays.camera_ids.tolist()) == {1, 4}  # pyright: ignore


def test_part_of_the_depth_is_the_same_part_at_every_step(scene: Scene) -> None:
    views = scene.split("train")
    whole = PhotoSource(views, 3, depths=True)
    part, other = (PhotoSource(views, seed, depths=True, keep_depth=0.3) for seed in (3, 4))
    told: dict[tuple[int, int, int], bool] = {}
    known = kept = 0
    for step in range(8):
        all_depths, depths = (source.batch(step, 2000).depth for source in (whole, part))
        assert all_depths is not None and depths is not None
        there = torch.isfinite(depths)
        assert torch.equal(depths[there], all_depths[there])
        for place, is_there, is_known in zip(
            zip(*(values.tolist() for values in part.draw(step, 2000)), strict=True),
            there.tolist(),
            torch.isfinite(all_depths).tolist(),
            strict=True,
        ):
            if is_known:
                assert told.setdefault(place, is_there) == is_there
                known, kept = known + 1, kept + is_there
    assert kept / known == pytest.approx(0.3, abs=0.05)
    index, x, y = part.draw(0, 2000)
    assert not torch.equal(torch.isnan(part._depth(index, x, y)), torch.isnan(other._depth(index, x, y)))


def test_uncertainty_travels_with_the_depth(scene: Scene) -> None:
    views = scene.split("train")
    maps = [np.full((16, 16), 2.0 + i, np.float32) for i in range(len(views))]
    sigmas = [np.full((16, 16), 0.1 * (i + 1), np.float32) for i in range(len(views))]
    batch = PhotoSource(views.with_depths(maps, sigmas), 0, depths=True).batch(0, 100)
    assert batch.depth is not None
    assert batch.depth_sigma is not None
    torch.testing.assert_close(batch.depth_sigma, 0.1 * (batch.depth - 1))
    assert PhotoSource(views, 0, depths=True).batch(0, 10).depth_sigma is None
    # The subset of views with other depths still knows which is whose.
    part = PhotoSource(views.with_depths(maps, sigmas).subset([2]), 0, depths=True).batch(0, 10)
    assert part.depth is not None
    assert set(part.depth.tolist()) == {4.0}


def test_no_depth_and_unknown_depth_are_told(scene: Scene) -> None:
    views = scene.split("train")
    blank = Views(views.cameras, views.names, True, lambda index: views.image(index).numpy())
    with pytest.raises(LumigraphError, match="no depth maps"):
        check_depths(with_train(scene, blank))
    unknown = [np.full((16, 16), np.nan, np.float32)] * len(views)
    with pytest.raises(LumigraphError, match="none of the depth maps"):
        check_depths(with_train(scene, views.with_depths(unknown)))


def test_a_wrong_unit_is_warned_of(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "lumigraph")
    check_depths(scene)
    assert not caplog.records
    views = scene.split("train")
    wrong = [1000 * views.depth(i).numpy() for i in range(len(views))]  # pyright: ignore
    check_depths(with_train(scene, views.with_depths(wrong)))
    assert "unit of the depth maps" in caplog.text


@pytest.mark.parametrize(
    ("reading", "words"),
    [
        (DepthReading(depth_unit=0.0), "--depth-unit 0"),
        (DepthReading(depth_unit=float("nan")), "--depth-unit nan"),
        (DepthReading(depth_range=(2.0, 1.0)), "--depth-range 2 1"),
        (DepthReading(depth_range=(float("nan"), 1.0)), "--depth-range nan 1"),
        (DepthReading(depth_unit=0.1), "no files of them"),
    ],
)
def test_readings_that_mean_nothing_are_refused(reading: DepthReading, words: str) -> None:
    with pytest.raises(LumigraphError, match=words):
        load_scene("builtin:still:16", depths=reading)


def test_a_scene_without_depth_maps_refuses_to_be_told_of_them(scene: Scene, tmp_path: Path) -> None:
    write_blender(scene, tmp_path / "scene")
    told = load_scene(tmp_path / "scene", depths=DepthReading(depth_range=(0.1, 9.0))).info
    for path in (tmp_path / "scene").glob("*/*.npy"):
        path.unlink()
    with pytest.raises(LumigraphError, match="no files of them"):
        load_scene(tmp_path / "scene", depths=told.depths)
    # But another scene may be looked at with what was trained on the first.
    assert not load_scene_like(told, tmp_path / "scene").split("train").has_depths


def test_splits_survive_the_scene_file(scene: Scene) -> None:
    info = replace(scene.info, splits=SplitOptions(views=2, select="uniform"))
    assert type(info).from_json(info.to_json()).splits == info.splits
