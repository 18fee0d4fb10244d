"""Small valid scenes on disk, to read and to damage."""

import json
from collections.abc import Callable
from pathlib import Path
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
