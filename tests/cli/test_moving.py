"""A student that knows time and attributes, from its run over `render` and `eval` to a bundle, as scripts call them."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lumigraph.cli import main as cli
from lumigraph.cli.opening import open_renderer
from lumigraph.cli.paths import path_cameras, with_states
from lumigraph.configs import registry
from lumigraph.configs.common import TrainOptions
from lumigraph.configs.registry import MethodEntry
from lumigraph.errors import LumigraphError
from lumigraph.export.bundle import evenly_spread
from lumigraph.export.bundle_renderer import BundleRenderer, read_manifest
from lumigraph.export.runtime import Session
from lumigraph.files import read_json, write_json
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.renderer import Renderer, Rendering
from lumigraph.scenes.load import load_scene
from lumigraph.scenes.procedural import make_scene, write_blender
from lumigraph.scenes.scene import SceneInfo
from lumigraph.training.runs import Run


@dataclass(frozen=True, kw_only=True)
class ChangingConfig:
    knows: tuple[str, ...] = ("times", "attributes")
    training_steps: int = 1


class Changing(Renderer):
    """One hidden layer on the ray, its time and its attributes, two units of which are the hyper code."""

    background = "white"

    def __init__(self, config: ChangingConfig, attributes: int):
        super().__init__()
        self.conditions = config.knows
        inputs = 6 + ("times" in config.knows) + attributes * ("attributes" in config.knows)
        self.layers = nn.Sequential(nn.Linear(inputs, 16), nn.Tanh())
        self.network = nn.Sequential(nn.Linear(16, 3), nn.Sigmoid())
        self.edits: dict[int, float] = {}

    @classmethod
    def from_scene(cls, config: ChangingConfig, info: SceneInfo) -> "Changing":
        return cls(config, len(info.attributes))

    def ray_codes(
        self,
        origins: Tensor,
        directions: Tensor,
        times: Tensor | None = None,
        attributes: Tensor | None = None,
    ) -> Tensor:
        given = [origins, directions]
        given += [] if times is None else [times[:, None]]
        given += [] if attributes is None else [attributes.nan_to_num(0.0)]
        return self.hidden(torch.cat(given, -1))

    def hidden(self, given: Tensor) -> Tensor:
        units = list(self.layers(given).unbind(-1))
        for channel, value in self.edits.items():
            units[channel] = torch.full_like(units[channel], value)
        return torch.stack(units, -1)

    def hyper_code(self, rays: Rays) -> Tensor:
        parts = [rays.origins, rays.directions, rays.times[:, None], rays.attributes.nan_to_num(0.0)]
        return self.hidden(torch.cat(parts, -1))[:, :2]

    @contextmanager
    def edited(self, channel: int, value: float) -> Iterator[None]:
        if channel > 1:
            raise LumigraphError(f"there is no channel {channel}", todo="Choose 0 or 1")
        self.edits[channel] = value
        try:
            yield
        finally:
            del self.edits[channel]

    @torch.no_grad()
    def render(self, rays: Rays) -> Rendering:
        self.require_conditions(rays)
        flat = rays.flatten()
        named = {name: getattr(flat, name) for name in self.conditions}
        rgb = self.network(self.ray_codes(flat.origins, flat.directions, **named))
        masks = {"attribute_masks": rgb[:, :2]} if "attributes" in self.conditions else {}
        return Rendering(rgb=rgb, extras=masks).reshape(*rays.shape)


CHANGING = MethodEntry(
    name="changing",
    kind="student",
    config=f"{__name__}:ChangingConfig",
    renderer=f"{__name__}:Changing",
    summary="a student of these tests",
)


@pytest.fixture(scope="module", autouse=True)
def installed() -> Iterator[None]:
    """As if a package with this method were installed."""
    point = metadata.EntryPoint("changing", f"{__name__}:CHANGING", registry.ENTRY_POINTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry.metadata, "entry_points", lambda group: (point,))
        registry.methods.cache_clear()
        yield
    registry.methods.cache_clear()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four training and three test views of 24 pixels that differ in time and in two attributes."""
    folder = tmp_path_factory.mktemp("scenes") / "robot"
    write_blender(make_scene("attributes", 4, 0, 3, size=24), folder)
    for split in ("train", "test"):
        path = folder / f"transforms_{split}.json"
        data = read_json(path)
        for index, frame in enumerate(data["frames"]):
            frame["time"] = index / (len(data["frames"]) - 1)
        write_json(path, data)
    return folder


def make_run(path: Path, scene: Path, config: ChangingConfig | None = None) -> Path:
    torch.manual_seed(0)
    info = load_scene(str(scene)).info
    run = Run.create(path, "changing", config or ChangingConfig(), info, TrainOptions(run=path))
    renderer = run.new_renderer()
    with torch.no_grad():
        renderer.layers[0].weight[:, 6:].mul_(6)  # what changes is seen
    run.save_weights(renderer, 1)
    return path


@pytest.fixture(scope="module")
def run(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run", scene)


@pytest.fixture(scope="module")
def bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "bundle"
    assert cli.main(["export", str(run), "--out", str(folder)]) == 0
    return folder


def frames_of(path: Path) -> np.ndarray:
    return imageio.imread(path, index=None).astype(int)


def render(renderer: Path, out: Path, *options: str) -> np.ndarray:
    assert cli.main(["render", str(renderer), "--out", str(out), "--frames", "3", *options]) == 0
    return frames_of(out)


def spread(frames: np.ndarray) -> int:
    """How much the frames of a movie differ, in 8-bit steps."""
    return int(np.abs(frames - frames[:1]).max())


# ---- render


def test_movies_of_time_and_attributes(run: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "movie.gif"

    def made(*options: str) -> np.ndarray:
        return render(run, out, "--overwrite", *options)

    still = made("--path", "view")
    assert spread(still) == 0
    assert "3 frames of 24x24, time 0, head not set, arm not set" in capsys.readouterr().out
    moving = made("--path", "time")
    assert spread(moving) > 5
    assert "time 0 to 1, head not set, arm not set" in capsys.readouterr().out
    # The first frame of the one is every frame of the other; gif palettes differ a little.
    assert np.abs(moving[0] - still[0]).mean() < 3
    late = made("--path", "view", "--time", "1")
    assert np.abs(late[0] - moving[2]).mean() < 3
    assert np.abs(late[0] - still[0]).mean() > 5
    swept = made("--path", "view", "--attribute", "arm=-1..1", "--attribute", "head=0.5")
    assert spread(swept) > 5
    assert "time 0, head 0.5, arm -1 to 1" in capsys.readouterr().out
    assert spread(made("--path", "time", "--view", "2")) > 5


def test_frames_are_what_the_renderer_shows(run: Path) -> None:
    renderer, info = open_renderer(run)
    camera = info.cameras["test"][1]
    cameras = with_states(path_cameras(info, "time", 5, 1), "time", renderer, info, None, {})
    wanted = renderer.view(replace(camera, times=torch.tensor([0.5]), attributes=torch.zeros(1, 2))).rgb
    assert torch.equal(renderer.view(cameras[2]).rgb, wanted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--time", "1.5"], "--time 1.5 is not a moment"),
        (["--path", "time", "--time", "0.5"], "along --path time time passes"),
        (["--attribute", "head=2"], "values of -1 to 1"),
        (["--attribute", "haed=1"], "no attribute 'haed'. Did you mean head? The attributes are head, arm"),
        (["--attribute", "head"], "cannot be read"),
        (["--attribute", "head=1", "--attribute", "head=0"], "given twice"),
        (["--path", "view", "--view", "3"], "--view 3 is no held-out view"),
        (["--view", "1"], "--view chooses where"),
    ],
)
def test_what_makes_no_sense_is_one_message(
    options: list[str], message: str, run: Path, bundle: Path, tmp_path: Path, capsys
) -> None:
    for renderer in (run, bundle):
        assert cli.main(["render", str(renderer), "--out", str(tmp_path / "a.gif"), *options]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("lumigraph:") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--time", "0.5"], "--time is for scenes that move, and this renderer shows a still one"),
        (["--path", "time"], "--path time is for scenes that move"),
        (["--path", "orbit-time"], "--path orbit-time is for scenes that move"),
        (["--attribute", "head=0"], "this renderer knows none"),
    ],
)
def test_a_still_student_is_asked_for_change(
    options: list[str], message: str, scene: Path, tmp_path: Path, capsys
) -> None:
    still = make_run(tmp_path / "run", scene, ChangingConfig(knows=()))
    assert cli.main(["render", str(still), "--out", str(tmp_path / "a.gif"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "a.gif").exists()


def test_rays_without_time_or_attributes_are_refused(run: Path, bundle: Path) -> None:
    for path in (run, bundle):
        renderer, info = open_renderer(path)
        camera = info.cameras["test"][0]
        for name, words in (("times", "0 to 1"), ("attributes", "-1 to 1")):
            without = replace(camera, **{name: None})
            with pytest.raises(LumigraphError, match=f"these cameras have no {name}.*{words}"):
                renderer.view(without)
            with pytest.raises(LumigraphError, match=f"these rays have no {name}"):
                renderer.render(without.view_rays(0))


def test_the_hyper_code_as_pictures_and_edited(run: Path, tmp_path: Path, capsys) -> None:
    out, codes = tmp_path / "movie.gif", tmp_path / "codes"
    edits = ("--edit", "1=-3..3", "--edit", "0=0.5")
    edited = render(run, out, "--path", "view", *edits, "--hyper-code", str(codes))
    assert spread(edited) > 5
    assert f"{codes}: hyper code of 3 frames" in capsys.readouterr().out
    names = [f"frame_{frame:04d}_channel_{channel}.png" for frame in range(3) for channel in range(2)]
    assert sorted(path.name for path in codes.iterdir()) == [*names, "hyper_code.json"]
    assert read_json(codes / "hyper_code.json")["ranges"] == [
        pytest.approx([0.5, 0.5]),
        pytest.approx([-3, -3]),
    ]
    assert frames_of(codes / names[0]).reshape(-1, 24, 24, 3).shape[0] == 1
    # Without edits, a picture has the colours of what the code is: those of its range, which it fills.
    codes = tmp_path / "free"
    render(run, out, "--overwrite", "--path", "time", "--hyper-code", str(codes))
    first, later = (frames_of(codes / name) for name in (names[0], names[4]))
    assert len(np.unique(first.reshape(-1, 3), axis=0)) > 20
    assert np.abs(first - later).max() > 0
    low, high = read_json(codes / "hyper_code.json")["ranges"][0]
    assert -1 < low < high < 1


def test_hyper_codes_that_are_not_there_are_refused(run: Path, bundle: Path, tmp_path: Path, capsys) -> None:
    out = ["--out", str(tmp_path / "a.gif")]
    for renderer, options, message in (
        (bundle, ["--edit", "0=1"], "this renderer has no hyper code"),
        (bundle, ["--hyper-code", str(tmp_path / "codes")], "this renderer has no hyper code"),
        (run, ["--edit", "2=1"], "there is no channel 2"),
        (run, ["--edit", "first=1"], "not the number of a channel"),
    ):
        assert cli.main(["render", str(renderer), *out, *options]) == 2
        assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_photos_stand_beside_the_frames(run: Path, scene: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "movie.gif"
    assert cli.main(["render", str(run), "--out", str(out), "--path", "heldout", "--photos"]) == 0
    assert "3 frames of 24x24, time 0 to 1" in capsys.readouterr().out
    frames = frames_of(out)
    assert frames.shape[:3] == (3, 24, 48)
    views = load_scene(str(scene)).split("test")
    for index in range(3):
        rgba = views.image(index).float() / 255
        photo = (rgba[..., :3] + 1 - rgba[..., 3:]) * 255
        assert np.abs(frames[index, :, :24, :3] - photo.numpy()).mean() < 6
    for options in (["--frames", "2", "--path", "heldout"], ["--path", "orbit"]):
        assert cli.main(["render", str(run), "--out", str(tmp_path / "b.gif"), "--photos", *options]) == 2
        assert "--photos is for" in capsys.readouterr().err


# ---- eval


def test_eval_by_time_and_of_masks(run: Path, bundle: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "result.json"
    assert cli.main(["eval", str(run), "--json", str(out)]) == 0
    data = read_json(out)
    assert [view["time"] for view in data["per_view"]] == [0.0, 0.5, 1.0]
    assert [(part["from"], part["views"]) for part in data["by_time"]] == [(0.0, 1), (0.5, 1), (0.9, 1)]
    assert [part["psnr"] for part in data["by_time"]] == [view["psnr"] for view in data["per_view"]]
    assert data["ms_ssim_scales"] == [2]
    assert "5 scales" in data["definitions"]["ms_ssim"]
    printed = capsys.readouterr().out
    assert f"MS-SSIM {data['ms_ssim']:.4f} (2 scales instead of 5: the pictures are small)" in printed
    assert "0.9 to 1.0" in printed
    # What each attribute moves lies beside the photos.
    assert list(data["attribute_masks"]) == ["head", "arm"]
    assert all(0 < mask["mean_absolute_error"] < 1 for mask in data["attribute_masks"].values())
    assert printed.count("  mask of ") == 2
    assert cli.main(["eval", str(bundle), "--scene", str(scene_of(run)), "--json", str(out)]) == 0
    assert read_json(out)["psnr"] == pytest.approx(data["psnr"], abs=1e-3)
    # Any split of the scene.
    assert cli.main(["eval", str(run), "--split", "train", "--json", str(out)]) == 0
    assert (read_json(out)["views"], read_json(out)["split"]) == (4, "train")
    assert cli.main(["eval", str(run), "--split", "val"]) == 2
    assert "no val views" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("knows", "change", "message"),
    [
        (
            ("times", "attributes"),
            {"time": 0.25},
            "test views of the scene have other times than at the time",
        ),
        (("times", "attributes"), {"attributes": [0.0, None]}, "have other attributes than at the time"),
        (("attributes",), {"time": 0.25, "attributes": [1.0, 1.0]}, "have other attributes than at the time"),
        ((), {"time": 0.25, "attributes": [1.0, 1.0]}, None),
    ],
)
def test_eval_notices_views_of_other_states(
    knows: tuple[str, ...], change: dict, message: str | None, scene: Path, tmp_path: Path, capsys
) -> None:
    """Only what the renderer's colours go by."""
    moved = tmp_path / "scene"
    shutil.copytree(scene, moved)
    run = make_run(tmp_path / "run", moved, ChangingConfig(knows=knows))
    assert cli.main(["eval", str(run)]) == 0
    frames = read_json(moved / "transforms_test.json")
    frames["frames"][1].update(change)
    write_json(moved / "transforms_test.json", frames)
    assert cli.main(["eval", str(run)]) == (0 if message is None else 2)
    if message is not None:
        assert message in capsys.readouterr().err
        assert cli.main(["eval", str(run), "--scene", str(moved)]) == 0


def test_eval_leaves_out_views_of_unknown_attributes(scene: Path, tmp_path: Path, capsys, caplog) -> None:
    moved, out = tmp_path / "scene", tmp_path / "result.json"
    shutil.copytree(scene, moved)
    frames = read_json(moved / "transforms_test.json")
    for number in range(3):
        frames["frames"][number]["attributes"][1] = None
        write_json(moved / "transforms_test.json", frames)
        run = make_run(tmp_path / f"run{number}", moved)
        if number == 2:
            assert cli.main(["eval", str(run)]) == 2
            assert "the attributes of these views are not known" in capsys.readouterr().err
            return
        assert cli.main(["eval", str(run), "--json", str(out)]) == 0
        assert [view["time"] for view in read_json(out)["per_view"]] == [0.0, 0.5, 1.0][number + 1 :]
        assert f"of {number + 1} of 3 views the attributes are not known" in caplog.text


def scene_of(run: Path) -> str:
    return Run.open(run).info.source


# ---- export


def test_a_bundle_takes_time_and_attributes(run: Path, bundle: Path) -> None:
    manifest = read_manifest(bundle)
    rays, view = (manifest["models"][form]["inputs"] for form in ("rays", "view"))
    assert [(port["name"], port["shape"]) for port in rays[2:]] == [
        ("times", ["rays"]),
        ("attributes", ["rays", 2]),
    ]
    assert [(port["name"], port["shape"]) for port in view[3:]] == [("time", []), ("attributes", [2])]
    info = Run.open(run).info
    first = info.cameras["test"][0]
    for ports in (rays, view):
        time, attributes = ports[-2:]
        assert (time["range"], time["default"]) == ([0.0, 1.0], 0.0)
        assert (attributes["range"], attributes["names"]) == ([-1.0, 1.0], ["head", "arm"])
        assert attributes["default"] == pytest.approx(first.attributes[0].tolist())
    # The manifest's camera has a value for each input, and gives the poster.
    camera = manifest["camera"]
    values = {port["name"]: np.array(camera[port["name"]], np.float32) for port in view}
    found = Session((bundle / "view.onnx").read_bytes(), "view.onnx").run(values)
    renderer, _ = open_renderer(run)
    np.testing.assert_allclose(found, renderer.view(first).rgb.numpy(), atol=1e-4)
    np.testing.assert_allclose(found, frames_of(bundle / "poster.png") / 255, atol=0.01)


def test_a_bundle_shows_every_moment_as_its_run_does(run: Path, bundle: Path) -> None:
    renderer, info = open_renderer(run)
    played = BundleRenderer(bundle)
    assert played.conditions == ("times", "attributes")
    camera = info.cameras["test"][1]
    seen = []
    for time, head in ((0.0, -1.0), (1.0, -1.0), (0.3, 0.7)):
        asked = replace(camera, times=torch.tensor([time]), attributes=torch.tensor([[head, 0.2]]))
        wanted = renderer.view(asked).rgb
        seen.append(wanted)
        np.testing.assert_allclose(played.view(asked).rgb.numpy(), wanted.numpy(), atol=1e-5)
        np.testing.assert_allclose(played.render(asked.view_rays(0)).rgb.numpy(), wanted.numpy(), atol=1e-5)
    assert (seen[0] - seen[1]).abs().max() > 0.05
    assert (seen[1] - seen[2]).abs().max() > 0.05


def test_a_bundle_plays_in_render(bundle: Path, run: Path, tmp_path: Path) -> None:
    options = ("--path", "time", "--attribute", "head=-1..1")
    assert (
        render(bundle, tmp_path / "b.gif", *options) == render(run, tmp_path / "r.gif", *options)
    ).mean() > 0.99


def test_attributes_nobody_knows_are_zero_in_a_bundle(run: Path) -> None:
    info = Run.open(run).info
    unknown = replace(info.cameras["test"], attributes=torch.full((3, 2), torch.nan))
    cameras = evenly_spread(replace(info, cameras={**info.cameras, "test": unknown}), 2)
    assert not cameras.attributes.any()


def test_a_student_of_time_alone_exports_alike(scene: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", scene, ChangingConfig(knows=("times",)))
    assert cli.main(["export", str(run), "--out", str(tmp_path / "bundle")]) == 0
    names = [port["name"] for port in read_manifest(tmp_path / "bundle")["models"]["rays"]["inputs"]]
    assert names == ["origins", "directions", "times"]
    assert BundleRenderer(tmp_path / "bundle").conditions == ("times",)
