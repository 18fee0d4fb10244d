"""Monocular depth by a network: what it says is kept for each photo, and what is no network is told."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lumigraph.cli.main import main
from lumigraph.errors import LumigraphError
from lumigraph.scenes.monocular import load_predictor, predict_depths
from lumigraph.scenes.procedural import make_scene, write_blender


def grey(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float32).mean(-1)


def test_every_photo_gets_its_map_as_it_is_shown(tmp_path: Path) -> None:
    scene = make_scene("still", views_train=2, views_val=0, views_test=1, size=12)
    seen: list[int] = []
    assert (
        predict_depths(scene.views.values(), True, grey, tmp_path / "maps", False, lambda: seen.append(1))
        == 3
    )
    assert len(seen) == 3
    rgba = scene.split("test").image(0).numpy().astype(np.float32)
    on_white = (rgba[..., :3] + 255 - rgba[..., 3:]).mean(-1)
    np.testing.assert_allclose(np.load(tmp_path / "maps/test/r_000.npy"), on_white, atol=1e-4)
    with pytest.raises(LumigraphError, match="exists already"):
        predict_depths(scene.views.values(), True, grey, tmp_path / "maps", False, lambda: None)


def test_a_network_that_fails_leaves_nothing(tmp_path: Path) -> None:
    scene = make_scene("still", views_train=1, views_val=0, views_test=0, size=8)
    with pytest.raises(LumigraphError, match="not finite"):
        predict_depths(
            scene.views.values(),
            True,
            lambda image: grey(image) * np.nan,
            tmp_path / "maps",
            False,
            lambda: None,
        )
    assert not list(tmp_path.iterdir())


def test_what_is_no_model_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["depth", "builtin:still:8", "--model", str(tmp_path), "--out", str(tmp_path / "maps")]
    assert main(command) == 2
    assert "there is no model in this folder" in capsys.readouterr().err


def write_tiny_model(folder: Path) -> Path:
    import transformers  # takes seconds

    torch.manual_seed(0)
    sizes = {"hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 1, 1]}
    config = transformers.GLPNConfig(**sizes, decoder_hidden_size=8)
    transformers.GLPNForDepthEstimation(config).save_pretrained(folder)
    from transformers.models.glpn.image_processing_pil_glpn import GLPNImageProcessorPil

    GLPNImageProcessorPil().save_pretrained(folder)
    return folder


def test_a_model_of_the_hub_is_asked(tmp_path: Path) -> None:
    predict = load_predictor(write_tiny_model(tmp_path / "model"), torch.device("cpu"))
    image = np.random.default_rng(0).integers(0, 255, (48, 70, 3), np.uint8)
    depth = predict(image)
    assert np.isfinite(depth).all()
    assert np.ptp(depth) > 0
    np.testing.assert_array_equal(depth, predict(image))


def test_the_maps_can_be_trained_on(tmp_path: Path) -> None:
    model, scene = write_tiny_model(tmp_path / "model"), tmp_path / "scene"
    write_blender(make_scene("still", 2, 0, 1, size=32), scene)
    maps, run = tmp_path / "maps", tmp_path / "run"
    assert main(["depth", str(scene), "--model", str(model), "--out", str(maps), "--device", "cpu"]) == 0
    assert np.load(maps / "train/r_000.npy").shape == (32, 32)
    assert [path.name for path in maps.iterdir()] == ["train"]
    options = ["--depth-loss", "swb", "--depth-source", "composite", "--mono-depth", str(maps)]
    small = ["--levels", "2", "--log2-entries", "10", "--cells", "16", "--steps", "32", "--samples", "512"]
    train = ["train", "ngp", str(scene), "--run", str(run), "--max-steps", "3", "--device", "cpu"]
    assert main([*train, *small, *options, "--depth-align", "none"]) == 0


def test_the_photos_of_one_split_or_all_are_looked_at(tmp_path: Path, capsys) -> None:
    model, scene = write_tiny_model(tmp_path / "model"), tmp_path / "scene"
    write_blender(make_scene("still", 2, 0, 1, size=32), scene)
    for split, count in (("test", 1), ("all", 3)):
        maps = tmp_path / split
        argv = ["depth", str(scene), "--model", str(model), "--out", str(maps), "--device", "cpu"]
        assert main([*argv, "--split", split]) == 0
        assert f"depth of {count} photos" in capsys.readouterr().out
        assert len(list(maps.glob("*/*.npy"))) == count
    assert main([*argv, "--split", "val", "--overwrite"]) == 2
    assert "no val views" in capsys.readouterr().err


def test_damaged_weights_are_told(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(LumigraphError, match="no depth estimation model"):
        load_predictor(folder, torch.device("cpu"))


def test_pictures_are_pictures(tmp_path: Path) -> None:
    """What the network sees is what a viewer of the file would: no premultiplied edge darkens it."""
    scene = make_scene("still", views_train=1, views_val=0, views_test=0, size=16)
    shown: list[np.ndarray] = []

    def keep(image: np.ndarray) -> np.ndarray:
        shown.append(image)
        return grey(image)

    predict_depths(scene.views.values(), True, keep, tmp_path / "maps", False, lambda: None)
    rgba = Image.fromarray(scene.split("train").image(0).numpy())
    alpha = np.asarray(rgba)[..., 3]
    assert (shown[0][alpha == 0] == 255).all()
