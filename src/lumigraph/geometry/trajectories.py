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
from lumigraph.geometry.fitting import Placement, average_pose, fit_placement
from lumigraph.geometry.ndc import ForwardFrame
from lumigraph.geometry.rotations import interpolate_rotations, look_at, unit

_SMALLEST_SWAY = 0.02
_HIGHEST_ELEVATION = math.radians(80.0)
_NO_MEAN = 0.05
"""Length of the mean viewing direction below which cameras look evenly all round, and have no middle one."""


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
        pose = average_pose(cameras)
        sway = _sway(cameras, pose, _SMALLEST_SWAY * placement.mean_radius)[:2]
        angle = 2.0 * math.pi * turns * phase
        offsets = torch.stack((torch.cos(angle), torch.sin(angle)), dim=-1) * sway
        eyes = pose[:, 3] + offsets @ pose[:, :2].T
        return place(cameras, look_at(eyes, placement.focus, placement.up), template)
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
    Cameras that face one way: see `llff_spiral`.
    """
    placement = fit_placement(cameras)
    if not placement.inward:
        return llff_spiral(cameras, frames, turns, template=template)
    phase = _phase(frames, cameras.device)
    low, high = placement.elevation
    share = 0.1 + 0.8 * (0.5 - 0.5 * torch.cos(2.0 * math.pi * phase))
    height = (low + (high - low) * share).clamp(max=_HIGHEST_ELEVATION)
    azimuth = _azimuths(placement, phase, turns)
    eyes = placement.position(azimuth, height, torch.full_like(azimuth, placement.mean_radius))
    return place(cameras, look_at(eyes, placement.focus, placement.up), template)


def llff_spiral(
    cameras: Cameras,
    frames: int,
    turns: float | int = 2.0,
    flat: bool = False,
    template: Cameras | None = None,
) -> Cameras:
    """The spiral of LLFF and nerf-pytorch (`render_path_spiral`) about the average of cameras that face forward.

    Offsets (cos a, -sin a, -sin(a / 2)) to the right, up and back, times the 90th percentiles of the captured ones,
    looking at one point: where disparity is a quarter that of the nearest depth and three quarters that of five times
    the farthest. `flat` (`path_zflat`): in a plane, a tenth of the nearest depth before the average camera.
    """
    pose = average_pose(cameras)
    nearest = max(float(cameras.near.min()), 1e-6)
    ahead = 1.0 / (0.25 / nearest + 0.75 / max(5.0 * float(cameras.far.max()), nearest))
    sway = _sway(cameras, pose, _SMALLEST_SWAY * ahead)
    angle = 2.0 * math.pi * turns * _phase(frames, cameras.device)
    if flat:
        pose = torch.cat((pose[:, :3], pose[:, 3:] + 0.1 * nearest * pose[:, 2:3]), dim=1)
        sway = sway * sway.new_tensor([1.0, 1.0, 0.0])
    up = unit(cameras.ups.double().mean(0), -pose[:, 1])
    return place(cameras, _spiralling(pose, angle, sway, ahead, up), template)


def nerf_pl_spiral(
    cameras: Cameras,
    frame: ForwardFrame,
    frames: int,
    turns: float | int = 2.0,
    template: Cameras | None = None,
) -> Cameras:
    """nerf_pl's approximation of that spiral (`create_spiral_poses`), about the average camera that the scene was put
    together with: whatever the depths, it looks at the point 3.5 near planes ahead."""
    pose = frame.camera_to_world.double().to(cameras.device)
    sway = _sway(cameras, pose, _SMALLEST_SWAY * frame.near)
    angle = 2.0 * math.pi * turns * _phase(frames, cameras.device)
    return place(cameras, _spiralling(pose, angle, sway, 3.5 * frame.near, -pose[:, 1]), template)


def nerf_pl_spherical(cameras: Cameras, frames: int, template: Cameras | None = None) -> Cameras:
    """nerf_pl's turn about an inward capture (`create_spheric_poses`): 36 degrees downwards, on a circle about the axis
    of the average camera, which looks down where photos were taken from above and all round.

    A camera is shifted (0, -0.9 r, r) (right, up, back), then tilted, then turned; r is 1.1 times the nearest depth.
    """
    if float(cameras.forwards.double().mean(0).norm()) < _NO_MEAN:
        raise LumigraphError(
            "the cameras look evenly all round: there is no axis for a spherical path",
            todo="Choose --path orbit",
        )
    pose = average_pose(cameras)
    world = torch.stack((pose[:, 0], -pose[:, 1], -pose[:, 2]), dim=1)  # its axes right, up, back
    radius, tilt = 1.1 * float(cameras.near.min()), -math.pi / 5
    turn = 2.0 * math.pi * _phase(frames, cameras.device)
    cosine, sine, zero, one = turn.cos(), turn.sin(), torch.zeros_like(turn), torch.ones_like(turn)
    # The last step swaps y and z, which makes the axis of the turn the average camera's.
    rows = ((-cosine, zero, sine), (sine, zero, cosine), (zero, one, zero))
    turned = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    c, s = math.cos(tilt), math.sin(tilt)
    tilted = turned @ turn.new_tensor([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])
    shift = turn.new_tensor([0.0, -0.9 * radius, radius])
    rotation = world @ tilted * turn.new_tensor([1.0, -1.0, -1.0])
    position = pose[:, 3] + (world @ tilted @ shift[:, None])[..., 0]
    return place(cameras, torch.cat((rotation, position[..., None]), dim=-1), template)


def ellipse(cameras: Cameras, frames: int, template: Cameras | None = None) -> Cameras:
    """The path of multinerf around an inward capture (`generate_ellipse_path`): a level ellipse at the mean height that
    the captured cameras are spread along, with even speed, looking at the point nearest to their axes.

    Level is the plane that they are spread in most; its half axes are the 90th percentiles of their distances from the
    centre along the two main directions.
    """
    placement = fit_placement(cameras)
    if not placement.inward:
        raise LumigraphError(
            "the cameras face one way: there is nothing to go around", todo="Choose --path spiral"
        )
    positions = cameras.positions.double()
    middle = positions.mean(0)
    _, axes = torch.linalg.eigh((positions - middle).T @ (positions - middle))
    normal = axes[:, 0] * math.copysign(1.0, float(axes[:, 0] @ placement.up))
    main = axes[:, 2]
    frame = torch.stack((main, torch.linalg.cross(normal, main), normal), dim=1)
    centre = (placement.focus - middle) @ frame * middle.new_tensor([1.0, 1.0, 0.0])
    half = torch.quantile(((positions - middle) @ frame - centre).abs(), 0.9, dim=0)
    half = half.clamp(min=_SMALLEST_SWAY * placement.mean_radius)
    angle = _even_angles(half[:2], frames)
    local = torch.stack((half[0] * angle.cos(), half[1] * angle.sin(), torch.zeros_like(angle)), dim=-1)
    return place(cameras, look_at(middle + (centre + local) @ frame.T, placement.focus, normal), template)


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
        start, end = values[first].double(), values[second].double()
        # Where there is nothing of the end, an unknown end is no matter.
        return torch.where(weight == 0, start, torch.lerp(start, end, weight)).to(values.dtype)

    width, height = cameras.size[0].tolist()
    focal = blend(cameras.resized(width, height).focal)
    times = None if cameras.times is None else blend(cameras.times)
    attributes = None if cameras.attributes is None else blend(cameras.attributes)
    return replace(path, focal=focal, times=times, attributes=attributes)


def _sway(cameras: Cameras, pose: Float[Tensor, "3 4"], smallest: float) -> Float[Tensor, "3"]:
    """The 90th percentile of how far the cameras are from `pose` along each of its axes; at least `smallest` in its
    plane, so that a path of cameras in one place still moves."""
    local = (cameras.positions.double() - pose[:, 3]) @ pose[:, :3]
    sway = torch.quantile(local.abs(), 0.9, dim=0)
    return torch.cat((sway[:2].clamp(min=smallest), sway[2:]))


def _spiralling(
    pose: Float[Tensor, "3 4"],
    angle: Float[Tensor, " n"],
    sway: Float[Tensor, "3"],
    ahead: float,
    up: Float[Tensor, "3"],
) -> Float[Tensor, "n 3 4"]:
    """Poses about `pose` that move along its axis at half the rate, looking at the point `ahead` of it."""
    # In OpenCV's axes (right, down, forward) the published signs of up and back turn.
    offsets = torch.stack((torch.cos(angle), torch.sin(angle), torch.sin(0.5 * angle)), dim=-1) * sway
    return look_at(pose[:, 3] + offsets @ pose[:, :3].T, pose[:, 3] + ahead * pose[:, 2], up)


def _even_angles(half: Float[Tensor, "2"], frames: int) -> Float[Tensor, " n"]:
    """Angles of an ellipse with these half axes between which its arcs have one length."""
    _check_frames(frames)
    angle = torch.linspace(0.0, 2.0 * math.pi, 16 * frames + 257, dtype=torch.float64, device=half.device)
    points = torch.stack((half[0] * angle.cos(), half[1] * angle.sin()), dim=-1)
    length = torch.nn.functional.pad((points[1:] - points[:-1]).norm(dim=-1).cumsum(0), (1, 0))
    wanted = length[-1] * _phase(frames, half.device)
    after = torch.searchsorted(length, wanted, right=True).clamp(max=len(angle) - 1)
    share = (wanted - length[after - 1]) / (length[after] - length[after - 1])
    return torch.lerp(angle[after - 1], angle[after], share)


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
