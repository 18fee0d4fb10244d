"""A batch of cameras, and the rays through their pixels.

Camera frame: OpenCV (x right, y down, z forward). Pixel centres lie at integer + 0.5. A ray's direction in the camera
frame is ((x + 0.5 - cx) / fx, (y + 0.5 - cy) / fy, 1), undistorted first where the lens distorts, never normalised.
"""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lumigraph.errors import LumigraphError
from lumigraph.geometry.camera_checks import check_cameras, tensor_from_json
from lumigraph.geometry.conventions import split_similarity, transform_poses
from lumigraph.geometry.distortion import distort, undistort_with_jacobian
from lumigraph.geometry.rays import PIXEL_RADIUS_FACTOR, Rays

_OPTIONAL = ("times", "attributes", "devices")
_INTEGER = ("size", "ids", "devices")
_SMALLEST_DEPTH = 1e-6


@dataclass(frozen=True)
class Cameras:
    """N cameras; tensors are float32 unless said otherwise and are never changed in place.

    camera_to_world: rotation columns (right, down, forward) and position, scene units.
    focal, principal: pixels. size: int64 (width, height). near, far: z-depth, scene units.
    distortion: k1 k2 k3 k4 p1 p2 (see `lumigraph.geometry.distortion`), all zero for none; fisheye: which model they
    belong to. times: share of the capture that has passed, 0 at its first moment and 1 at its last. ids: int64, number
    of the captured image the camera stands for, -1 for invented cameras. attributes: control values in [-1, 1], NaN
    where nobody has said. devices: int64, number of the camera of a rig that took the image; None where one took all of
    them, or nothing tells.
    """

    camera_to_world: Float[Tensor, "N 3 4"]
    focal: Float[Tensor, "N 2"]
    principal: Float[Tensor, "N 2"]
    size: Int[Tensor, "N 2"]
    near: Float[Tensor, "N"]
    far: Float[Tensor, "N"]
    distortion: Float[Tensor, "N 6"]
    ids: Int[Tensor, "N"]
    fisheye: bool = False
    times: Float[Tensor, "N"] | None = None
    attributes: Float[Tensor, "N A"] | None = None
    devices: Int[Tensor, "N"] | None = None

    def __len__(self) -> int:
        return self.camera_to_world.shape[0]

    def __getitem__(self, key: int | slice | Tensor) -> "Cameras":
        """Chosen cameras, always as a batch: an int gives a batch of one; a tensor holds numbers or a mask."""
        if not isinstance(key, slice) and not (isinstance(key, Tensor) and key.ndim > 0):
            key = operator.index(key)
            if not -len(self) <= key < len(self):
                raise IndexError(f"camera {key} of {len(self)}")
            key = slice(key % len(self), key % len(self) + 1)
        return replace(self, **{name: value[key] for name, value in self.tensors().items()})

    def to(self, device: torch.device | str) -> "Cameras":
        return replace(self, **{name: value.to(device) for name, value in self.tensors().items()})

    @property
    def device(self) -> torch.device:
        return self.camera_to_world.device

    @property
    def positions(self) -> Float[Tensor, "N 3"]:
        """Camera centres in the scene."""
        return self.camera_to_world[:, :, 3]

    @property
    def rights(self) -> Float[Tensor, "N 3"]:
        return self.camera_to_world[:, :, 0]

    @property
    def ups(self) -> Float[Tensor, "N 3"]:
        return -self.camera_to_world[:, :, 1]

    @property
    def forwards(self) -> Float[Tensor, "N 3"]:
        return self.camera_to_world[:, :, 2]

    @property
    def degrees_across(self) -> Float[Tensor, "N"]:
        """What each camera sees along the longer side of its picture, if its lens does not distort; of a fisheye, if it
        is equidistant."""
        across = (self.size / self.focal).amax(1)
        return torch.rad2deg(across if self.fisheye else 2 * torch.atan(across / 2))

    @cached_property
    def distorted(self) -> bool:
        """Whether any camera has lens distortion (a fisheye always has)."""
        return self.fisheye or bool(self.distortion.any())

    def downscale(self, factor: int) -> "Cameras":
        """Cameras of images area-filtered by ``factor`` after cropping right and bottom to a multiple of it."""
        if factor < 1 or bool((self.size < factor).any()):
            raise LumigraphError(
                f"cannot downscale images of {self.size.amin(0).tolist()} pixels (width, height) by {factor}",
                todo="Choose a --downscale between 1 and the smaller side",
            )
        size = torch.div(self.size, factor, rounding_mode="floor")
        return replace(self, size=size, focal=self.focal / factor, principal=self.principal / factor)

    def resized(self, width: int, height: int) -> "Cameras":
        """Cameras of the same field of view with ``width`` x ``height`` pixels."""
        if width < 1 or height < 1:
            raise LumigraphError(f"an image of {width} x {height} pixels is empty")
        size = torch.tensor([width, height], device=self.device).expand(len(self), 2).contiguous()
        scale = size.to(self.focal.dtype) / self.size
        return replace(self, size=size, focal=self.focal * scale, principal=self.principal * scale)

    def transformed(self, similarity: Float[Tensor, "4 4"]) -> "Cameras":
        """The same cameras after a similarity transform of the world; near and far scale with it."""
        scale, _, _ = split_similarity(similarity)
        poses = transform_poses(similarity, self.camera_to_world)
        return replace(self, camera_to_world=poses, near=self.near * scale, far=self.far * scale)

    def rays(
        self, index: Int[Tensor, "*#shape"], x: Int[Tensor, "*#shape"], y: Int[Tensor, "*#shape"]
    ) -> Rays:
        """Rays through the centres of the pixels (x, y), counted from the top left, of the cameras ``index``.

        The three tensors broadcast against each other; their common shape is the shape of the rays. Each ray depends on
        its own camera and pixel only, to the last bit. ``radii`` is 2/sqrt(12) times half the sum of the pixel's width
        and height at unit depth.
        """
        shape = torch.broadcast_shapes(index.shape, x.shape, y.shape)
        interval = torch.stack((self.near, self.far), dim=1)
        table = torch.cat((self.camera_to_world.flatten(1), self.focal, self.principal, interval), dim=1)
        # One gather for everything: many small ones cost several times as much.
        chosen = table.index_select(0, index.reshape(-1)).reshape(*index.shape, table.shape[1])
        pose, fx, fy, cx, cy, near, far = chosen[..., :12].unflatten(-1, (3, 4)), *chosen[..., 12:].unbind(-1)
        u = (x + 0.5 - cx) / fx
        v = (y + 0.5 - cy) / fy
        if self.distorted:
            u, v, radii = self._undistorted(index, u, v, fx, fy, shape)
        else:
            radii = (0.5 * PIXEL_RADIUS_FACTOR) * (1.0 / fx + 1.0 / fy)
        right, down, forward = pose[..., :3].unbind(-1)
        components = [right[..., i] * u + down[..., i] * v + forward[..., i] for i in range(3)]
        directions = torch.stack(components, dim=-1)
        return Rays(
            origins=_filled(pose[..., 3], *shape, 3),
            directions=_filled(directions, *shape, 3),
            radii=_filled(radii, *shape),
            near=_filled(near, *shape),
            far=_filled(far, *shape),
            times=None if self.times is None else _filled(self.times[index], *shape),
            camera_ids=_filled(self.ids[index], *shape),
            attributes=None if self.attributes is None else _filled(self.attributes[index], *shape, -1),
        )

    def _undistorted(
        self, index: Tensor, u: Tensor, v: Tensor, fx: Tensor, fy: Tensor, shape: torch.Size
    ) -> tuple[Tensor, Tensor, Tensor]:
        uv = torch.stack(torch.broadcast_tensors(u, v), dim=-1).expand(*shape, 2)
        uv, (a, b, c) = undistort_with_jacobian(uv, self.distortion[index], self.fisheye)
        # Its columns (a, b) and (b, c) are what a unit step of the distorted x and y becomes.
        radii = (0.5 * PIXEL_RADIUS_FACTOR) * (torch.hypot(a, b) / fx + torch.hypot(b, c) / fy)
        return uv[..., 0], uv[..., 1], radii

    def view_rays(self, camera: int) -> Rays:
        """All rays of one camera, shape [height, width]."""
        width, height = self[camera].size[0].tolist()
        device = self.device
        index = torch.full((1, 1), camera % len(self), device=device)
        columns, rows = torch.arange(width, device=device), torch.arange(height, device=device)
        return self.rays(index, columns[None, :], rows[:, None])

    def project(
        self, points: Float[Tensor, "*shape 3"], index: Int[Tensor, "*#shape"]
    ) -> tuple[Float[Tensor, "*shape 2"], Float[Tensor, "*shape"]]:
        """Image coordinates (pixel (x, y) has its centre at (x + 0.5, y + 0.5)) and z-depth of world points.

        Points at or behind the camera (depth <= 0) get finite coordinates without meaning.
        """
        poses = self.camera_to_world[index]
        local = ((points - poses[..., 3])[..., None, :] @ poses[..., :3]).squeeze(-2)
        depth = local[..., 2]
        xy = local[..., :2] / depth.clamp(min=_SMALLEST_DEPTH)[..., None]
        if self.distorted:
            xy = distort(xy, self.distortion[index], self.fisheye)
        return xy * self.focal[index] + self.principal[index], depth

    def check(self, where: str | None = None) -> "Cameras":
        """Return self when every value is usable; otherwise raise LumigraphError naming the camera and the quantity."""
        check_cameras(self.tensors(), where)
        return self

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, absent ones left out; `from_tensors` is the inverse (with the same ``fisheye``)."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "fisheye"}
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def from_tensors(
        cls, tensors: dict[str, Tensor], fisheye: bool = False, where: str | None = None
    ) -> "Cameras":
        """Build from named tensors; wrong names or shapes and unusable values raise LumigraphError."""
        known = {field.name for field in fields(cls)} - {"fisheye"}
        missing, unknown = known - set(_OPTIONAL) - set(tensors), set(tensors) - known
        if missing or unknown:
            what = f"cameras lack {sorted(missing)} and have unknown {sorted(unknown)}"
            raise LumigraphError(what, where=where)
        check_cameras(tensors, where)
        types = {name: torch.int64 if name in _INTEGER else torch.float32 for name in tensors}
        typed: dict[str, Any] = {name: value.to(types[name]) for name, value in tensors.items()}
        return cls(**typed, fisheye=fisheye)

    def to_json(self) -> dict[str, Any]:
        """Plain lists; float32 values survive the round trip bit for bit. Attributes that nobody has said are None."""
        data = {"fisheye": self.fisheye, **{name: value.tolist() for name, value in self.tensors().items()}}
        if self.attributes is not None:
            rows = self.attributes.tolist()
            data["attributes"] = [[None if math.isnan(cell) else cell for cell in row] for row in rows]
        return data

    @classmethod
    def from_json(cls, data: Any, where: str | None = None) -> "Cameras":
        """Inverse of `to_json`; anything else raises LumigraphError."""
        if not isinstance(data, dict) or not isinstance(data.get("fisheye"), bool):
            raise LumigraphError("cameras must be an object with the key 'fisheye'", where=where)
        tensors = {
            name: tensor_from_json(name, value, name in _INTEGER, where)
            for name, value in data.items()
            if name != "fisheye"
        }
        return cls.from_tensors(tensors, fisheye=data["fisheye"], where=where)


def finest_of_each(cameras: Cameras) -> Cameras:
    """The cameras without those of smaller pictures of the same photo, which share its id."""
    pixels, kept = cameras.size.prod(1).tolist(), {}
    for place, number in enumerate(cameras.ids.tolist()):
        key = number if number >= 0 else ("invented", place)
        if key not in kept or pixels[place] > pixels[kept[key]]:
            kept[key] = place
    return cameras[torch.tensor(sorted(kept.values()), dtype=torch.int64, device=cameras.device)]


def pixel_radii(cameras: Cameras) -> Float[Tensor, "N"]:
    """Radii of the cameras' pixels in the middle of their pictures, at depth 1 (Mip-NeRF, section 3.1)."""
    return (0.5 * PIXEL_RADIUS_FACTOR) * (1.0 / cameras.focal).sum(1)


def concatenate(parts: Sequence[Cameras]) -> Cameras:
    """Join batches of cameras.

    Raises LumigraphError when none is given, or they differ in what they carry or in lens model.
    """
    if not parts:
        raise LumigraphError("no cameras to concatenate")
    first = parts[0].tensors()
    if any(part.fisheye != parts[0].fisheye or part.tensors().keys() != first.keys() for part in parts):
        raise LumigraphError("cameras to concatenate differ in lens model, or in having times or attributes")
    return replace(parts[0], **{name: torch.cat([part.tensors()[name] for part in parts]) for name in first})


def _filled(values: Tensor, *shape: int) -> Tensor:
    """Broadcast to a shape, in memory of its own: kernels want contiguous arrays."""
    return values.expand(shape).contiguous()
