"""Whether an exported graph paints what the renderer paints: measured before a bundle appears.

Graphs take rays and cameras in the units of the capture; here, as everywhere else, they are in scene units.
`to_capture` is the similarity between the two (`SceneInfo.to_capture`).
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lumigraph.errors import LumigraphError
from lumigraph.export.ports import CONDITIONS
from lumigraph.export.runtime import Session
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.conventions import transform_rays
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.renderer import Renderer

LARGEST_ERROR = 1 / 255
"""Of a float32 graph, in any channel of any pixel: below what an 8-bit image can show."""
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

    def __str__(self) -> str:
        return (
            f"{self.form}: largest error {self.max_abs_error:.1e} (allowed {LARGEST_ERROR:.1e}), "
            f"PSNR {self.psnr:.1f} dB over {self.cameras} cameras"
        )

    def require(self) -> None:
        """Raise `LumigraphError` when the error is too large, or not a number."""
        if not self.max_abs_error <= LARGEST_ERROR:
            raise LumigraphError(
                f"onnxruntime does not paint what torch paints: {self}; no bundle was written",
                todo="If the run's weights are finite, this is a fault of the exporter: please report it",
            )


def check_rays(
    renderer: Renderer, session: Session, cameras: Cameras, to_capture: Float[Tensor, "4 4"]
) -> Parity:
    """The ray graph on the rays of every camera (at most `RAYS_PER_CAMERA` each, evenly spread)."""
    wanted, found = [], []
    for camera in range(len(cameras)):
        rays = cameras.view_rays(camera).flatten()
        rays = rays[:: -(-len(rays) // RAYS_PER_CAMERA)]
        wanted.append(torch.cat([renderer.render(part).rgb for part in rays.split(renderer.chunk)]))
        found.append(ray_colours(session, rays, renderer.chunk, to_capture))
    return _compare("rays", len(cameras), torch.cat(wanted), torch.cat(found))


def check_views(
    renderer: Renderer, session: Session, cameras: Cameras, to_capture: Float[Tensor, "4 4"]
) -> tuple[Parity, Float[Tensor, "H W 3"]]:
    """The image graph for every camera, whole images; also gives the renderer's image of the first, as a poster.

    The cameras are taken without lens distortion, as the graph has none.
    """
    wanted, found = [], []
    for camera in range(len(cameras)):
        wanted.append(renderer.view(pinhole(cameras[camera])).rgb)
        found.append(view_colours(session, cameras[camera], to_capture))
    return _compare("view", len(cameras), torch.cat(wanted), torch.cat(found)), wanted[0]


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
    camera = camera.transformed(to_capture)
    values = {name: getattr(camera, name)[0] for name in ("camera_to_world", "focal", "principal")}
    values |= {
        of_view: _known(getattr(camera, name)[0])
        for name, of_view in CONDITIONS.items()
        if of_view in session.inputs
    }
    return torch.from_numpy(session.run({name: _array(value) for name, value in values.items()}))


def _known(values: Tensor) -> Tensor:
    """Attributes of which nobody has said what they are are 0 in a graph."""
    return values.nan_to_num(0.0)


def _array(values: Tensor) -> np.ndarray:
    return np.asarray(values.detach().cpu().numpy(), dtype=np.float32, order="C")


def _compare(form: str, cameras: int, wanted: Tensor, found: Tensor) -> Parity:
    error = (wanted.double().cpu() - found.double()).abs()
    mean_square = float(error.square().mean())
    psnr = BEST_PSNR if mean_square == 0 else min(BEST_PSNR, -10 * float(np.log10(mean_square)))
    return Parity(form, cameras, error.numel(), float(error.max()), psnr)
