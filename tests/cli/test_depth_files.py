"""`eval` and `render` with files of depth, and movies of several sizes."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lumigraph.cli import main as cli
from lumigraph.cli.opening import open_renderer
from lumigraph.configs.common import TrainOptions
from lumigraph.configs.mipnerf360 import MipNeRF360Config
from lumigraph.files import read_json
from lumigraph.scenes.formats.pictures import read_depth
from lumigraph.scenes.load import load_scene
from lumigraph.training.runs import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained Mip-NeRF with proposals, opaque enough to show something."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("runs") / "run"
    small = {"levels": 2, "log2_entries": 8, "finest_resolution": 16, "proposal_resolution": 16}
    config = MipNeRF360Config(proposal_samples=(8,), samples=8, normals=True, **small)
    made = Run.create(path, "mipnerf360", config, load_scene("builtin:still:16").info, TrainOptions(run=path))
    renderer = made.new_renderer()
    torch.nn.init.normal_(renderer.field.encoder.grid.table, std=20)
    made.save_weights(renderer, 0)
    return path


def test_eval_writes_depth(run: Path, tmp_path: Path, capsys) -> None:
    folder, out = tmp_path / "depth", tmp_path / "result.json"
    kinds = ["--depth-files", "png16", "npy", "colours", "disparity", "normals"]
    argv = ["eval", str(run), "--save-depth", str(folder), "--depth-statistic", "median", *kinds]
    assert cli.main([*argv, "--json", str(out), "--device", "cpu"]) == 0
    assert str(folder) in capsys.readouterr().out
    # What is measured does not depend on what is written.
    assert read_json(out)["depth_error"]["statistic"] == "expected"
    about = read_json(folder / "depth.json")
    assert about["statistic"] == "median"
    assert len(about["views"]) == read_json(out)["views"]
    assert len(list(folder.iterdir())) == 1 + 5 * len(about["views"])
    renderer, info = open_renderer(run, "cpu")
    seen = renderer.view(info.cameras["test"][0])
    there = (seen.opacity > 0.5).numpy()
    assert 20 < there.sum() < there.size
    size = tuple(seen.depth.shape[::-1])
    stem = folder / about["views"][0]["name"]
    assert about["views"][0]["name"].startswith("0000_test_")
    png = read_depth(stem.with_name(f"{stem.name}_depth.png"), size, about["files"]["png16"]["depth_unit"])
    assert (np.isfinite(png) == there).all()
    median = seen.extras["depth_median"].numpy()
    np.testing.assert_allclose(png[there], median[there], atol=1e-3)
    for kind in ("depth_colours", "disparity", "normals"):
        picture = np.asarray(Image.open(stem.with_name(f"{stem.name}_{kind}.png")))
        assert (picture.any(-1) == there).all()


def test_render_writes_depth_and_movies_of_several_sizes(run: Path, tmp_path: Path, capsys) -> None:
    out, folder = tmp_path / "turn.mp4", tmp_path / "depth"
    argv = ["render", str(run), "--out", str(out), "--frames", "2", "--device", "cpu"]
    assert cli.main([*argv, "--scales", "3", "--save-depth", str(folder), "--depth-files", "npy"]) == 0
    printed = capsys.readouterr().out
    for level, side in enumerate((16, 8, 4)):
        movie = tmp_path / f"turn_d{level}.mp4"
        assert movie.stat().st_size > 100
        assert f"{movie}: 2 frames of {side}x{side}" in printed
        names = {entry.name for entry in (folder / f"d{level}").iterdir()}
        assert names == {"depth.json", "frame_0000_depth.npy", "frame_0001_depth.npy"}
        assert np.load(folder / f"d{level}" / "frame_0001_depth.npy").shape == (side, side)
    assert not out.exists()
    # All are looked for before anything is rendered.
    (tmp_path / "turn_d0.mp4").unlink()
    assert cli.main([*argv, "--scales", "3"]) == 2
    assert "turn_d1.mp4" in capsys.readouterr().err
    assert not (tmp_path / "turn_d0.mp4").exists()
    assert cli.main([*argv, "--save-depth", str(folder)]) == 0
    assert {"depth.json", "frame_0001_depth.pfm", "frame_0001_depth_colours.png"} <= {
        entry.name for entry in folder.iterdir()
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scales", "0"], "movies of 0 sizes"),
        (["--scales", "6"], "cannot be halved 5 times"),
        (["--depth-statistic", "raw"], "need --save-depth"),
    ],
)
def test_what_cannot_be_is_refused(
    options: list[str], message: str, run: Path, tmp_path: Path, capsys
) -> None:
    argv = ["render", str(run), "--out", str(tmp_path / "a.gif"), "--frames", "1", *options]
    with pytest.raises(SystemExit) if "--depth-statistic" in options else contextlib.nullcontext():
        assert cli.main(argv) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())
