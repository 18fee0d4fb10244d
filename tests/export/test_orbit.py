"""Where a player's camera may go, told in units of the capture."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from lumigraph.export.orbit import DISTANCES, SMALLEST_SWING, orbit_of
from lumigraph.geometry.bounds import Bounds
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.conventions import similarity
from lumigraph.geometry.rotations import look_at
from lumigraph.scenes.scene import SceneInfo

UP = torch.tensor([0.0, 0.0, 1.0])


def _cameras(eyes: torch.Tensor, targets: torch.Tensor) -> Cameras:
    count = len(eyes)
    return Cameras(
        camera_to_world=look_at(eyes, targets.expand(count, 3), UP.expand(count, 3)),
        focal=torch.full((count, 2), 14.0),
        principal=torch.full((count, 2), 5.0),
        size=torch.full((count, 2), 10),
        near=torch.full((count,), 2.0),
        far=torch.full((count,), 6.0),
        distortion=torch.zeros(count, 6),
        ids=torch.arange(count),
    )


def _ring(start: float, end: float, count: int = 24) -> Cameras:
    """On a ring of radius 4 about (1, 2, 3), from 10 to 40 degrees high."""
    azimuth = torch.deg2rad(torch.linspace(start, end, count))
    elevation = torch.deg2rad(torch.linspace(10, 40, count))
    level = torch.stack((azimuth.cos(), azimuth.sin()), -1) * elevation.cos()[:, None]
    middle = torch.tensor([1.0, 2.0, 3.0])
    return _cameras(middle + 4 * torch.cat((level, elevation.sin()[:, None]), -1), middle)


def _info(train: Cameras, world_transform: torch.Tensor | None = None) -> SceneInfo:
    return SceneInfo(
        name="toy",
        source="builtin:still",
        format="builtin",
        downscale=1,
        cameras={"train": train},
        bounds=Bounds(torch.full((3,), -1.0), torch.ones(3)),
        background="white",
        world_transform=torch.eye(4, dtype=torch.float64) if world_transform is None else world_transform,
    )


def _azimuth_of(orbit: dict[str, Any], position: torch.Tensor) -> float:
    """Degrees, by the formula that the orbit's docstring gives."""
    target, up, east = (torch.tensor(orbit[name], dtype=torch.float64) for name in ("target", "up", "east"))
    offset = position.double() - target
    return math.degrees(math.atan2(offset @ torch.linalg.cross(up, east), offset @ east))


def test_cameras_all_round_turn_freely() -> None:
    cameras = _ring(0, 350)
    orbit = orbit_of(_info(cameras), cameras[0])
    assert orbit["target"] == pytest.approx([1, 2, 3], abs=1e-4)
    assert orbit["up"] == pytest.approx([0, 0, 1], abs=1e-4)
    assert orbit["azimuth"] is None
    assert orbit["elevation"] == pytest.approx([10, 40], abs=0.01)
    assert orbit["distance"] == pytest.approx([4 * factor for factor in DISTANCES], abs=1e-3)


def test_an_arc_is_not_left_and_holds_every_camera() -> None:
    cameras = _ring(100, 220)
    orbit = orbit_of(_info(cameras), cameras[3])
    low, high = orbit["azimuth"]
    assert high - low == pytest.approx(120, abs=0.1)
    first, last = (_azimuth_of(orbit, cameras.positions[number]) for number in (0, -1))
    assert math.remainder(first - low, 360) == pytest.approx(0, abs=0.1)
    assert math.remainder(last - high, 360) == pytest.approx(0, abs=0.1)


def test_the_start_is_within_the_limits_though_nobody_trained_on_it() -> None:
    start = _cameras(torch.tensor([[1.0, 2.0, 3.0 + 6.0 * math.sin(1.2)]]) + torch.tensor([[6 * math.cos(1.2), 0, 0]]),
                     torch.tensor([[1.0, 2.0, 3.0]]))  # fmt: skip
    start = replace(start, times=torch.tensor([0.5]))
    orbit = orbit_of(_info(_ring(0, 350)), start)
    assert orbit["elevation"][1] == pytest.approx(math.degrees(1.2), abs=0.01)
    assert orbit["distance"][1] == pytest.approx(6 * DISTANCES[1], abs=0.01)


def test_cameras_that_face_one_way_have_a_small_window() -> None:
    eyes = torch.tensor([[x, 0.0, z] for x in (-0.2, 0.0, 0.2) for z in (-0.1, 0.1)])
    cameras = _cameras(eyes, torch.tensor([[0.0, 100.0, 0.0]]))
    orbit = orbit_of(_info(cameras), cameras[0])
    assert orbit["target"][1] > 2
    low, high = orbit["azimuth"]
    assert 0 < high - low < 30
    one = orbit_of(_info(cameras[:1]), cameras[0])
    for name in ("azimuth", "elevation"):
        assert one[name][1] - one[name][0] == pytest.approx(math.degrees(2 * SMALLEST_SWING))


def test_all_is_told_in_units_of_the_capture() -> None:
    turn = look_at(torch.tensor([[1.0, 2.0, 0.5]]), torch.zeros(1, 3), UP[None])[0, :, :3]
    transform = similarity(0.25, turn, torch.tensor([0.3, -0.2, 0.1]))
    cameras = _ring(100, 220)
    inside = orbit_of(_info(cameras), cameras[0])
    info = _info(cameras, transform)
    orbit = orbit_of(info, cameras[0])
    back = info.to_capture
    target = torch.tensor([*inside["target"], 1.0], dtype=torch.float64)
    assert orbit["target"] == pytest.approx((back @ target)[:3].tolist(), abs=1e-6)
    assert orbit["distance"] == pytest.approx([4 * value for value in inside["distance"]])
    assert orbit["azimuth"] == pytest.approx(inside["azimuth"])
    captured = cameras.transformed(back)
    assert _azimuth_of(orbit, captured.positions[5]) == pytest.approx(
        _azimuth_of(inside, cameras.positions[5]), abs=1e-3
    )
