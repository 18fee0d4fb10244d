"""How a player may move: a turn about what the captured cameras look at, within what they saw."""

import math
from dataclasses import replace
from typing import Any

from lumigraph.geometry.cameras import Cameras, concatenate
from lumigraph.geometry.conventions import split_similarity, transform_points
from lumigraph.geometry.fitting import fit_placement
from lumigraph.scenes.scene import SceneInfo

SMALLEST_SWING = math.radians(2.0)
"""To each side: where all cameras stand in one place, a player still moves enough to show that there is depth."""
DISTANCES = (0.8, 1.25)
"""How far a player may go beyond the nearest and the farthest camera, as factors."""
HIGHEST = math.radians(89.0)
"""Straight above, azimuths are all the same."""


def orbit_of(info: SceneInfo, start: Cameras) -> dict[str, Any]:
    """The manifest's `orbit`, in units of the capture and degrees, from the training cameras and the `start` camera of
    the player, scene units.

    A camera stands at `target` + distance (cos(elevation) (cos(azimuth) east + sin(azimuth) up x east) + sin(elevation)
    up). `azimuth` is null where the cameras go all the way round. Cameras that face one way orbit a point before
    them through a few degrees, which is a small window to look through.
    """
    placement = fit_placement(concatenate([_poses(info.cameras["train"]), _poses(start)]))
    azimuth = None if placement.full_circle else _widened(placement.azimuth)
    low, high = _widened(placement.elevation)
    scale, rotation, _ = split_similarity(info.to_capture)
    nearest, farthest = (
        factor * radius * scale for factor, radius in zip(DISTANCES, placement.radius, strict=True)
    )
    return {
        "target": transform_points(info.to_capture, placement.focus).tolist(),
        "up": (rotation @ placement.up).tolist(),
        "east": (rotation @ placement.east).tolist(),
        "azimuth": None if azimuth is None else [math.degrees(angle) for angle in azimuth],
        "elevation": [math.degrees(max(low, -HIGHEST)), math.degrees(min(high, HIGHEST))],
        "distance": [nearest, farthest],
        "units": "those of the capture, degrees",
    }


def _poses(cameras: Cameras) -> Cameras:
    """Without what cameras of different splits may differ in."""
    return replace(cameras, times=None, attributes=None, devices=None, fisheye=False)


def _widened(angles: tuple[float, float]) -> tuple[float, float]:
    middle = 0.5 * (angles[0] + angles[1])
    return min(angles[0], middle - SMALLEST_SWING), max(angles[1], middle + SMALLEST_SWING)
