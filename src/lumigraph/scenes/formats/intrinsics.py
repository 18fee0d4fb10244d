"""Lens and sensor of a frame from the keys that Blender, instant-ngp and nerfstudio files use."""

import math
from dataclasses import dataclass, replace

from lumigraph.errors import LumigraphError
from lumigraph.geometry.conventions import focal_from_angle
from lumigraph.scenes.formats.fields import Fields

FOCAL_KEYS = ("fl_x", "fl_y", "fx", "fy", "camera_angle_x", "camera_angle_y")
DISTORTION_KEYS = ("k1", "k2", "k3", "k4", "p1", "p2")
_PERSPECTIVE = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV")
_FISHEYE = ("OPENCV_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE")
# Width and height of an image may be rounded when it is scaled: this much the two factors may differ.
_SHAPE_TOLERANCE = 0.02


@dataclass(frozen=True)
class Intrinsics:
    """Pixels of an image of `size` (width, height): focal lengths, principal point, and k1 k2 k3 k4 p1 p2."""

    size: tuple[int, int]
    focal: tuple[float, float]
    principal: tuple[float, float]
    distortion: tuple[float, ...]
    fisheye: bool


def own_intrinsics(frame: Fields) -> bool:
    """Whether a frame has a lens of its own, so that its image may differ in size from the others."""
    return any(key in frame for key in (*FOCAL_KEYS, "w", "h"))


def read_intrinsics(frame: Fields, common: Fields, size: tuple[int, int]) -> Intrinsics:
    """The intrinsics of a frame, whose own keys go before the common ones, for its image of `size`.

    Where the file declares another size (`w`, `h`) than the image has, the intrinsics are scaled to the image.

    Raises:
        LumigraphError: a value is missing or out of range, the camera model is not supported, or the image has
            another shape than declared.
    """
    width, height = _declared_size(frame, common, size)
    focal_x, focal_y = _focal(frame, common, width, height)
    result = Intrinsics(
        size=(width, height),
        focal=(focal_x, focal_y),
        principal=(_value(frame, common, "cx", width / 2), _value(frame, common, "cy", height / 2)),
        distortion=tuple(_value(frame, common, key, 0.0) for key in DISTORTION_KEYS),
        fisheye=_is_fisheye(frame, common),
    )
    todo = "Correct 'w' and 'h', or use the images that the file was made for"
    return scaled(result, size, frame.where, todo)


def _holder(frame: Fields, common: Fields, key: str) -> Fields | None:
    return frame if key in frame else common if key in common else None


def _value(frame: Fields, common: Fields, key: str, default: float) -> float:
    holder = _holder(frame, common, key)
    return default if holder is None else holder.number(key)


def _declared_size(frame: Fields, common: Fields, size: tuple[int, int]) -> tuple[int, int]:
    width, height = _holder(frame, common, "w"), _holder(frame, common, "h")
    if width is None or height is None:
        return size
    return max(1, round(width.number("w", positive=True))), max(1, round(height.number("h", positive=True)))


def _focal(frame: Fields, common: Fields, width: int, height: int) -> tuple[float, float]:
    """Focal lengths x and y; pixels are square where only one is given. Lengths go before angles, which are derived."""
    holder = frame if any(key in frame for key in FOCAL_KEYS) else common
    found = [holder.number(key, positive=True) for key in ("fl_x", "fl_y") if key in holder]
    if not found:  # Dense Depth Priors' names
        found = [holder.number(key, positive=True) for key in ("fx", "fy") if key in holder]
    if not found:
        sides = {"camera_angle_x": width, "camera_angle_y": height}
        found = [_focal_from_angle(holder, key, side) for key, side in sides.items() if key in holder]
    if not found:
        raise LumigraphError(
            "there is no focal length",
            where=frame.where,
            todo="Give 'camera_angle_x' in radians or 'fl_x' in pixels, for the file or for each frame",
        )
    return found[0], found[-1]


def _focal_from_angle(holder: Fields, key: str, side: int) -> float:
    angle = holder.number(key, positive=True)
    if not 1e-6 < angle < math.pi - 1e-6:
        raise holder.wrong(key, "a field of view in radians, between 0 and pi")
    return focal_from_angle(angle, side)


def _is_fisheye(frame: Fields, common: Fields) -> bool:
    holder = _holder(frame, common, "camera_model")
    if holder is None:
        return bool(frame.members.get("is_fisheye", common.members.get("is_fisheye")))
    model = holder.text("camera_model").upper()
    if model not in _PERSPECTIVE + _FISHEYE:
        raise holder.wrong(
            "camera_model",
            f"one of {', '.join(_PERSPECTIVE + _FISHEYE)}",
            todo="Undistort the images to a PINHOLE camera first",
        )
    return model in _FISHEYE


def scaled(declared: Intrinsics, size: tuple[int, int], where: str, todo: str) -> Intrinsics:
    """The same lens for an image of `size`, of the same shape as the declared one but for rounding.

    Raises LumigraphError, saying `todo`, when the image has another shape.
    """
    if size == declared.size:
        return declared
    x, y = size[0] / declared.size[0], size[1] / declared.size[1]
    if abs(x - y) > _SHAPE_TOLERANCE * max(x, y):
        raise LumigraphError(
            f"the image is {size[0]}x{size[1]} but {declared.size[0]}x{declared.size[1]} is declared, another shape",
            where=where,
            todo=todo,
        )
    return replace(
        declared,
        size=size,
        focal=(declared.focal[0] * x, declared.focal[1] * y),
        principal=(declared.principal[0] * x, declared.principal[1] * y),
    )
