"""The channels of a student's hyper code as pictures: what it makes of each ray at each moment, channel by channel."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lumigraph.evaluation.depth_pictures import turbo
from lumigraph.evaluation.pictures import save_png
from lumigraph.files import write_json
from lumigraph.geometry.cameras import Cameras
from lumigraph.rendering.renderer import Renderer, Rendering

SIDECAR = "hyper_code.json"
_RANGE = (0.01, 0.99)
"""Quantiles of a channel in the first frame that become the ends of its colours."""
_COLOURS = (
    "turbo: dark blue at the low end of the range of a channel, green in its middle, dark red at its high end"
)


@torch.no_grad()
def hyper_picture(renderer: Renderer, camera: Cameras) -> Float[Tensor, "H W C"]:
    """The hyper code of every pixel of one camera. Raises LumigraphError where the renderer has none."""
    renderer.require_conditions(camera)
    rays = renderer.seen_through(camera).to(renderer.device).view_rays(0)
    parts = [renderer.hyper_code(part) for part in rays.flatten().split(renderer.chunk)]
    return torch.cat(parts).float().cpu().reshape(*rays.shape, -1)


class HyperPictures:
    """Writes NAME_channel_K.png for each channel of each frame into `folder`, and hyper_code.json with the range of
    values that the colours of each channel span, which the first frame sets. It is a `Look` for `movies.frames`."""

    def __init__(self, folder: Path, names: Sequence[str], renderer: Renderer, cameras: Cameras) -> None:
        self._folder, self._names, self._renderer, self._cameras = folder, names, renderer, cameras
        self._limits: Float[np.ndarray, "2 C"] | None = None

    def __call__(self, index: int, seen: Rendering) -> None:
        code = hyper_picture(self._renderer, self._cameras[index]).numpy().astype(np.float64)
        if self._limits is None:
            self._limits = np.quantile(code.reshape(-1, code.shape[-1]), _RANGE, axis=0)
            write_json(self._folder / SIDECAR, {"colours": _COLOURS, "ranges": self._limits.T.tolist()})
        low, high = self._limits
        levels = np.clip((code - low) / np.maximum(high - low, 1e-12), 0, 1)
        for channel in range(code.shape[-1]):
            save_png(
                self._folder / f"{self._names[index]}_channel_{channel}.png", turbo(levels[..., channel])
            )
