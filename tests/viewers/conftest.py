"""Small students as bundles, one controllable of rays and others of whole pictures, and the built player."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lumigraph.cli.main import main
from lumigraph.configs.codylin import CoDyLiNConfig
from lumigraph.configs.common import TrainOptions
from lumigraph.export.bundle import write_bundle
from lumigraph.geometry.bounds import Bounds
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.ndc import ForwardFrame
from lumigraph.geometry.rotations import look_at
from lumigraph.scenes.scene import SceneInfo
from lumigraph.training.runs import Run
from lumigraph.viewers import player

from .browser import WEB

WIDTH, HEIGHT = 24, 18
CONFIG = CoDyLiNConfig(
    width=16,
    depth=6,
    points=4,
    octaves=3,
    rays=16,
    motion_octaves=2,
    offset_width=12,
    hyper_width=10,
    hyper_dims=2,
    mask_width=10,
    zero_heads=False,
)


def cameras(count: int) -> Cameras:
    """All round, from elevations of 20 to 50 degrees, looking a little past the middle."""
    azimuth = torch.arange(count) * (2 * torch.pi / count)
    elevation = torch.deg2rad(torch.linspace(20, 50, count))
    level = torch.stack((azimuth.cos(), azimuth.sin()), -1) * elevation.cos()[:, None]
    eyes = 4 * torch.cat((level, elevation.sin()[:, None]), -1)
    targets = 0.1 * torch.randn(count, 3, generator=torch.Generator().manual_seed(0))
    return Cameras(
        camera_to_world=look_at(eyes, targets, torch.tensor([0.0, 0.0, 1.0]).expand(count, 3)),
        focal=torch.full((count, 2), 26.0),
        principal=torch.tensor([WIDTH / 2, HEIGHT / 2]).expand(count, 2).contiguous(),
        size=torch.tensor([WIDTH, HEIGHT]).expand(count, 2).contiguous(),
        near=torch.full((count,), 2.0),
        far=torch.full((count,), 6.0),
        distortion=torch.zeros(count, 6),
        ids=torch.arange(count),
        times=torch.linspace(0.25, 1, count),
        attributes=torch.tensor([0.5, -0.25]).expand(count, 2).contiguous(),
    )


def info() -> SceneInfo:
    return SceneInfo(
        name="toy",
        source="builtin:attributes",
        format="builtin",
        downscale=1,
        cameras={"train": cameras(12), "test": cameras(4)},
        bounds=Bounds(torch.full((3,), -1.0), torch.ones(3)),
        background="white",
        world_transform=torch.eye(4, dtype=torch.float64),
        attributes=("head", "arm"),
    )


def student(folder: Path, config: CoDyLiNConfig = CONFIG) -> Run:
    """A run with weights so large that pictures, times and attributes differ plainly."""
    torch.manual_seed(3)
    run = Run.create(folder, "codylin", config, info(), TrainOptions(run=folder))
    renderer = run.new_renderer()
    with torch.no_grad():
        for weights in renderer.parameters():
            weights.mul_(1.7)
    run.save_weights(renderer, 1)
    return run


PICTURE_WIDTH, PICTURE_HEIGHT = 32, 30
"""The height is no multiple of a patch, so that pictures are cut."""
PICTURE_SIZES: dict[str, Any] = {
    "width": 12,
    "blocks": 2,
    "up_factors": (2, 2),
    "up_widths": (10, 8),
    "up_blocks": 1,
}
POINTS: dict[str, Any] = {**PICTURE_SIZES, "points": 3, "octaves": 2}


def picture_info(forward: bool = False, scale: int = 1) -> SceneInfo:
    """The same scene, of other cameras: all round, or side by side in a scene that faces one way."""
    toy = info()
    frame = ForwardFrame(torch.tensor([[1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 0]]), (0.5, 0.5), 1.0)

    def of_pictures(cameras: Cameras) -> Cameras:
        cameras = cameras.resized(scale * PICTURE_WIDTH, scale * PICTURE_HEIGHT)
        if not forward:
            return cameras
        poses = frame.camera_to_world.repeat(len(cameras), 1, 1)
        poses[:, :2, 3] = torch.linspace(-0.3, 0.3, 2 * len(cameras)).reshape(-1, 2)
        return replace(cameras, camera_to_world=poses)

    split = {name: of_pictures(cameras) for name, cameras in toy.cameras.items()}
    return replace(toy, cameras=split, forward=frame if forward else None)


def picture_student(folder: Path, method: str, config: Any, forward: bool = False, scale: int = 1) -> Run:
    """A run of a student of whole pictures, untrained, whose colours were spread so that a wrong picture is seen."""
    torch.manual_seed(1)
    scene = picture_info(forward, scale)
    run = Run.create(folder, method, config, scene, TrainOptions(run=folder))
    renderer: Any = run.new_renderer()
    renderer.focal.copy_(scene.cameras["train"].focal[0])
    for name, value in renderer.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            value.uniform_(0.2, 1.5)
    for name, weights in renderer.named_parameters():
        if name.startswith("grids."):
            torch.nn.init.normal_(weights)  # as they begin, they change next to nothing
        elif not name.startswith("network.") and not bool(weights.any()):
            torch.nn.init.normal_(weights, std=0.3)  # heads that begin at zero would move nothing
    with torch.no_grad():
        raw = renderer.eval().view(scene.cameras["train"][0]).rgb.logit()
        tail, spread = renderer.network.tail, raw.std((0, 1))
        tail.weight.div_(spread[:, None, None, None])
        tail.bias.sub_(raw.mean((0, 1))).div_(spread)
    run.save_weights(renderer, 1)
    return run


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return student(tmp_path_factory.mktemp("runs") / "student")


@pytest.fixture(scope="session")
def finished(run: Run, built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with the player beside it, that stays as it is."""
    folder = tmp_path_factory.mktemp("bundles") / "small"
    options = ["--check-views", "1", "--licence", "CC-BY-4.0", "--web"]
    assert main(["export", str(run.path), "--out", str(folder), *options]) == 0
    return folder


@pytest.fixture(scope="session")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another bundle of the same scene."""
    run = student(tmp_path_factory.mktemp("runs") / "larger", replace(CONFIG, width=32))
    folder = tmp_path_factory.mktemp("bundles") / "larger"
    write_bundle(run, folder, check_views=1)
    return folder


@pytest.fixture
def bundle(finished: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


@pytest.fixture(scope="session")
def built() -> Path:
    """The built player's folder."""
    if not (player.BUILT / "index.html").is_file():
        pytest.skip("the web player is not built: make player")
    return player.BUILT


@pytest.fixture(scope="session")
def chromium(built: Path) -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None or shutil.which("node") is None:
        pytest.skip("no chromium or no node on the PATH")
    if not (WEB / "node_modules" / "playwright-core").is_dir():
        pytest.skip("playwright-core is not installed: make player")
    return found
