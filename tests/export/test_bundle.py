"""A student's run becomes a bundle, the bundle paints the same, and a damaged one is refused in one message."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lumigraph.cli.export import main as export_main
from lumigraph.cli.main import main as lumigraph_main
from lumigraph.cli.opening import open_renderer
from lumigraph.configs.common import TrainOptions
from lumigraph.configs.r2l import R2LConfig
from lumigraph.configs.registry import load_config_class
from lumigraph.errors import LumigraphError
from lumigraph.export import parity
from lumigraph.export.bundle import write_bundle
from lumigraph.export.bundle_renderer import SCHEMA, BundleRenderer, read_manifest
from lumigraph.export.runtime import Session
from lumigraph.geometry.bounds import Bounds
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.conventions import invert_similarity, similarity
from lumigraph.geometry.rotations import look_at
from lumigraph.scenes.formats.decoding import decode_image
from lumigraph.scenes.scene import SceneInfo
from lumigraph.training.runs import Run

WIDTH, HEIGHT = 12, 10
CONFIG = R2LConfig(width=8, depth=6, points=4, octaves=4, rays=16)


def _cameras(count: int, distortion: float = 0.0) -> Cameras:
    generator = torch.Generator().manual_seed(count)
    eyes = 4 * torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    lens = torch.zeros(count, 6)
    lens[:, 0] = distortion
    return Cameras(
        camera_to_world=look_at(eyes, torch.zeros(count, 3), torch.tensor([0.0, 0.0, 1.0]).expand(count, 3)),
        focal=torch.full((count, 2), 14.0),
        principal=torch.tensor([WIDTH / 2, HEIGHT / 2]).expand(count, 2).contiguous(),
        size=torch.tensor([WIDTH, HEIGHT]).expand(count, 2).contiguous(),
        near=torch.full((count,), 2.0),
        far=torch.full((count,), 6.0),
        distortion=lens,
        ids=torch.arange(count),
    )


def _info(distortion: float = 0.0) -> SceneInfo:
    return SceneInfo(
        name="toy",
        source="builtin:still",
        format="builtin",
        downscale=1,
        cameras={"train": _cameras(5, distortion), "test": _cameras(4, distortion)},
        bounds=Bounds(torch.full((3,), -1.0), torch.ones(3)),
        background="white",
        world_transform=torch.eye(4, dtype=torch.float64),
    )


def _student(folder: Path, distortion: float = 0.0, info: SceneInfo | None = None) -> Run:
    torch.manual_seed(3)
    run = Run.create(folder, "r2l", CONFIG, info or _info(distortion), TrainOptions(run=folder))
    run.save_weights(run.new_renderer(), 1)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return _student(tmp_path_factory.mktemp("runs") / "student")


@pytest.fixture(scope="module")
def finished(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that stays as it is."""
    folder = tmp_path_factory.mktemp("bundles") / "bundle"
    write_bundle(run, folder, licence="CC-BY-4.0", check_views=2)
    return folder


@pytest.fixture
def bundle(finished: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage; it also shows that a bundle can be moved."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def _change(bundle: Path, change: Any) -> None:
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


# ---- what a bundle holds


def test_the_manifest_says_all_a_player_needs(run: Run, finished: Path) -> None:
    assert sorted(path.name for path in finished.iterdir()) == [
        "manifest.json",
        "poster.png",
        "rays.onnx",
        "view.onnx",
    ]
    manifest = json.loads((finished / "manifest.json").read_text())
    assert manifest["models"]["rays"]["inputs"][0]["shape"] == ["rays", 3]
    assert [port["name"] for port in manifest["models"]["view"]["inputs"]] == [
        "camera_to_world",
        "focal",
        "principal",
    ]
    assert manifest["models"]["view"]["outputs"][0]["shape"] == [HEIGHT, WIDTH, 3]
    assert manifest["models"]["view"]["bytes"] == (finished / "view.onnx").stat().st_size
    assert (manifest["camera"]["near"], manifest["camera"]["far"]) == (2.0, 6.0)
    assert manifest["scene"]["background"] == "white"
    assert manifest["licence"] == "CC-BY-4.0"
    provenance = manifest["provenance"]
    assert provenance["parameters"] == sum(p.numel() for p in run.new_renderer().parameters())
    assert provenance["config"]["width"] == 8
    assert provenance["scene"] == "toy"
    assert {"lumigraph", "torch", "onnx", "onnxscript", "onnxruntime"} <= set(provenance["versions"])
    assert (manifest["form"], manifest["precision"]) == ("fused", "float32")
    assert manifest["network"]["parameters"] == provenance["parameters"]
    assert (
        manifest["network"]["multiply_adds"] == WIDTH * HEIGHT * manifest["network"]["multiply_adds_per_ray"]
    )
    renderer: Any = run.new_renderer()
    assert manifest["network"]["multiply_adds_per_ray"] == renderer.network.multiplications()
    for form in ("rays", "view"):
        assert manifest["parity"][form]["max_abs_error"] <= 1 / 255
        assert manifest["parity"][form]["psnr"] > 60
    assert decode_image(finished / "poster.png").shape == (HEIGHT, WIDTH, 3)


def test_a_bundle_tells_nothing_of_where_its_run_and_it_were_written(run: Run, finished: Path) -> None:
    for path in finished.iterdir():
        content = path.read_bytes()
        assert str(run.path).encode() not in content
        assert str(finished.parent).encode() not in content


def test_a_bundle_names_its_scene_but_not_where_its_photos_lie(tmp_path: Path, capsys) -> None:
    (tmp_path / "scene").mkdir()
    info = replace(_info(), source=str(tmp_path / "scene"))
    run = Run.create(tmp_path / "run", "r2l", CONFIG, info, TrainOptions(run=tmp_path / "run"))
    run.save_weights(run.new_renderer(), 1)
    assert "scene_relative_to_run" in run.provenance
    manifest = write_bundle(run, tmp_path / "bundle", check_views=1)
    assert manifest["scene"]["source"] == "scene"
    assert str(tmp_path) not in json.dumps(manifest)
    assert BundleRenderer(tmp_path / "bundle").info.source == "scene"
    assert lumigraph_main(["eval", str(tmp_path / "bundle")]) == 2
    assert "Pass their folder with --scene" in capsys.readouterr().err


@pytest.mark.parametrize("schema", [2, 3])
def test_bundles_of_earlier_versions_open(bundle: Path, schema: int) -> None:
    """They say nothing of form, precision and sizes, and always have both graphs."""
    wanted = BundleRenderer(bundle).view(_cameras(1)[0]).rgb
    _change(bundle, _set(schema, "schema"))
    for key in ("form", "precision", "phones", "network"):
        _change(bundle, _remove_key(key))
    assert torch.equal(BundleRenderer(bundle).view(_cameras(1)[0]).rgb, wanted)


# ---- a bundle is a renderer


def test_a_bundle_paints_what_its_run_paints(run: Run, bundle: Path) -> None:
    teacher, info = open_renderer(run.path, "cpu")
    student, same = open_renderer(bundle, "cpu")
    assert isinstance(student, BundleRenderer)
    assert same.to_json() == info.to_json()
    assert student.background == teacher.background
    camera = same.cameras["test"][1]
    wanted, found = teacher.view(camera).rgb, student.view(camera).rgb
    assert found.shape == (HEIGHT, WIDTH, 3)
    assert wanted.std() > 1e-3
    np.testing.assert_allclose(found.numpy(), wanted.numpy(), atol=1e-4)
    # Another size goes through the ray graph, and agrees.
    larger = camera.resized(2 * WIDTH, 2 * HEIGHT)
    np.testing.assert_allclose(student.view(larger).rgb.numpy(), teacher.view(larger).rgb.numpy(), atol=1e-4)


@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3)])
def test_rays_of_any_shape_are_rendered(finished: Path, shape: tuple[int, ...]) -> None:
    renderer = BundleRenderer(finished)
    renderer.chunk = 2
    flat = renderer.info.cameras["train"].view_rays(0).flatten()
    rays = flat[: int(np.prod(shape))].reshape(*shape) if shape else flat[0]
    assert renderer.render(rays).rgb.shape == (*shape, 3)


def test_a_distorted_lens_goes_through_the_ray_graph(tmp_path: Path) -> None:
    run = _student(tmp_path / "run", distortion=0.1)
    write_bundle(run, tmp_path / "bundle", check_views=1)
    camera = run.info.cameras["test"][0]
    wanted = run.load_renderer("cpu").view(camera).rgb
    found = BundleRenderer(tmp_path / "bundle").view(camera).rgb
    np.testing.assert_allclose(found.numpy(), wanted.numpy(), atol=1e-4)
    straight = BundleRenderer(tmp_path / "bundle").view(parity.pinhole(camera)).rgb
    assert not np.allclose(found.numpy(), straight.numpy(), atol=1e-4)


def test_a_bundle_takes_poses_in_the_units_of_the_capture(tmp_path: Path) -> None:
    rotation = look_at(torch.tensor([[1.0, 2.0, 0.5]]), torch.zeros(1, 3), torch.tensor([[0.0, 0.0, 1.0]]))
    transform = similarity(0.25, rotation[0, :, :3], torch.tensor([0.3, -0.2, 0.1]))
    run = _student(tmp_path / "run", info=replace(_info(), world_transform=transform))
    manifest = write_bundle(run, tmp_path / "bundle", check_views=2)
    # eval and render give it cameras of the scene, as they do to every renderer.
    camera = run.info.cameras["test"][0]
    wanted = run.load_renderer("cpu").view(camera).rgb.numpy()
    bundle = BundleRenderer(tmp_path / "bundle")
    np.testing.assert_allclose(bundle.view(camera).rgb.numpy(), wanted, atol=1e-4)
    np.testing.assert_allclose(bundle.render(camera.view_rays(0)).rgb.numpy(), wanted, atol=1e-4)
    # Whoever opens view.onnx gives it the pose that stands in the capture's file.
    captured = camera.transformed(invert_similarity(transform))
    assert manifest["camera"]["camera_to_world"] == captured.camera_to_world[0].tolist()
    assert manifest["camera"]["far"] == pytest.approx(24.0)
    values = {
        name: np.array(manifest["camera"][name], np.float32)
        for name in ("camera_to_world", "focal", "principal")
    }
    found = Session((tmp_path / "bundle" / "view.onnx").read_bytes(), "view.onnx").run(values)
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_a_bundle_does_not_ask_near_and_far_of_the_rays(finished: Path) -> None:
    renderer = BundleRenderer(finished)
    rays = renderer.info.cameras["train"].view_rays(0)
    other = replace(rays, near=rays.near + 1, far=rays.far + 5)
    assert torch.equal(renderer.render(rays).rgb, renderer.render(other).rgb)


# ---- nothing wrong appears


@pytest.mark.parametrize("error", [0.0040, float("nan"), float("inf")])
def test_an_error_that_a_picture_would_show_is_refused(error: float) -> None:
    with pytest.raises(LumigraphError, match="does not paint what torch paints in float32: rays"):
        parity.Parity("rays", 1, 3, error, 40.0).require()
    parity.Parity("rays", 1, 3, 0.0039, 48.0).require()


def test_weights_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    run = _student(tmp_path / "run")
    renderer = run.new_renderer()
    with torch.no_grad():
        next(renderer.parameters()).fill_(float("nan"))
    run.save_weights(renderer, 2)
    lines: list[str] = []
    with pytest.raises(LumigraphError, match="largest error nan"):
        write_bundle(run, tmp_path / "bundle", report=lines.append)
    assert lines[0].startswith("rays: largest error nan")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_finished_bundle_is_not_replaced_without_being_told(run: Run, bundle: Path) -> None:
    before = (bundle / "manifest.json").read_bytes()
    with pytest.raises(LumigraphError, match="--overwrite"):
        write_bundle(run, bundle)
    assert (bundle / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("content", [None, '{"name": "a web site", "icons": []}', "[]", "{"])
def test_what_is_not_a_bundle_is_never_replaced(
    run: Run, tmp_path: Path, content: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "site"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    if content is not None:
        (out / "manifest.json").write_text(content)
    before = sorted(path.name for path in out.iterdir())
    assert lumigraph_main(["export", str(run.path), "--out", str(out), "--overwrite"]) == 2
    message = capsys.readouterr().err
    assert "not a bundle (no manifest.json of ours)" in message
    assert "Choose another folder for --out" in message
    assert sorted(path.name for path in out.iterdir()) == before


def test_a_bundle_of_any_version_is_replaced_when_told(run: Run, bundle: Path) -> None:
    _change(bundle, _set(7, "schema"))
    (bundle / "view.onnx").unlink()
    write_bundle(run, bundle, check_views=1, overwrite=True)
    assert read_manifest(bundle)["schema"] == SCHEMA


def test_a_teacher_is_refused_with_what_can_be_exported(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run = Run.create(folder, "ngp", load_config_class("ngp")(), _info(), TrainOptions(run=folder))
    with pytest.raises(LumigraphError, match=r"ngp cannot be written as a graph.*r2l.*lumigraph distill r2l"):
        write_bundle(run, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_at_least_one_view_is_checked(run: Run, tmp_path: Path) -> None:
    with pytest.raises(LumigraphError, match="at least"):
        write_bundle(run, tmp_path / "bundle", check_views=0)


# ---- damaged bundles


def _remove_key(*keys: str) -> Any:
    def change(manifest: dict[str, Any]) -> None:
        for key in keys[:-1]:
            manifest = manifest[key]
        del manifest[keys[-1]]

    return change


def _set(value: Any, *keys: str) -> Any:
    def change(manifest: dict[str, Any]) -> None:
        for key in keys[:-1]:
            manifest = manifest[key]
        manifest[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set(5, "schema"), r"version 5, this lumigraph reads versions 2, 3, 4 \(in .*manifest\.json\)"),
        (_remove_key("schema"), "version None"),
        (_set("a web site", "format"), "not a lumigraph bundle's"),
        (_remove_key("models", "view"), "'view' is missing"),
        (_remove_key("poster"), "'poster' is missing"),
        (_remove_key("scene"), "'scene' is missing"),
        (_remove_key("camera", "width"), "'width' is missing"),
        (_set("wide", "camera", "width"), "not complete"),
        (_set([], "models"), "not complete"),
        (_set("../rays.onnx", "models", "rays", "file"), "leaves the folder"),
        (_set("/etc/passwd", "models", "rays", "file"), "leaves the folder"),
        (_set("nothing.onnx", "models", "rays", "file"), r"file nothing\.onnx is missing"),
        (_set("0" * 64, "models", "view", "sha256"), "checksum differs"),
        (_set("image", "models", "rays", "outputs"), "not complete"),
        (_set([], "models", "rays", "inputs"), "the model's inputs are origins"),
        (_set([[1, 2]], "scene", "world_transform"), "scene description"),
    ],
)
def test_a_wrong_manifest_is_one_message(bundle: Path, change: Any, message: str) -> None:
    _change(bundle, change)
    with pytest.raises(LumigraphError, match=message):
        open_renderer(bundle, "cpu")


@pytest.mark.parametrize("name", ["rays.onnx", "view.onnx", "poster.png"])
def test_a_damaged_or_missing_file_is_one_message(bundle: Path, name: str) -> None:
    path = bundle / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(LumigraphError, match=rf"checksum differs \(in .*{name}\)\. Copy the bundle again"):
        open_renderer(bundle, "cpu")
    path.unlink()
    with pytest.raises(LumigraphError, match=f"file {name} is missing"):
        open_renderer(bundle, "cpu")


def test_a_manifest_that_is_not_json_is_one_message(bundle: Path) -> None:
    (bundle / "manifest.json").write_text("{")
    with pytest.raises(LumigraphError, match="not valid JSON"):
        open_renderer(bundle, "cpu")


def test_what_is_neither_run_nor_bundle_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(LumigraphError, match="no such folder"):
        open_renderer(tmp_path / "absent", "cpu")
    with pytest.raises(LumigraphError, match="neither a run nor a bundle"):
        open_renderer(tmp_path, "cpu")
    (tmp_path / "small.safetensors").touch()
    with pytest.raises(LumigraphError, match="Give the folder that"):
        open_renderer(tmp_path, "cpu")
    (tmp_path / "small.json").touch()
    with pytest.raises(LumigraphError, match=r"goes by the name of its weights: .*small\.safetensors"):
        open_renderer(tmp_path, "cpu")
    (tmp_path / "index.json").write_text("{}")
    with pytest.raises(LumigraphError, match=r"pseudo views.*lumigraph distill"):
        open_renderer(tmp_path, "cpu")
    (tmp_path / "transforms_train.json").write_text("{}")
    with pytest.raises(LumigraphError, match=r"scene folder.*lumigraph train"):
        open_renderer(tmp_path, "cpu")
    with pytest.raises(LumigraphError, match="this is a file"):
        open_renderer(tmp_path / "index.json", "cpu")


# ---- the verb


def test_the_verb_writes_a_bundle_and_says_how_exact_it_is(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export_main([str(run.path), "--out", str(tmp_path / "bundle"), "--check-views", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("rays: largest error")
    assert "dB over 1 cameras" in lines[0]
    assert lines[1].startswith("view: largest error")
    assert "rays.onnx" in lines[2]
    assert "12x10 pixels" in lines[2]
    manifest = read_manifest(tmp_path / "bundle")
    assert manifest["licence"].startswith("not stated")
