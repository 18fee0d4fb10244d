"""Camera paths for movies, fitted to the cameras of a capture.

Every path returns cameras with the intrinsics, lens and size of a template camera (the first of the capture unless
another is given), its time and attributes, ids -1 (no captured image belongs to them), and near and far wide enough for
the whole capture.
"""

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from lumigraph.errors import LumigraphError
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.fitting import Placement, fit_placement
from lumigraph.geometry.rotations import interpolate_rotations, look_along, look_at, unit

_SMALLEST_SWAY = 0.02
_HIGHEST_ELEVATION = math.radians(80.0)


def place(cameras: Cameras, poses: Float[Tensor, "n 3 4"], template: Cameras | None = None) -> Cameras:
    """Invented cameras at ``poses`` with the template's intrinsics; see the module's first lines."""
    template = cameras[:1] if template is None else template[:1]
    if len(template) == 0:
        raise LumigraphError("a path needs a camera to take its intrinsics from")
    copies = template[torch.zeros(len(poses), dtype=torch.int64, device=template.device)]
    return replace(
        copies,
        camera_to_world=poses.to(copies.camera_to_world),
        ids=torch.full_like(copies.ids, -1),
        near=cameras.near.min().expand(len(poses)).clone(),
        far=cameras.far.max().expand(len(poses)).clone(),
    )


def orbit(
    cameras: Cameras,
    frames: int,
    elevation: float | int | None = None,
    radius: float | int | None = None,
    turns: float | int = 1.0,
    template: Cameras | None = None,
) -> Cameras:
    """A turn-table around what the cameras look at.

    elevation: degrees above the horizon; radius: scene units; both the mean of the captured cameras unless given. Where
    the capture does not go all the way round, the path swings over the part that was seen and back, so that it shows
    nothing unseen. Where all cameras face one way and neither is given, it is a circle in the plane of the cameras,
    looking at a fixed point.
    """
    placement = fit_placement(cameras)
    phase = _phase(frames, cameras.device)
    if not placement.inward and (elevation is None and radius is None):
        return place(cameras, _circle(cameras, placement, turns * phase, depth_rate=0.0), template)
    azimuth = _azimuths(placement, phase, turns)
    height = placement.mean_elevation if elevation is None else math.radians(elevation)
    distance = placement.mean_radius if radius is None else radius
    eyes = placement.position(azimuth, torch.full_like(azimuth, height), torch.full_like(azimuth, distance))
    return place(cameras, look_at(eyes, placement.focus, placement.up), template)


def spiral(
    cameras: Cameras, frames: int, turns: float | int = 2.0, template: Cameras | None = None
) -> Cameras:
    """A path that also rises and sinks, closed after an integer number of turns.

    Inward captures: a turn-table whose elevation goes once from near the lowest captured to near the highest and back.
    Cameras that face one way: the spiral of LLFF (Mildenhall et al. 2019): an ellipse of the 90th percentile of the
    captured offsets, moving in depth at half the rate, looking at a fixed point.
    """
    placement = fit_placement(cameras)
    phase = _phase(frames, cameras.device)
    if not placement.inward:
        return place(cameras, _circle(cameras, placement, turns * phase, depth_rate=0.5), template)
    low, high = placement.elevation
    share = 0.1 + 0.8 * (0.5 - 0.5 * torch.cos(2.0 * math.pi * phase))
    height = (low + (high - low) * share).clamp(max=_HIGHEST_ELEVATION)
    azimuth = _azimuths(placement, phase, turns)
    eyes = placement.position(azimuth, height, torch.full_like(azimuth, placement.mean_radius))
    return place(cameras, look_at(eyes, placement.focus, placement.up), template)


def cameras_path(cameras: Cameras, frames: int, loop: bool = False) -> Cameras:
    """A smooth path through the given cameras in their order, evenly many frames between each two.

    Positions by Catmull-Rom splines, rotations along the shortest arc; focal lengths, times and attributes linearly.
    Without ``loop`` the first and the last frame are the first and the last camera.
    """
    count = len(cameras)
    if count == 0:
        raise LumigraphError("a path through cameras needs at least one camera")
    _check_frames(frames)
    steps = count if loop else count - 1
    place_on_path = torch.arange(frames, dtype=torch.float64, device=cameras.device)
    place_on_path = place_on_path * (steps / max(frames if loop else frames - 1, 1))
    segment = place_on_path.floor().clamp(max=max(steps - 1, 0)).long()
    fraction = place_on_path - segment
    numbers = [segment + offset for offset in (-1, 0, 1, 2)]
    before, first, second, after = (n % count if loop else n.clamp(0, count - 1) for n in numbers)
    rotations = cameras.camera_to_world[:, :, :3].double()
    positions = cameras.positions.double()
    turned = interpolate_rotations(rotations[first], rotations[second], fraction)
    knots = positions[before], positions[first], positions[second], positions[after]
    moved = _catmull_rom(*knots, t=fraction[:, None])
    path = place(cameras, torch.cat((turned, moved[:, :, None]), dim=-1))

    def blend(values: Tensor) -> Tensor:
        weight = fraction.reshape(-1, *[1] * (values.ndim - 1))
        return torch.lerp(values[first].double(), values[second].double(), weight).to(values.dtype)

    width, height = cameras.size[0].tolist()
    focal = blend(cameras.resized(width, height).focal)
    times = None if cameras.times is None else blend(cameras.times)
    attributes = None if cameras.attributes is None else blend(cameras.attributes)
    return replace(path, focal=focal, times=times, attributes=attributes)


def average_pose(cameras: Cameras, placement: Placement) -> Float[Tensor, "3 4"]:
    """The mean position with the mean viewing direction, level (float64)."""
    forward = unit(cameras.forwards.double().mean(0), cameras.forwards[0].double())
    return look_along(cameras.positions.double().mean(0), forward, placement.up)


def _circle(cameras: Cameras, placement: Placement, turns: Tensor, depth_rate: float) -> Tensor:
    """Poses on an ellipse about the average pose, all looking at the focus."""
    angle = 2.0 * math.pi * turns
    pose = average_pose(cameras, placement)
    local = (cameras.positions.double() - pose[:, 3]) @ pose[:, :3]
    smallest = _SMALLEST_SWAY * placement.mean_radius
    sway = torch.quantile(local.abs(), 0.9, dim=0)
    sway = torch.cat((sway[:2].clamp(min=smallest), sway[2:]))
    offsets = torch.stack((torch.cos(angle), torch.sin(angle), torch.sin(depth_rate * angle)), dim=-1) * sway
    return look_at(pose[:, 3] + offsets @ pose[:, :3].T, placement.focus, placement.up)


def _azimuths(placement: Placement, phase: Tensor, turns: float | int) -> Tensor:
    """All the way round, or to and fro over what the cameras covered."""
    start, end = placement.azimuth
    if placement.full_circle:
        return start + 2.0 * math.pi * turns * phase
    swing = 0.5 - 0.5 * torch.cos(2.0 * math.pi * turns * phase)
    return start + (end - start) * (0.05 + 0.9 * swing)


def _phase(frames: int, device: torch.device) -> Tensor:
    """``frames`` numbers from 0 up to, without, 1: the movie loops without a doubled frame."""
    _check_frames(frames)
    return torch.arange(frames, dtype=torch.float64, device=device) / frames


def _check_frames(frames: int) -> None:
    if frames < 1:
        raise LumigraphError(f"a path of {frames} frames is empty", todo="Ask for at least one frame")


def _catmull_rom(before: Tensor, first: Tensor, second: Tensor, after: Tensor, t: Tensor) -> Tensor:
    """The cubic through ``first`` (t = 0) and ``second`` (t = 1) with slopes from the neighbours."""
    linear = second - before
    quadratic = 2.0 * before - 5.0 * first + 4.0 * second - after
    cubic = 3.0 * (first - second) + after - before
    return first + 0.5 * t * (linear + t * (quadratic + t * cubic))
