import functools

import numpy as np
import pytest
from PIL import Image

from lumigraph.cli.main import main
from lumigraph.files import read_json
from lumigraph.scenes.drawing import draw_scene
from lumigraph.scenes.load import load_scene
from lumigraph.scenes.procedural import builtin, make_scene


def test_inspect_prints_draws_and_stores(blender_scene, tmp_path, capsys):
    arguments = ["inspect", str(blender_scene), "--downscale", "2", "--out", str(tmp_path / "out")]
    assert main([*arguments, "--json", str(tmp_path / "x.json")]) == 0
    printed = capsys.readouterr().out
    for text in ("scene", "train", "val", "test", "6x4", "white", "missing images", "none", "perspective"):
        assert text in printed
    assert "degrees" in printed
    assert str(tmp_path / "out" / "scene.png") in printed
    picture = np.asarray(Image.open(tmp_path / "out" / "scene.png"))
    assert picture.shape[1] == 1440
    assert picture.std() > 10
    summary = read_json(tmp_path / "x.json")
    assert summary["splits"]["train"]["views"] == 4
    assert summary["splits"]["train"]["sizes"] == [[6, 4]]
    assert summary["bytes"] == 8 * 6 * 4 * 4


def test_inspect_counts_missing_images(capture, tmp_path, capsys):
    (capture / "images" / "4.png").unlink()
    assert main(["inspect", str(capture), "--out", str(tmp_path), "--split", "all"]) == 0
    captured = capsys.readouterr()
    assert "the core of an unbounded scene" in captured.out
    assert "opaque" in captured.out
    assert "missing images │ 1" in captured.out


@pytest.mark.parametrize("step", [0.0, 1e-4, 1e5])
def test_any_cameras_can_be_drawn(capture, change, step):
    def line_up(data):
        for number, frame in enumerate(data["frames"]):
            frame["transform_matrix"] = [[1, 0, 0, step * number], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]

    change(capture / "transforms.json", line_up)
    assert draw_scene(load_scene(capture)).width == 1440


@pytest.fixture
def few_views(monkeypatch):
    """Built-in scenes of 3, 2 and 1 views: tracing dozens says no more here."""
    few = functools.lru_cache(lambda name, size: make_scene(name, 3, 2, 1, size=size))
    monkeypatch.setattr(builtin, "_traced_once", few)


def test_a_built_in_scene_is_written_where_that_is_asked_for(few_views, tmp_path, capsys):
    folder, out = tmp_path / "written", ["--out", str(tmp_path / "out")]
    assert main(["inspect", "builtin:still:16", *out, "--write", str(folder)]) == 0
    assert f"scene: {folder}" in capsys.readouterr().out
    ours, theirs = load_scene("builtin:still:16"), load_scene(folder)
    assert {split: len(views) for split, views in theirs.views.items()} == {"train": 3, "val": 2, "test": 1}
    assert np.array_equal(theirs.views["val"].image(1).numpy(), ours.views["val"].image(1).numpy())
    assert main(["inspect", "builtin:still:16", *out, "--write", str(folder)]) == 2
    said = capsys.readouterr()
    assert "exists already" in said.err
    assert not said.out  # before anything was drawn
    assert main(["inspect", "builtin:still:8", *out, "--write", str(folder), "--overwrite"]) == 0
    assert load_scene(folder).views["train"].image(0).shape == (8, 8, 4)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").touch()
    assert main(["inspect", "builtin:still:8", *out, "--write", str(other), "--overwrite"]) == 2
    assert "not a scene" in capsys.readouterr().err
    assert (other / "thesis.tex").exists()


def test_other_scenes_are_not_written(blender_scene, tmp_path, capsys):
    command = ["inspect", str(blender_scene), "--out", str(tmp_path / "out"), "--write", str(tmp_path / "w")]
    assert main(command) == 2
    assert "--write is for built-in scenes" in capsys.readouterr().err
    assert not (tmp_path / "w").exists()
    assert not (tmp_path / "out").exists()
