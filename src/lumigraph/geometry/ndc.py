"""Normalised device coordinates: where forward-facing captures are sampled.

Cameras side by side look one way, at things from a near plane to infinity. A projective map takes what the average
camera sees beyond the plane to the cube [-1, 1]^3, where even steps are even in disparity (NeRF, appendix C).
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lumigraph.errors import LumigraphError
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.rays import Rays

_LEAST_STEP = 1e-6
"""Smallest depth along the average camera per unit of a ray: those that run along the near plane never meet it."""


@dataclass(frozen=True)
class ForwardFrame:
    """The average camera of a forward-facing capture, and its near plane.

    camera_to_world: its pose (OpenCV axes), scene units. tangents: half the width and half the height of its picture at
    depth 1. near: depth of the near plane, scene units; nothing is in front of it.
    """

    camera_to_world: Float[Tensor, "3 4"]
    tangents: tuple[float, float]
    near: float

    def rays(self, rays: Rays) -> Rays:
        """The same rays in normalised device coordinates.

        They start on the near plane (t = 0) and end at infinity (t = 1); `depth` gives back what a t is in the scene.
        Axes are those of OpenGL: x right, y up, z from -1 on the near plane to 1 at infinity. `radii` become those of
        cylinders: the radius of the pixel where the ray meets the near plane, in the units of the cube.
        """
        origins, directions, to_plane = self._lines(rays.origins, rays.directions)
        width = sum(1 / tangent for tangent in self.tangents) / 2 / self.near
        return replace(
            rays,
            origins=origins,
            directions=directions,
            radii=to_plane.abs() * rays.radii * width,
            near=torch.zeros_like(rays.near),
            far=torch.ones_like(rays.far),
        )

    def lines(
        self, origins: Float[Tensor, "*s 3"], directions: Float[Tensor, "*s 3"]
    ) -> tuple[Float[Tensor, "*s 3"], Float[Tensor, "*s 3"]]:
        """Origins and directions of `rays` alone: standard operators only, for graphs that are exported."""
        return self._lines(origins, directions)[:2]

    def _lines(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Origins and directions in the cube, and the depth along each ray at which it meets the near plane."""
        origins, directions = self._in_camera(origins, directions)
        ahead = self._ahead(directions)
        to_plane = (self.near - origins[..., 2]) / ahead
        met = origins + to_plane[..., None] * directions
        scale = directions.new_tensor(self.tangents)
        slope = met[..., :2] / (met[..., 2:] * scale)
        turn = directions[..., :2] / (ahead[..., None] * scale)
        flip = directions.new_tensor([1.0, -1.0])
        depth = torch.full_like(ahead, 2.0)[..., None]
        starts = torch.cat([flip * slope, -0.5 * depth], -1)
        return starts, torch.cat([flip * (turn - slope), depth], -1), to_plane

    def depth(self, t: Float[Tensor, "*shape"], rays: Rays) -> Float[Tensor, "*shape"]:
        """Depth along the axis of each ray's own camera, scene units, of the point at NDC depth t of the ray `rays` in
        the scene. What is at infinity (t = 1) gets the far bound of the ray."""
        origins, directions = self._in_camera(rays.origins, rays.directions)
        along = self.near / (1 - t).clamp(min=torch.finfo(t.dtype).eps)
        found = (along - origins[..., 2]) / self._ahead(directions)
        return torch.minimum(found, torch.maximum(rays.far, rays.near))

    def ndc(self, depth: Float[Tensor, "*shape"], rays: Rays) -> Float[Tensor, "*shape"]:
        """The inverse of `depth`: NDC depth t of the point at depth `depth` of a ray in the scene."""
        origins, directions = self._in_camera(rays.origins, rays.directions)
        return 1 - self.near / (origins[..., 2] + depth * self._ahead(directions)).clamp(min=self.near)

    def _in_camera(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        pose = self.camera_to_world.to(origins)
        return (origins - pose[:, 3]) @ pose[:, :3], directions @ pose[:, :3]

    @staticmethod
    def _ahead(directions: Tensor) -> Tensor:
        return directions[..., 2].clamp(min=_LEAST_STEP)

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` gives back an equal object."""
        return {
            "camera_to_world": self.camera_to_world.tolist(),
            "tangents": list(self.tangents),
            "near": self.near,
        }

    @classmethod
    def from_json(cls, data: Any) -> "ForwardFrame":
        """The inverse of `to_json`.

        Raises:
            KeyError, TypeError, ValueError: `data` has another form.
        """
        horizontal, vertical = (float(value) for value in data["tangents"])
        frame = cls(
            torch.tensor(data["camera_to_world"], dtype=torch.float32).reshape(3, 4),
            (horizontal, vertical),
            float(data["near"]),
        )
        if not (min(frame.tangents) > 0 and frame.near > 0):
            raise ValueError("the tangents and the near plane of a forward-facing scene must be positive")
        return frame


def chosen_frame(choice: str, forward: ForwardFrame | None, source: str | None) -> ForwardFrame | None:
    """In whose normalised device coordinates rays are sampled: the scene's, `forward`, unless `choice` is "off".

    Raises:
        LumigraphError: it is "on", and the scene at `source` is not forward-facing.
    """
    if choice == "on" and forward is None:
        raise LumigraphError(
            "normalised device coordinates need a forward-facing capture, and this is none",
            where=source,
            todo="Leave --ndc out",
        )
    return None if choice == "off" else forward


def require_inverse_depth(near: Tensor, frame: ForwardFrame | None, source: str | None, option: str) -> None:
    """Samples even in inverse depth need near planes in front of cameras, and rays of the scene.

    Raises:
        LumigraphError: a near plane is at 0, or rays are sampled in a frame; `option` says what leaves them out.
    """
    if frame is not None or bool((near <= 0).any()):
        what = "in normalised device coordinates" if frame is not None else "from a near plane at 0"
        raise LumigraphError(
            f"samples even in inverse depth are impossible {what}",
            where=source,
            todo=option if frame is None else f"Train with --ndc off, or {option[0].lower()}{option[1:]}",
        )


def require_scene_lengths(frame: ForwardFrame | None) -> None:
    """Raises `LumigraphError` where a field lives in a frame, whose lengths are not those of the scene."""
    if frame is not None:
        raise LumigraphError(
            "a density per unit of length is not known of a field in normalised device coordinates",
            todo="Train it with --ndc off",
        )


def is_ahead(frame: ForwardFrame, rays: Rays) -> bool:
    """Whether all rays run forward from in front of the near plane of the average camera."""
    origins, directions = frame._in_camera(rays.origins, rays.directions)
    return bool((directions[..., 2] > _LEAST_STEP).all()) and bool((origins[..., 2] < frame.near).all())


def require_ahead(frame: ForwardFrame, rays: Rays) -> None:
    """Raises `LumigraphError` where `is_ahead` is false."""
    if not is_ahead(frame, rays):
        raise LumigraphError(
            "a camera looks backwards, or stands behind the near plane of this forward-facing scene",
            todo="Take cameras that look the way the photos do, or train with --ndc off",
        )


def require_cameras_ahead(frame: ForwardFrame, cameras: Cameras) -> None:
    """Raises `LumigraphError` where `is_ahead` is false for the rays through the corners of a camera's picture."""
    last = cameras.size - 1
    none = torch.zeros_like(last[:, 0])
    x = torch.stack([none, last[:, 0], none, last[:, 0]], 1)
    y = torch.stack([none, none, last[:, 1], last[:, 1]], 1)
    require_ahead(frame, cameras.rays(torch.arange(len(cameras), device=x.device)[:, None], x, y))
