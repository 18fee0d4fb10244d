"""Drives the player in headless Chromium, and says what it should draw: as onnxruntime draws it in Python."""

import base64
import json
import math
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lumigraph.export.runtime import Session
from lumigraph.files import read_json
from lumigraph.geometry.rotations import look_at
from lumigraph.viewers.player import Site
from lumigraph.viewers.server import serving

WEB = Path(__file__).parents[2] / "web"
SETTLE = {"do": "settle"}
PIXELS = {"do": "pixels"}
MESSAGE = {"do": "look", "on": "#message"}
READOUT = {"do": "look", "on": "#readout"}
NOTES = {"do": "look", "on": "#notes"}
RUNG = {"do": "look", "on": "#rung"}


def size(**window: Any) -> dict[str, Any]:
    return {"do": "size", **window}


def key(name: str, times: int = 1) -> list[dict[str, Any]]:
    return [{"do": "key", "name": name}] * times


def put(on: str, value: str) -> dict[str, Any]:
    return {"do": "set", "on": on, "value": value}


def drive(chromium: str, address: str, steps: Sequence[Mapping[str, Any]], complaints: int = 0) -> list[Any]:
    """What each step found (see web/browser/drive.mjs); the browser's console may hold so many complaints."""
    command = ["node", "browser/drive.mjs", chromium, address, json.dumps(steps)]
    done = subprocess.run(command, check=False, cwd=WEB, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert len(answer["complaints"]) <= complaints, answer["complaints"]
    return answer["found"]


def played(chromium: str, site: Site, *steps: Mapping[str, Any], complaints: int = 0) -> list[Any]:
    with serving(site) as address:
        return drive(chromium, address, steps, complaints)


def pixels(found: Mapping[str, Any]) -> np.ndarray:
    rgba = np.frombuffer(base64.b64decode(found["rgba"]), np.uint8)
    return rgba.reshape(found["height"], found["width"], 4)[..., :3].astype(int)


def drawn(bundle: Path, **changes: Any) -> np.ndarray:
    """The picture of the bundle's own camera, or of one changed, as onnxruntime draws it in Python: 0 to 255."""
    camera = {**read_json(bundle / "manifest.json")["camera"], **changes}
    session = Session((bundle / "view.onnx").read_bytes(), "view.onnx")
    return 255 * session.run({name: np.array(camera[name], np.float32) for name in session.inputs})


def gone(bundle: Path, azimuth: float = 0.0, elevation: float | None = None) -> list[list[float]]:
    """The bundle's start camera after it went about the orbit's target: by degrees of azimuth, within the limits, to
    those of elevation.

    It goes on looking as far aside of the target as at the start.
    """
    manifest = read_json(bundle / "manifest.json")
    pose = torch.tensor(manifest["camera"]["camera_to_world"], dtype=torch.float64)
    target, up, east = (
        torch.tensor(manifest["orbit"][key], dtype=torch.float64) for key in ("target", "up", "east")
    )
    north = torch.linalg.cross(up, east)
    offset = pose[:, 3] - target
    distance = offset.norm()
    angle = torch.atan2(offset @ north, offset @ east) + math.radians(azimuth)
    if manifest["orbit"]["azimuth"] is not None:
        angle = angle.clamp(*(math.radians(limit) for limit in manifest["orbit"]["azimuth"]))
    height = (
        torch.asin(offset @ up / distance) if elevation is None else torch.tensor(math.radians(elevation))
    )
    level = angle.cos() * east + angle.sin() * north
    position = target + distance * (height.cos() * level + height.sin() * up)
    before, after = (look_at(place, target, up)[:, :3] for place in (pose[:, 3], position))
    return torch.cat((after @ before.T @ pose[:, :3], position[:, None]), 1).tolist()


def same(found: np.ndarray, wanted: np.ndarray) -> None:
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= 1


def different(found: np.ndarray, other: np.ndarray) -> None:
    assert np.abs(found - other).max() > 3
