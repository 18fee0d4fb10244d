"""`eval` and `render` on a run, as scripts call them."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lumigraph.cli import main as cli
from lumigraph.cli.paths import path_cameras
from lumigraph.configs.common import TrainOptions
from lumigraph.configs.hypernerf import HyperNeRFConfig
from lumigraph.configs.mipnerf import MipNeRFConfig
from lumigraph.configs.mipnerf360 import MipNeRF360Config
from lumigraph.configs.r2l import R2LConfig
from lumigraph.files import read_json, write_json
from lumigraph.geometry.trajectories import llff_spiral
from lumigraph.scenes.load import load_scene
from lumigraph.scenes.procedural import make_scene, write_blender
from lumigraph.scenes.scene import SceneInfo
from lumigraph.scenes.splits import SplitOptions
from lumigraph.training.runs import Run

TINY = R2LConfig(width=8, depth=4, points=4, octaves=2)


def make_run(path: Path, scene: str, splits: SplitOptions | None = None) -> Path:
    """A student with its first weights."""
    torch.manual_seed(0)
    info = load_scene(scene, downscale=2, splits=splits).info
    run = Run.create(path, "r2l", TINY, info, TrainOptions(run=path))
    run.save_weights(run.new_renderer(), 0)
    return path


@pytest.fixture(scope="module")
def scene_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "moving"
    write_blender(make_scene("moving", 3, 0, 2, size=32), folder)
    return folder


@pytest.fixture
def run(tmp_path: Path, scene_folder: Path) -> Path:
    return make_run(tmp_path / "run", str(scene_folder))


def test_eval_writes_its_result_everywhere(run: Path, scene_folder: Path, tmp_path: Path, capsys) -> None:
    out, images = tmp_path / "result.json", tmp_path / "images"
    assert cli.main(["eval", str(run), "--json", str(out), "--save-images", str(images)]) == 0
    data = read_json(out)
    assert {"psnr", "ssim", "lpips", "views", "seconds_per_view", "per_view", "definitions"} <= set(data)
    assert [view["name"] for view in data["per_view"]] == ["test/r_000.png", "test/r_001.png"]
    assert (data["views"], data["split"], data["downscale"], data["lpips"]) == (2, "test", 2, None)
    for word in ("LUMIGRAPH_LPIPS", "--lpips", "eval --help"):
        assert word in data["lpips_reason"]
    assert read_json(run / "results.json")["test"] == data
    assert Image.open(run / "media" / "eval_test.png").width > 3 * 400
    assert len(list(images.iterdir())) == 7
    assert f"{data['psnr']:.2f} dB" in capsys.readouterr().out
    # The figures can be checked from the pictures.
    truth, render = (
        np.asarray(Image.open(images / f"0000_test_r_000_{kind}.png")) for kind in ("truth", "render")
    )
    error = float(np.square((truth.astype(float) - render) / 255).mean())
    assert -10 * np.log10(error) == pytest.approx(data["per_view"][0]["psnr"], abs=0.05)
    # The same command finds the same again, also with the scene named, whose figures are kept apart.
    assert cli.main(["eval", str(run), "--scene", str(scene_folder), "--json", str(out)]) == 0
    again = read_json(out)
    assert [view["psnr"] for view in again["per_view"]] == [view["psnr"] for view in data["per_view"]]
    assert set(read_json(run / "results.json")) == {"test", f"test of {scene_folder}"}


def test_eval_warns_of_a_scene_that_was_taken_from_elsewhere(run: Path, tmp_path: Path, caplog) -> None:
    def warned(scene: str) -> bool:
        caplog.clear()
        with caplog.at_level("WARNING", logger="lumigraph"):
            assert cli.main(["eval", str(run), "--scene", scene]) == 0
        return "is it the same scene?" in caplog.text

    source = SceneInfo.from_json(read_json(run / "scene.json")).source
    assert not warned(source)
    moved = tmp_path / "moved"
    shutil.copytree(source, moved)
    for split in ("train", "val", "test"):
        file = moved / f"transforms_{split}.json"
        if file.is_file():
            data = read_json(file)
            for frame in data["frames"]:
                frame["transform_matrix"][0][3] += 0.37
            write_json(file, data)
    assert warned(str(moved))


def test_eval_holds_out_what_training_held_out(scene_folder: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", str(scene_folder), SplitOptions(split="every", every=2))
    out = tmp_path / "result.json"
    assert cli.main(["eval", str(run), "--json", str(out)]) == 0
    names = [view["name"] for view in read_json(out)["per_view"]]
    assert names == ["train/r_000.png", "train/r_002.png", "test/r_001.png"]


def test_a_quick_look_at_some_views(run: Path, capsys) -> None:
    assert cli.main(["eval", str(run), "--views", "1"]) == 0
    assert "moving, 1 of 2 test views of 16x16\n" in capsys.readouterr().out
    results = read_json(run / "results.json")
    assert results["1 of 2 test"]["views"] == 1
    assert (run / "media" / "eval_1_of_2_test.png").is_file()
    assert not (run / "media" / "eval_test.png").exists()
    assert "test" not in results
    assert cli.main(["eval", str(run), "--views", "0"]) == 2
    assert "measures nothing" in capsys.readouterr().err


def test_eval_with_lpips(run: Path, shared_data: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "result.json"
    argv = ["eval", str(run), "--lpips", str(shared_data / "lpips_squeeze"), "--json", str(out)]
    assert cli.main(argv) == 0
    # The views are 16 pixels wide.
    assert read_json(out)["lpips_reason"] == "pictures are smaller than 32 pixels"
    assert cli.main(["eval", str(run), "--lpips", str(tmp_path)]) == 2
    assert "squeezenet1_1_features.pth" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["eval", "{run}", "--split", "val"], "no val views"),
        (["eval", "{run}", "--scene", "builtin:nothing"], "no built-in scene"),
        (["eval", "{run}/nowhere"], "no such folder"),
        (["eval", "{scene}"], "this is a scene folder"),
        (["render", "{run}", "--out", "movie.avi"], "ends in .mp4 or .gif"),
        (["render", "{run}", "--out", "movie.mp4", "--size", "16"], "is not a size"),
        (["render", "{run}", "--out", "movie.mp4", "--size", "1x16"], "is not a size"),
        (["render", "{run}", "--out", "movie.mp4", "--frames", "0"], "0 frames"),
        (["render", "{run}", "--out", "movie.mp4", "--fps", "0", "--frames", "1"], "frame rate"),
        (["render", "{run}", "--out", "movie.mp4", "--depth"], "no depth"),
        (["render", "{run}/nowhere", "--out", "movie.mp4"], "no such folder"),
    ],
)
def test_bad_input_ends_in_one_message(
    argv: list[str], message: str, run: Path, scene_folder: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    filled = [word.format(run=run, scene=scene_folder) for word in argv]
    assert cli.main(filled) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("lumigraph:") == 1
    assert not list(work.iterdir())
    assert not (run / "results.json").exists()


def test_a_scene_with_another_background_is_refused(
    run: Path, scene_folder: Path, tmp_path: Path, capsys
) -> None:
    opaque = tmp_path / "opaque"
    shutil.copytree(scene_folder, opaque)
    for path in opaque.glob("*/*.png"):
        Image.open(path).convert("RGB").save(path)
    assert cli.main(["eval", str(run), "--scene", str(opaque)]) == 2
    assert "background" in capsys.readouterr().err


def test_a_scene_that_changed_is_noticed(scene_folder: Path, tmp_path: Path, capsys) -> None:
    scene = tmp_path / "scene"
    shutil.copytree(scene_folder, scene)
    run = make_run(tmp_path / "run", str(scene))
    frames = read_json(scene / "transforms_test.json")
    frames["frames"] = frames["frames"][:1]
    write_json(scene / "transforms_test.json", frames)
    assert cli.main(["eval", str(run)]) == 2
    assert "not those of the time of training" in capsys.readouterr().err


def test_render_needs_no_images(run: Path, tmp_path: Path, capsys) -> None:
    info = read_json(run / "scene.json")
    write_json(run / "scene.json", {**info, "source": str(tmp_path / "gone")})
    for path, frames, name in (("orbit", "3", "a.mp4"), ("spiral", "2", "b.gif"), ("heldout", "4", "c.gif")):
        out = tmp_path / name
        argv = ["render", str(run), "--path", path, "--frames", frames, "--out", str(out), "--size", "21x17"]
        assert cli.main(argv) == 0
        size = "20x16" if name.endswith("mp4") else "21x17"
        assert f"{frames} frames of {size}" in capsys.readouterr().out
        assert out.stat().st_size > 100
    assert cli.main(["render", str(run), "--path", "heldout", "--out", str(tmp_path / "d.mp4")]) == 0
    assert "2 frames of 16x16" in capsys.readouterr().out
    again = ["render", str(run), "--frames", "1", "--out", str(tmp_path / "a.mp4")]
    assert cli.main(again) == 2
    assert "exists already" in capsys.readouterr().err
    assert cli.main([*again, "--overwrite"]) == 0
    assert not list(tmp_path.glob(".*tmp*"))


def test_every_path_can_be_rendered(run: Path, tmp_path: Path, capsys) -> None:
    """On an inward scene, and on the same cameras told to face forward."""
    data = read_json(run / "scene.json")
    forward = {
        "camera_to_world": torch.eye(3, 4).tolist(),
        "tangents": [0.5, 0.5],
        "near": 1.0,
    }
    for name, there in (("inward", None), ("forward", forward)):
        write_json(run / "scene.json", {**data, "forward": there})
        for path in ("spiral", "spiral-flat", "spiral-nerf_pl", "spherical", "ellipse", "train"):
            out = tmp_path / f"{name}-{path}.gif"
            code = cli.main(
                ["render", str(run), "--path", path, "--frames", "2", "--out", str(out), "--size", "4x4"]
            )
            refused = {("inward", "spiral-nerf_pl"), ("forward", "spherical")}
            assert code == (2 if (name, path) in refused else 0)
    told = capsys.readouterr().err
    assert "is for forward-facing scenes" in told
    assert "this scene faces one way" in told
    info = SceneInfo.from_json(data)
    assert torch.equal(path_cameras(info, "train", None).positions, info.cameras["train"].positions)
    assert len(path_cameras(info, "spiral-flat", None)) == 60
    forward_info = SceneInfo.from_json({**data, "forward": forward})
    flat = path_cameras(forward_info, "spiral", 8).camera_to_world
    assert torch.equal(flat, llff_spiral(info.cameras["train"], 8).camera_to_world)


def test_a_picture_and_the_frames_of_a_movie(run: Path, tmp_path: Path, capsys) -> None:
    picture, movie, folder = tmp_path / "view.png", tmp_path / "orbit.gif", tmp_path / "frames"
    assert cli.main(["render", str(run), "--path", "view", "--view", "1", "--out", str(picture)]) == 0
    assert f"{picture}: 16x16\n" in capsys.readouterr().out
    assert Image.open(picture).size == (16, 16)
    assert (
        cli.main(["render", str(run), "--frames", "3", "--out", str(movie), "--save-frames", str(folder)])
        == 0
    )
    assert f"{folder}: 3 frames" in capsys.readouterr().out
    assert sorted(path.name for path in folder.iterdir()) == [f"frame_{index:04d}.png" for index in range(3)]
    first = tmp_path / "orbit.png"
    assert cli.main(["render", str(run), "--out", str(first)]) == 0
    assert np.array_equal(np.asarray(Image.open(first)), np.asarray(Image.open(folder / "frame_0000.png")))
    beside = tmp_path / "beside.png"
    assert cli.main(["render", str(run), "--path", "heldout", "--photos", "--out", str(beside)]) == 0
    assert Image.open(beside).size == (32, 16)
    assert cli.main(["render", str(run), "--out", str(tmp_path / "many.png"), "--frames", "2"]) == 2
    assert "a picture cannot hold 2 frames" in capsys.readouterr().err


def test_a_movie_of_depth_says_what_its_greys_mean(cones: Path, tmp_path: Path, capsys) -> None:
    movie = tmp_path / "movie.gif"
    assert cli.main(["render", str(cones), "--out", str(movie), "--frames", "1", "--depth"]) == 0
    captured = capsys.readouterr()
    found = re.search(
        r"white is (\S+) and nearer, dark grey (\S+) and farther, black where nothing is", captured.out
    )
    assert found is not None
    assert 0 < float(found[1]) <= float(found[2])
    assert captured.err == ""  # nor a blank line


def test_an_interrupted_movie_says_that_nothing_is_kept(
    run: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lumigraph.rendering.movies.frames", interrupted)
    assert cli.main(["render", str(run), "--out", str(tmp_path / "movie.gif")]) == 130
    assert capsys.readouterr().err == "lumigraph: interrupted; nothing is kept of the movie\n"
    assert not list(tmp_path.glob("*movie*"))


@pytest.mark.parametrize("verb", ["eval", "render"])
def test_help_does_not_import_torch(verb: str) -> None:
    code = (
        "import sys; from lumigraph.cli import main\n"
        f"try: main.main([{verb!r}, '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'lightning')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=os.environ, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "usage: lumigraph " + verb in done.stdout
    assert json.dumps(done.stderr) == '""'


@pytest.fixture
def cones(tmp_path: Path) -> Path:
    """An untrained Mip-NeRF on pictures of three sizes."""
    torch.manual_seed(0)
    path = tmp_path / "cones"
    config = MipNeRFConfig(levels=2, log2_entries=8, finest_resolution=16, coarse_samples=4, fine_samples=4)
    info = load_scene("builtin:still:48", scales=3).info
    run = Run.create(path, "mipnerf", config, info, TrainOptions(run=path))
    run.save_weights(run.new_renderer(), 0)
    return path


def test_eval_of_several_scales(cones: Path, tmp_path: Path, capsys, caplog) -> None:
    out = tmp_path / "result.json"
    assert cli.main(["eval", str(cones), "--json", str(out)]) == 0
    data = read_json(out)
    assert [row["scale"] for row in data["scales"]] == [1.0, 0.5, 0.25]
    assert len({row["views"] for row in data["scales"]}) == 1
    assert data["average_error"] is None
    assert data["average_error_without_lpips"] > 0
    printed = capsys.readouterr().out
    assert "average error (without LPIPS)" in printed
    assert "views of 48x48, 24x24, 12x12" in printed
    rows = [line.split() for line in printed.splitlines()]
    assert [row[0] for row in rows if row and row[0].startswith("1/")] == ["1/1", "1/2", "1/4"]
    assert "finer" not in caplog.text
    assert "coarser" not in caplog.text


def test_render_at_other_scales(cones: Path, tmp_path: Path, capsys, caplog) -> None:
    movie = tmp_path / "movie.gif"

    def render(*options: str) -> str:
        argv = ["render", str(cones), "--out", str(movie), "--overwrite", "--frames", "2", *options]
        assert cli.main(argv) == 0
        return capsys.readouterr().out

    assert "2 frames of 48x48" in render()
    assert "2 frames of 12x12" in render("--downscale", "4")
    assert "2 frames of 48x48" in render("--path", "heldout")
    assert "finer" not in caplog.text
    render("--size", "96x96")
    assert "2.0 times finer than any that this was trained on" in caplog.text
    assert "coarser" not in caplog.text
    render("--size", "6x6")
    assert "2.0 times coarser than any that this was trained on" in caplog.text
    # Every held-out view once, at its finest.
    assert cli.main(["render", str(cones), "--out", str(movie), "--overwrite", "--path", "heldout"]) == 0
    held = load_scene("builtin:still:48").info.cameras["test"]
    assert f"{len(held)} frames of 48x48" in capsys.readouterr().out
    assert cli.main(["render", str(cones), "--out", str(movie), "--overwrite", "--downscale", "99"]) == 2
    assert "cannot downscale" in capsys.readouterr().err


def test_train_at_several_scales(tmp_path: Path, capsys) -> None:
    run = tmp_path / "run"
    argv = ["train", "mipnerf", "builtin:still:16", "--run", str(run), "--scales", "2", "--max-steps", "2"]
    argv += ["--rays", "32", "--coarse-samples", "4", "--fine-samples", "4", "--device", "cpu"]
    assert cli.main(argv) == 0
    assert Run.open(run).info.scales == 2
    assert cli.main([*argv[:6], "1", *argv[7:], "--resume"]) == 2
    assert "--scales 2, now 1" in capsys.readouterr().err


def test_eval_with_codes_of_cameras(tmp_path: Path, capsys) -> None:
    torch.manual_seed(0)
    info = load_scene("builtin:still:16").info
    small = {"levels": 2, "log2_entries": 8, "finest_resolution": 16, "proposal_resolution": 16}
    config = MipNeRF360Config(codes=2, proposal_samples=(8,), samples=8, **small)
    path = tmp_path / "run"
    run = Run.create(path, "mipnerf360", config, info, TrainOptions(run=path))
    renderer = run.new_renderer()
    torch.nn.init.normal_(renderer.codes.table)
    run.save_weights(renderer, 0)
    out = tmp_path / "result.json"
    psnr = {}
    for choice in ("zero", "mean", "nearest", "fit-half"):
        assert cli.main(["eval", str(path), "--codes", choice, "--json", str(out), "--device", "cpu"]) == 0
        data = read_json(out)
        assert data["codes"] == choice
        psnr[choice] = data["psnr"]
    assert len(set(psnr.values())) == 4
    assert set(read_json(path / "results.json")) == {f"test, codes {choice}" for choice in psnr}
    # Pseudo views are drawn alike.
    bake = ["bake", str(path), "--views", "2", "--width", "8", "--device", "cpu"]
    baked = {}
    for choice in ("zero", "mean", "nearest"):
        views = tmp_path / choice
        assert cli.main([*bake, "--out", str(views), "--codes", choice]) == 0
        baked[choice] = (views / "00000.npy").read_bytes()
        assert read_json(views / "index.json")["provenance"]["codes"] == choice
    assert len(set(baked.values())) == 3
    assert cli.main([*bake, "--out", str(tmp_path / "plain")]) == 0
    assert (tmp_path / "plain" / "00000.npy").read_bytes() == baked[config.code_choice]
    capsys.readouterr()
    assert cli.main([*bake, "--out", str(tmp_path / "zero"), "--codes", "mean", "--resume"]) == 2
    assert "begun differently: provenance" in capsys.readouterr().err
    assert cli.main([*bake, "--out", str(tmp_path / "no"), "--codes", "linear"]) == 2
    assert not (tmp_path / "no").exists()


def test_eval_and_render_with_codes_of_moments(tmp_path: Path, capsys) -> None:
    """Between two moments of the photos, the blend of their codes or the nearer one, whatever training was told."""
    info = load_scene("builtin:moving:12").info
    small = {
        "samples": 6,
        "importance": 0,
        "depth": 2,
        "width": 16,
        "warp_depth": 2,
        "warp_width": 8,
        "sheet_depth": 2,
    }
    path, out = tmp_path / "run", tmp_path / "result.json"
    run = Run.create(path, "hypernerf", HyperNeRFConfig(**small), info, TrainOptions(run=path))
    torch.manual_seed(0)
    renderer = run.new_renderer()
    for name, parameter in renderer.named_parameters():
        torch.nn.init.normal_(parameter, std=3.0 if "table" in name else 0.3)
    renderer.begin_step(1, 1.0, 0)
    run.save_weights(renderer, 0)

    def of(verb: str, *options: str) -> bytes:
        assert cli.main([verb, str(path), *options, "--device", "cpu"]) == 0
        return (tmp_path / "movie.gif").read_bytes() if verb == "render" else out.read_bytes()

    measured = [read_json(out)["psnr"] for codes in ([], ["--codes", "linear"], ["--codes", "nearest"])
                if of("eval", "--json", str(out), *codes)]  # fmt: skip
    assert measured[0] == measured[1] != measured[2]
    movie = [
        "--out",
        str(tmp_path / "movie.gif"),
        "--path",
        "view",
        "--time",
        "0.51",
        "--frames",
        "1",
        "--overwrite",
    ]
    shown = [of("render", *movie, "--codes", choice) for choice in ("linear", "nearest")]
    assert shown[0] == of("render", *movie)
    assert shown[0] != shown[1]
    capsys.readouterr()
    assert cli.main(["render", str(path), *movie, "--codes", "mean"]) == 2
    assert "no codes that could be drawn 'mean'" in capsys.readouterr().err


def test_codes_are_asked_of_a_method_without(run: Path, capsys) -> None:
    for choice in ("nearest", "fit-half"):
        assert cli.main(["eval", str(run), "--codes", choice]) == 2
        assert "no codes of cameras" in capsys.readouterr().err
