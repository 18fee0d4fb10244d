"""Whether an exported graph paints what the renderer paints: measured before a bundle appears.

Graphs take rays and cameras in the units of the capture; here, as everywhere else, they are in scene units.
`to_capture` is the similarity between the two (`SceneInfo.to_capture`).
"""

import math
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lumigraph.errors import LumigraphError
from lumigraph.export.ports import CONDITIONS, Condition
from lumigraph.export.runtime import Session
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.conventions import transform_rays
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.renderer import Renderer

LARGEST_ERROR = {"float32": 1 / 255, "float16": 2 / 255}
"""In any channel of any pixel; that of float32 is below what an 8-bit image can show."""
LEAST_PSNR = {"int8": 35.0}
"""Of what cannot be held to every pixel, dB."""
RAYS_PER_CAMERA = 1 << 16
BEST_PSNR = 200.0
"""Stands for infinity, which JSON does not have."""


@dataclass(frozen=True)
class Parity:
    """Largest absolute error and PSNR [dB] between a graph in onnxruntime and the renderer in torch."""

    form: str
    cameras: int
    values: int
    max_abs_error: float
    psnr: float
    precision: str = "float32"

    def __str__(self) -> str:
        largest, least = LARGEST_ERROR.get(self.precision), LEAST_PSNR.get(self.precision)
        allowed = "" if largest is None else f" (allowed {largest:.1e})"
        wanted = "" if least is None else f" (wanted {least:g})"
        return (
            f"{self.form}: largest error {self.max_abs_error:.1e}{allowed}, "
            f"PSNR {self.psnr:.1f} dB{wanted} over {self.cameras} cameras"
        )

    def require(self) -> None:
        """Raise `LumigraphError` when the error is too large for the precision, or not a number."""
        largest = LARGEST_ERROR.get(self.precision, math.inf)
        if self.max_abs_error <= largest and self.psnr >= LEAST_PSNR.get(self.precision, -math.inf):
            return
        todo = "If the run's weights are finite, this is a fault of the exporter: please report it"
        if self.precision != "float32":
            less = {"int8": "float16 or float32", "float16": "float32"}[self.precision]
            todo = f"This student does not stand {self.precision}: export it with --precision {less}"
        raise LumigraphError(
            f"the {self.precision} graph does not paint what torch paints in float32: {self}; no bundle was written",
            todo=todo,
        )

    def to_json(self) -> dict[str, Any]:
        """As the manifest tells it."""
        return {"max_abs_error": self.max_abs_error, "psnr": self.psnr, "cameras": self.cameras}


def check_rays(
    renderer: Renderer,
    session: Session,
    cameras: Cameras,
    to_capture: Float[Tensor, "4 4"],
    precision: str = "float32",
) -> Parity:
    """The ray graph on the rays of every camera (at most `RAYS_PER_CAMERA` each, evenly spread)."""
    wanted, found = [], []
    for camera in range(len(cameras)):
        rays = cameras.view_rays(camera).flatten()
        rays = rays[:: -(-len(rays) // RAYS_PER_CAMERA)]
        wanted.append(torch.cat([renderer.render(part).rgb for part in rays.split(renderer.chunk)]))
        found.append(ray_colours(session, rays, renderer.chunk, to_capture))
    return compare("rays", len(cameras), torch.cat(wanted), torch.cat(found), precision)


def check_views(
    renderer: Renderer,
    paint: Callable[[Cameras], Float[Tensor, "H W 3"]],
    cameras: Cameras,
    precision: str = "float32",
) -> tuple[Parity, Float[Tensor, "H W 3"]]:
    """What `paint` makes of every camera, whole images; also gives the renderer's image of the first, as a poster.

    The cameras are taken without lens distortion, as the graphs have none.
    """
    wanted, found = [], []
    for camera in range(len(cameras)):
        wanted.append(renderer.view(pinhole(cameras[camera])).rgb)
        found.append(paint(cameras[camera]))
    return compare("view", len(cameras), torch.cat(wanted), torch.cat(found), precision), wanted[0]


def pinhole(cameras: Cameras) -> Cameras:
    """The same cameras without lens distortion."""
    return replace(cameras, distortion=torch.zeros_like(cameras.distortion), fisheye=False)


def ray_colours(
    session: Session, rays: Rays, chunk: int, to_capture: Float[Tensor, "4 4"]
) -> Float[Tensor, "N 3"]:
    """Colours of flat rays [N], scene units, through a ray graph, `chunk` at a time."""
    parts = []
    for part in rays.split(chunk):
        origins, directions = transform_rays(to_capture, part.origins, part.directions)
        values = {"origins": origins, "directions": directions}
        values |= {name: _known(getattr(part, name)) for name in CONDITIONS if name in session.inputs}
        parts.append(session.run({name: _array(value) for name, value in values.items()}))
    return torch.from_numpy(np.concatenate(parts) if parts else np.zeros((0, 3), np.float32))


def view_colours(
    session: Session, camera: Cameras, to_capture: Float[Tensor, "4 4"]
) -> Float[Tensor, "H W 3"]:
    """The image of one camera, scene units, through an image graph; the camera has the graph's size."""
    values = _view_values(camera, to_capture, session.inputs)
    return torch.from_numpy(session.run({name: _array(value) for name, value in values.items()}))


def view_values(
    camera: Cameras, to_capture: Float[Tensor, "4 4"], conditions: Sequence[Condition]
) -> tuple[Tensor, ...]:
    """Inputs of an image graph for one camera, scene units, in their order."""
    return tuple(_view_values(camera, to_capture, [condition.of_view for condition in conditions]).values())


def _view_values(
    camera: Cameras, to_capture: Float[Tensor, "4 4"], inputs: Container[str]
) -> dict[str, Tensor]:
    camera = camera.transformed(to_capture)
    values = {name: getattr(camera, name)[0].float() for name in ("camera_to_world", "focal", "principal")}
    named = {
        of_view: _known(getattr(camera, name)[0]) for name, of_view in CONDITIONS.items() if of_view in inputs
    }
    return values | named


def _known(values: Tensor) -> Tensor:
    """Attributes of which nobody has said what they are are 0 in a graph."""
    return values.nan_to_num(0.0)


def _array(values: Tensor) -> np.ndarray:
    return np.asarray(values.detach().cpu().numpy(), dtype=np.float32, order="C")


def compare(form: str, cameras: int, wanted: Tensor, found: Tensor, precision: str = "float32") -> Parity:
    """How far what was `found` is from what was `wanted`."""
    error = (wanted.double().cpu() - found.double().cpu()).abs()
    mean_square = float(error.square().mean())
    psnr = BEST_PSNR if mean_square == 0 else min(BEST_PSNR, -10 * float(np.log10(mean_square)))
    return Parity(form, cameras, error.numel(), float(error.max()), psnr, precision)
