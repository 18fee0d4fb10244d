"""What makes the tensors of cameras usable, said in one place for readers, run folders and shards."""

import math
from typing import Any

import torch
from torch import Tensor

from lumigraph.errors import LumigraphError

_TAILS = {
    "camera_to_world": (3, 4),
    "focal": (2,),
    "principal": (2,),
    "size": (2,),
    "near": (),
    "far": (),
    "distortion": (6,),
    "ids": (),
    "times": (),
    "attributes": (None,),
    "devices": (),
}
_ROTATION_TOLERANCE = 1e-3
LARGEST_SIDE = 65536


def check_cameras(tensors: dict[str, Tensor], where: str | None) -> None:
    """Raise LumigraphError naming the first camera and quantity that cannot be used.

    Shapes agree; all values are finite, but attributes may be NaN, which is unknown; rotations are orthonormal and
    right-handed; focal lengths and sizes are positive; 0 <= near < far; times lie in [0, 1], attributes in [-1, 1].
    """
    count = tensors["camera_to_world"].shape[0] if tensors["camera_to_world"].ndim else 0
    for name, value in tensors.items():
        _check_shape(name, value, count, where)
        usable = ~torch.isinf(value) if name == "attributes" else torch.isfinite(value)
        _check_all(usable, f"{name} is not finite", where)
    rotation = tensors["camera_to_world"][:, :, :3].double()
    identity = torch.eye(3, device=rotation.device, dtype=rotation.dtype)
    orthonormal = (rotation.transpose(1, 2) @ rotation - identity).abs() < _ROTATION_TOLERANCE
    _check_all(orthonormal, "the rotation of camera_to_world is not orthonormal", where)
    right_handed = torch.linalg.det(rotation) > 0
    _check_all(right_handed, "the rotation of camera_to_world is a reflection (left-handed)", where)
    _check_all(tensors["focal"] > 0, "the focal length is not positive", where)
    sane_size = (tensors["size"] > 0) & (tensors["size"] <= LARGEST_SIDE)
    _check_all(sane_size, f"the image size is not between 1 and {LARGEST_SIDE}", where)
    _check_all(tensors["near"] >= 0, "near is negative", where)
    _check_all(tensors["far"] > tensors["near"], "far is not beyond near", where)
    if "times" in tensors:
        times = tensors["times"]
        _check_all((times >= 0) & (times <= 1), "the time is not in [0, 1]", where)
    if "attributes" in tensors:
        values = tensors["attributes"]
        _check_all(~(values.abs() > 1), "an attribute is not in [-1, 1]", where)


def tensor_from_json(name: str, value: Any, integer: bool, where: str | None) -> Tensor:
    """A tensor from nested lists of numbers; anything else raises LumigraphError. None among attributes is NaN."""
    try:
        if name == "attributes":
            value = [[math.nan if cell is None else cell for cell in row] for row in value]
        tensor = torch.tensor(value, dtype=torch.int64 if integer else torch.float32)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise LumigraphError(f"{name} of the cameras is not an array of numbers", where=where) from error
    tail = _TAILS.get(name)
    if tail is not None and tensor.numel() == 0 and tensor.ndim == 1:
        tensor = tensor.reshape(0, *(0 if side is None else side for side in tail))
    return tensor


def _check_shape(name: str, value: Tensor, count: int, where: str | None) -> None:
    tail = _TAILS[name]
    fits = value.ndim == 1 + len(tail) and value.shape[0] == count
    if not fits or any(side not in (None, got) for side, got in zip(tail, value.shape[1:], strict=True)):
        expected = " x ".join(["N", *("A" if side is None else str(side) for side in tail)])
        what = f"{name} of the cameras has shape {list(value.shape)} instead of {expected}"
        raise LumigraphError(what, where=where)


def _check_all(good: Tensor, what: str, where: str | None) -> None:
    per_camera = good if good.ndim == 1 else good.flatten(1).all(1)
    if not bool(per_camera.all()):
        bad = torch.nonzero(~per_camera).flatten()
        count = f"{len(bad)} of {len(per_camera)} cameras"
        raise LumigraphError(f"{what} for camera number {int(bad[0])} ({count})", where=where)
