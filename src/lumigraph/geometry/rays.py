"""Rays: what every model of lumigraph maps to colours.

Directions are not normalised: the ray parameter ``t`` is depth along the camera's optical axis, so
``origin + t * direction`` is the point at z-depth ``t``. Unit vectors are called view directions.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lumigraph.errors import LumigraphError

PIXEL_RADIUS_FACTOR = 2.0 / math.sqrt(12.0)
"""Radius, in half pixel widths summed over x and y, of the cone whose variance is a pixel's (Mip-NeRF, section 3.1)."""

_VECTORS = ("origins", "directions", "attributes")


@dataclass(frozen=True)
class Rays:
    """A batch of rays of any leading shape ``*shape``.

    origins, directions: world (scene) units; directions are not normalised (their component along the optical axis is
    1). radii: radius of the pixel's cone at unit depth (Mip-NeRF section 3.1). near, far: depths between which content
    is sought. times: share of the capture that has passed, 0 to 1. camera_ids: ``Cameras.ids`` of the camera, -1
    for cameras that belong to no captured image. attributes: control values in [-1, 1], NaN where unknown.
    """

    origins: Float[Tensor, "*shape 3"]
    directions: Float[Tensor, "*shape 3"]
    radii: Float[Tensor, "*shape"]
    near: Float[Tensor, "*shape"]
    far: Float[Tensor, "*shape"]
    times: Float[Tensor, "*shape"] | None = None
    camera_ids: Int[Tensor, "*shape"] | None = None
    attributes: Float[Tensor, "*shape A"] | None = None

    @property
    def shape(self) -> torch.Size:
        """Leading shape."""
        return self.origins.shape[:-1]

    @property
    def numel(self) -> int:
        """Number of rays."""
        return self.shape.numel()

    @property
    def device(self) -> torch.device:
        return self.origins.device

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a single ray without leading dimension has no length")
        return self.shape[0]

    def __getitem__(self, key: Any) -> "Rays":
        """Index the leading dimensions (int, slice, tensor, or a tuple of those; no ellipsis)."""
        return self._map(lambda value, _: value[key])

    def flatten(self) -> "Rays":
        """The same rays with one leading dimension."""
        return self.reshape(self.numel)

    def reshape(self, *shape: int) -> "Rays":
        """The same rays with leading shape ``shape`` (one entry may be -1)."""
        return self._map(lambda value, tail: value.reshape(*shape, *tail))

    def to(self, device: torch.device | str) -> "Rays":
        return self._map(lambda value, _: value.to(device))

    def split(self, chunk: int) -> Iterator["Rays"]:
        """Consecutive pieces of at most ``chunk`` along the first dimension."""
        if chunk < 1:
            raise ValueError(f"chunk must be at least 1, got {chunk}")
        for start in range(0, len(self), chunk):
            yield self[start : start + chunk]

    @property
    def view_directions(self) -> Float[Tensor, "*shape 3"]:
        """Unit vectors along the rays."""
        return torch.nn.functional.normalize(self.directions, dim=-1)

    def points(self, t: Float[Tensor, "*shape K"]) -> Float[Tensor, "*shape K 3"]:
        """Points at the depths ``t`` (z-depth, scene units)."""
        return self.origins[..., None, :] + t[..., None] * self.directions[..., None, :]

    def _map(self, function: Callable[[Tensor, tuple[int, ...]], Tensor]) -> "Rays":
        """Apply ``function(value, trailing shape)`` to every tensor."""
        changed: dict[str, Any] = {}
        for name, value in self._present().items():
            changed[name] = function(value, tuple(value.shape[-1:]) if name in _VECTORS else ())
        return Rays(**changed)

    def _present(self) -> dict[str, Tensor]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


def concatenate(parts: Sequence[Rays]) -> Rays:
    """Join rays along the first dimension; every part must carry the same optional values.

    Raises LumigraphError when ``parts`` is empty or the parts carry different values.
    """
    if not parts:
        raise LumigraphError("no rays to concatenate")
    names = [set(part._present()) for part in parts]
    if any(other != names[0] for other in names):
        raise LumigraphError(
            f"rays to concatenate carry different values: {sorted(set.union(*names) - set.intersection(*names))}"
        )
    joined = {name: torch.cat([part._present()[name] for part in parts]) for name in parts[0]._present()}
    return Rays(**joined)
