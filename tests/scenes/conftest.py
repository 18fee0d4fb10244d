"""Small valid scenes on disk, to read and to damage."""

import json
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image


def poses(count: int, distance: float = 4.0) -> list[list[list[float]]]:
    """OpenGL poses on a circle around the z axis, a little above the horizon, looking at the origin."""
    result = []
    for angle in np.linspace(0.0, 2.0 * np.pi, count, endpoint=False):
        back = np.array([np.cos(angle), np.sin(angle), 0.3])
        back /= np.linalg.norm(back)
        right = np.cross([0.0, 0.0, 1.0], back)
        right /= np.linalg.norm(right)
        matrix = np.eye(4)
        matrix[:3] = np.stack([right, np.cross(back, right), back, distance * back], axis=1)
        result.append(matrix.tolist())
    return result


def picture(number: int, channels: int, width: int = 12, height: int = 8) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (height, width, channels), dtype=np.uint8)


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


@pytest.fixture
def blender_scene(tmp_path: Path) -> Path:
    """train 4, val 2, test 2 RGBA images of 12x8, files named without extension."""
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        frames = [
            {"file_path": f"./{split}/r_{i}", "transform_matrix": pose} for i, pose in enumerate(poses(count))
        ]
        for i in range(count):
            save(tmp_path / "scene" / split / f"r_{i}.png", picture(i, 4))
        data = {"camera_angle_x": 0.7, "frames": frames}
        (tmp_path / "scene" / f"transforms_{split}.json").write_text(json.dumps(data))
    return tmp_path / "scene"


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    """Ten RGB photos of 12x8 described by a transforms.json."""
    frames = [
        {"file_path": f"images/{i}.png", "transform_matrix": pose} for i, pose in enumerate(poses(10, 5.0))
    ]
    for i in range(10):
        save(tmp_path / "capture" / "images" / f"{i}.png", picture(i, 3))
    data = {"fl_x": 15.0, "fl_y": 16.0, "cx": 6.5, "cy": 4.5, "w": 12, "h": 8, "frames": frames}
    (tmp_path / "capture" / "transforms.json").write_text(json.dumps(data))
    return tmp_path / "capture"


@pytest.fixture
def change() -> Callable[[Path, Callable[[dict[str, Any]], object]], None]:
    """Rewrites a JSON file after a function has changed its data in place."""

    def rewrite(path: Path, how: Callable[[dict[str, Any]], object]) -> None:
        data = json.loads(path.read_text())
        how(data)
        path.write_text(json.dumps(data))

    return rewrite


@pytest.fixture
def save_image() -> Callable[[Path, np.ndarray], None]:
    """Saves an array as an image file, with the folders it needs."""
    return save


def llff_row(pose: np.ndarray, near: float, far: float, size: tuple[int, int] = (24, 16)) -> np.ndarray:
    """A row of `poses_bounds.npy` from an OpenGL pose [3, 4]; focal length 30."""
    right, up, back, position = pose.T
    column = np.array([size[1], size[0], 30.0])
    return np.concatenate([np.stack([-up, right, back, position, column], 1).ravel(), [near, far]])


def look(position: np.ndarray, target: np.ndarray, up: np.ndarray) -> np.ndarray:
    """An OpenGL pose [3, 4]."""
    back = (position - target) / np.linalg.norm(position - target)
    right = np.cross(up, back) / np.linalg.norm(np.cross(up, back))
    return np.stack([right, np.cross(back, right), back, position], 1)


@pytest.fixture
def llff_rows() -> np.ndarray:
    """Nine cameras side by side, up along (0, -1, 0.2), that look nearly along (0.3, 0.1, 1)."""
    random = np.random.default_rng(0)
    rows = []
    for _ in range(9):
        position = np.array([5.0, -3.0, 2.0]) + random.uniform(-1, 1, 3) * [4.0, 3.0, 0.5]
        target = np.array([14.0, 0.0, 32.0]) + random.uniform(-1, 1, 3)
        near = random.uniform(17.0, 19.0)
        pose = look(position, target, np.array([0.0, -1.0, 0.2]))
        rows.append(llff_row(pose, near, random.uniform(60.0, 80.0)))
    return np.stack(rows)


@pytest.fixture
def inward_llff_rows() -> np.ndarray:
    """Nine cameras around (1, 2, 3), above it, at distances of 4 to 5."""
    random = np.random.default_rng(1)
    focus, rows = np.array([1.0, 2.0, 3.0]), []
    for angle in np.linspace(0.0, 2.0 * np.pi, 9, endpoint=False):
        away = np.array([np.cos(angle), random.uniform(0.3, 0.6), np.sin(angle)])
        position = focus + random.uniform(4.0, 5.0) * away / np.linalg.norm(away)
        pose = look(position, focus + random.uniform(-0.1, 0.1, 3), np.array([0.0, 1.0, 0.0]))
        rows.append(llff_row(pose, random.uniform(2.0, 3.0), random.uniform(9.0, 12.0)))
    return np.stack(rows)


def write_llff(folder: Path, rows: np.ndarray) -> Path:
    for number in range(len(rows)):
        save(folder / "images" / f"{number}.png", picture(number, 3, 24, 16))
        save(folder / "images_2" / f"{number}.png", np.full((8, 12, 3), 20 * number, np.uint8))
    np.save(folder / "poses_bounds.npy", rows)
    return folder


@pytest.fixture
def llff_scene(tmp_path: Path, llff_rows: np.ndarray) -> Path:
    """A forward-facing capture of nine photos of 24x16, and copies of half the size of one colour each."""
    return write_llff(tmp_path / "llff", llff_rows)


@pytest.fixture
def inward_llff_scene(tmp_path: Path, inward_llff_rows: np.ndarray) -> Path:
    """The same with cameras around an object."""
    return write_llff(tmp_path / "llff", inward_llff_rows)


@pytest.fixture
def nerfies_folder() -> ModuleType:
    """What writes folders in Nerfies' format: `nerfies_folder.py`."""
    spec = spec_from_file_location("nerfies_folder", Path(__file__).with_name("nerfies_folder.py"))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def moving(nerfies_folder: ModuleType, tmp_path: Path) -> Any:
    """A folder in Nerfies' format of 11 frames of 24x24 pixels of a scene that moves, and its cameras."""
    return nerfies_folder.capture_of("moving", tmp_path / "moving")


@pytest.fixture
def annotated(nerfies_folder: ModuleType, tmp_path: Path) -> Path:
    """Such a folder with attributes that a person has annotated."""
    folder, _ = nerfies_folder.capture_of("still", tmp_path / "scene")
    nerfies_folder.annotate(folder)
    return folder
