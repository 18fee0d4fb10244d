"""Where on rays the points of a student lie: one answer for all students, from the bounds and the cameras of the scene
that their teacher has learnt, so that nothing is placed by hand."""

import math
from typing import NamedTuple

from lumigraph.configs.light_field import ScheduleConfig, StudentConfig
from lumigraph.errors import LumigraphError
from lumigraph.geometry.bounds import Bounds
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.ndc import ForwardFrame
from lumigraph.scenes.scene import SceneInfo


class RayExtent(NamedTuple):
    """Depths of the first and the last point of a ray, scene units; where there is a `frame`, in its normalised device
    coordinates."""

    near: float
    far: float
    frame: ForwardFrame | None


def ray_extent(config: StudentConfig, info: SceneInfo) -> RayExtent:
    """`near` and `far` are the config's, or as its `extent` says; 0 and 1 in normalised device coordinates.

    Raises:
        LumigraphError: normalised device coordinates are asked for and the scene has none, or nothing lies between
            near and far.
    """
    frame = ray_frame(config, info)
    near, far = 0.0, 1.0
    if frame is None:
        near, far = _extent(info.cameras["train"], info.bounds, config.extent)
    near = near if config.near is None else config.near
    far = far if config.far is None else config.far
    if not (math.isfinite(far) and 0 <= near < far):
        raise LumigraphError(
            f"a ray needs 0 <= near < far, and they are {near:g} and {far:g}",
            where=info.source,
            todo="Give them with --near and --far, in scene units",
        )
    return RayExtent(near, far, frame)


def ray_frame(config: ScheduleConfig, info: SceneInfo) -> ForwardFrame | None:
    """In whose normalised device coordinates rays are seen; None for the scene's.

    Raises:
        LumigraphError: they are asked for and the scene has none.
    """
    frame = info.forward if config.ray_space != "world" else None
    if config.ray_space == "ndc" and frame is None:
        raise LumigraphError(
            "this scene has no normalised device coordinates: it is not a forward-facing one",
            where=info.source,
            todo="Leave --ray-space out",
        )
    return frame


def _extent(cameras: Cameras, bounds: Bounds, extent: str) -> tuple[float, float]:
    near, far = float(cameras.near.min()), float(cameras.far.max())
    if extent == "cameras":
        return near, far
    distance = (cameras.camera_to_world[:, :, 3] - bounds.centre).norm(dim=1)
    radius = float(bounds.half_extent.max())
    return max(near, float(distance.min()) - radius), min(far, float(distance.max()) + radius)
