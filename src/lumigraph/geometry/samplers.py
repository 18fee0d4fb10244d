"""Random cameras from which a teacher is asked for pseudo views.

Each sampler is a pure function of its arguments; camera k does not depend on how many are asked for, so more can be
asked for later. Intrinsics, lens and size are the template's (the first of ``cameras`` unless given), ids are -1; in
moving or controllable scenes times and attributes are uniform over the range of the captured ones.
"""

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from lumigraph.errors import LumigraphError
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.fitting import average_pose, fit_placement
from lumigraph.geometry.rotations import look_along, look_at, unit
from lumigraph.geometry.trajectories import place

_POSE_NUMBERS = 7
_BOX_GROWTH = 1.1
_AZIMUTH_LIMIT = math.radians(178.0)
_AIM_LIMIT = 2.0


def sample_r2l(
    n: int,
    seed: int,
    cameras: Cameras,
    template: Cameras | None = None,
    zoom: tuple[float | int, float | int] = (1.0, 2.0),
) -> Cameras:
    """R2L's random poses (Wang et al. 2022, ``load_blender.py`` and ``load_llff.py`` of its code).

    Inward scenes: azimuth uniform over the circle, elevation uniform in [0, 90] degrees, distance the captured mean,
    looking at the fitted centre; focal length times a factor uniform in ``zoom``. Cameras facing forward: see
    `sample_box`, no zoom.
    """
    placement = fit_placement(cameras)
    if not placement.inward:
        return sample_box(n, seed, cameras, template)
    if not 0.0 < zoom[0] <= zoom[1]:
        raise LumigraphError(f"zoom {zoom} must be two positive numbers in rising order")
    draws = _uniform(n, seed, cameras)
    azimuth = math.pi * (2.0 * draws[:, 0] - 1.0)
    elevation = 0.5 * math.pi * draws[:, 1]
    eyes = placement.position(azimuth, elevation, torch.full_like(azimuth, placement.mean_radius))
    sampled = _finish(cameras, look_at(eyes, placement.focus, placement.up), template, draws)
    factor = zoom[0] + (zoom[1] - zoom[0]) * draws[:, 2]
    return replace(sampled, focal=(sampled.focal * factor[:, None]).to(sampled.focal.dtype))


def sample_mobile(
    n: int,
    seed: int,
    cameras: Cameras,
    template: Cameras | None = None,
    polar_degrees: tuple[float | int, float | int] | None = (1.0, 90.0),
) -> Cameras:
    """MobileR2L's random poses (Cao et al. 2023, ``ngp/datasets/ray_utils.py`` of its code).

    Inward scenes: the angle from straight up is normal about the middle of ``polar_degrees`` (None: of the captured
    range) with half its width as deviation, drawn once more uniformly where it falls outside; azimuth uniform in +-178
    degrees; distance uniform over the captured range; looking at the fitted centre. Cameras facing forward: see
    `sample_box`.
    """
    placement = fit_placement(cameras)
    if not placement.inward:
        return sample_box(n, seed, cameras, template)
    if polar_degrees is None:
        low, high = (0.5 * math.pi - value for value in reversed(placement.elevation))
    else:
        low, high = (math.radians(value) for value in polar_degrees)
    if not 0.0 <= low <= high <= math.pi:
        raise LumigraphError(f"polar angles {polar_degrees} must rise within 0 and 180 degrees")
    draws = _uniform(n, seed, cameras)
    polar = 0.5 * (low + high) + 0.5 * (high - low) * _normal(draws[:, 0])
    polar = torch.where((polar < low) | (polar > high), low + (high - low) * draws[:, 1], polar)
    azimuth = _AZIMUTH_LIMIT * (2.0 * draws[:, 2] - 1.0)
    eyes = placement.position(azimuth, 0.5 * math.pi - polar, _between(placement.radius, draws[:, 3]))
    return _finish(cameras, look_at(eyes, placement.focus, placement.up), template, draws)


def sample_fitted(n: int, seed: int, cameras: Cameras, template: Cameras | None = None) -> Cameras:
    """Poses like the captured ones, so that the teacher is asked only for what it has seen.

    Inward scenes: azimuth uniform over the captured arc (the circle where it is nearly closed), uniform by area over
    the captured elevations, distance uniform over the captured range; looking at the fitted centre with the captured
    scatter (normal, cut at two deviations). Cameras facing forward: see `sample_box`.
    """
    placement = fit_placement(cameras)
    if not placement.inward:
        return sample_box(n, seed, cameras, template)
    draws = _uniform(n, seed, cameras)
    start, end = placement.azimuth
    azimuth = _between((start, start + 2.0 * math.pi if placement.full_circle else end), draws[:, 0])
    sines = (math.sin(placement.elevation[0]), math.sin(placement.elevation[1]))
    elevation = torch.asin(_between(sines, draws[:, 1]).clamp(-1.0, 1.0))
    eyes = placement.position(azimuth, elevation, _between(placement.radius, draws[:, 2]))
    scatter = _normal(draws[:, 3:6]).clamp(-_AIM_LIMIT, _AIM_LIMIT) * placement.aim_spread
    return _finish(cameras, look_at(eyes, placement.focus + scatter, placement.up), template, draws)


def sample_box(n: int, seed: int, cameras: Cameras, template: Cameras | None = None) -> Cameras:
    """Position and viewing axis uniform in boxes, for cameras that face forward (R2L and MobileR2L alike).

    The boxes are the axis-aligned bounds of the captured positions and axes in the frame of the average pose, grown by
    a tenth about their middles; up is the mean of the captured upward axes. The focal length is the captured one.
    """
    draws = _uniform(n, seed, cameras)
    pose = average_pose(cameras)
    positions = _in_box((cameras.positions.double() - pose[:, 3]) @ pose[:, :3], draws[:, 0:3])
    axes = _in_box(cameras.forwards.double() @ pose[:, :3], draws[:, 3:6])
    ahead = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64, device=axes.device).expand_as(axes)
    eyes = positions @ pose[:, :3].T + pose[:, 3]
    up = unit(cameras.ups.double().mean(0), -pose[:, 1])
    poses = look_along(eyes, unit(axes, ahead) @ pose[:, :3].T, up)
    return _finish(cameras, poses, template, draws)


def _uniform(n: int, seed: int, cameras: Cameras) -> Tensor:
    """Uniform draws in (0, 1), one row per camera: of the pose, then of the time, then of the attributes."""
    if n < 1:
        raise LumigraphError(f"cannot sample {n} views", todo="Ask for at least one view")
    columns = _POSE_NUMBERS + 1 + (0 if cameras.attributes is None else cameras.attributes.shape[1])
    generator = np.random.Generator(np.random.Philox(seed))
    draws = generator.random((n, columns)).clip(1e-12, 1.0 - 1e-12)
    return torch.from_numpy(draws).to(cameras.device)


def _finish(cameras: Cameras, poses: Tensor, template: Cameras | None, draws: Tensor) -> Cameras:
    sampled = place(cameras, poses, template)
    times = attributes = None
    if cameras.times is not None:
        low, high = cameras.times.min(), cameras.times.max()
        times = (low + (high - low) * draws[:, _POSE_NUMBERS]).to(cameras.times.dtype)
    if cameras.attributes is not None:
        low, high = cameras.attributes.amin(0), cameras.attributes.amax(0)
        attributes = (low + (high - low) * draws[:, _POSE_NUMBERS + 1 :]).to(cameras.attributes.dtype)
    return replace(sampled, times=times, attributes=attributes)


def _normal(uniform: Tensor) -> Tensor:
    return torch.special.ndtri(uniform)


def _between(interval: tuple[float, float], uniform: Tensor) -> Tensor:
    return interval[0] + (interval[1] - interval[0]) * uniform


def _in_box(values: Tensor, uniform: Tensor) -> Tensor:
    low, high = values.amin(0), values.amax(0)
    centre, half = 0.5 * (low + high), 0.5 * _BOX_GROWTH * (high - low)
    return centre + half * (2.0 * uniform - 1.0)
