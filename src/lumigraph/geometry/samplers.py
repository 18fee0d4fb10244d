"""Random cameras from which a teacher is asked for pseudo views.

Each sampler is a pure function of its arguments; camera k does not depend on how many are asked for, so more can be
asked for later. Intrinsics, lens and size are the template's (the first of ``cameras`` unless given), as are time and
attributes, for which see `geometry/moments.py`; ids are -1.
"""

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from lumigraph.errors import LumigraphError
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.fitting import average_pose, fit_placement
from lumigraph.geometry.rotations import interpolate_rotations, look_along, look_at, unit
from lumigraph.geometry.trajectories import place

_NUMBERS = 8
"""Random numbers that belong to a camera, of which no sampler needs more than seven."""
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
    sampled = place(cameras, look_at(eyes, placement.focus, placement.up), template)
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
    return place(cameras, look_at(eyes, placement.focus, placement.up), template)


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
    return place(cameras, look_at(eyes, placement.focus + scatter, placement.up), template)


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
    return place(cameras, poses, template)


def sample_between(n: int, seed: int, cameras: Cameras, template: Cameras | None = None) -> Cameras:
    """Poses between two captured ones, as DyLiN asks HyperNeRF (Yu et al. 2023, ``gen_pseudo_data_hypernerf.py``).

    Of two distinct cameras, drawn evenly, positions are blended and rotations turned along the shortest arc, both by
    the same fraction, uniform in [0, 1).
    """
    if len(cameras) < 2:
        raise LumigraphError(
            "there is nothing between fewer than two cameras",
            todo="Choose --poses fitted, or take more photos",
        )
    draws = _uniform(n, seed, cameras)
    first = (draws[:, 0] * len(cameras)).long()
    second = (first + 1 + (draws[:, 1] * (len(cameras) - 1)).long()) % len(cameras)
    poses, fraction = cameras.camera_to_world.double(), draws[:, 2]
    turned = interpolate_rotations(poses[first, :, :3], poses[second, :, :3], fraction)
    positions = torch.lerp(poses[first, :, 3], poses[second, :, 3], fraction[:, None])
    return place(cameras, torch.cat((turned, positions[..., None]), dim=-1), template)


def _uniform(n: int, seed: int, cameras: Cameras) -> Tensor:
    """Uniform draws in (0, 1), one row per camera."""
    if n < 1:
        raise LumigraphError(f"cannot sample {n} views", todo="Ask for at least one view")
    generator = np.random.Generator(np.random.Philox(seed))
    draws = generator.random((n, _NUMBERS)).clip(1e-12, 1.0 - 1e-12)
    return torch.from_numpy(draws).to(cameras.device)


def _normal(uniform: Tensor) -> Tensor:
    return torch.special.ndtri(uniform)


def _between(interval: tuple[float, float], uniform: Tensor) -> Tensor:
    return interval[0] + (interval[1] - interval[0]) * uniform


def _in_box(values: Tensor, uniform: Tensor) -> Tensor:
    low, high = values.amin(0), values.amax(0)
    centre, half = 0.5 * (low + high), 0.5 * _BOX_GROWTH * (high - low)
    return centre + half * (2.0 * uniform - 1.0)
