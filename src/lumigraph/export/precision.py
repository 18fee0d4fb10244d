"""In what numbers the network of a student is shipped, and how far it may then be from the student.

- float32: as it was trained.
- float16: weights and activations in half precision; the code before it and the colours after it stay float32.
- int8: matrices of all layers but the first and the last three in 8 bits, and activations wherever that is not seen
  (`quantisation.py`).
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lumigraph.distillation.poses import sample_poses
from lumigraph.export.onnx import Graph, network_graph, picture_codes
from lumigraph.export.portable import RayCode
from lumigraph.export.ports import Condition
from lumigraph.export.quantisation import quantised
from lumigraph.geometry.cameras import Cameras
from lumigraph.rendering.picture_light_field import PictureLightField
from lumigraph.scenes.scene import SceneInfo

Precision = Literal["float32", "float16", "int8"]

CALIBRATION_VIEWS = 32
"""Pseudo views whose codes say how large activations become."""
CALIBRATION_RAYS = 1 << 11
"""Rays of each of them, where the student answers for rays."""


def network_in(precision: Precision, renderer: nn.Module, codes: Sequence[Tensor]) -> Graph:
    """The network of a student (see `network_graph`) in a precision. `codes`: examples of what it sees, by the first of
    which it is traced; int8 is calibrated on all of them."""
    graph = network_graph(renderer, codes[0], half=precision == "float16")
    return quantised(graph, codes) if precision == "int8" else graph


def calibration_codes(
    renderer: nn.Module,
    info: SceneInfo,
    width: int,
    height: int,
    conditions: Sequence[Condition],
    views: int = CALIBRATION_VIEWS,
) -> list[Tensor]:
    """What the network sees of pseudo views as students learn from, at random moments where the scene changes: codes of
    pictures of `width` x `height` pixels, or of `CALIBRATION_RAYS` rays of each view."""
    drawn = sample_poses("fitted", views, 0, info.cameras["train"], forward=info.forward is not None)
    cameras = drawn.resized(width, height).transformed(info.to_capture)
    whole = isinstance(renderer, PictureLightField)
    make = (
        _picture_code(renderer, info, width, height, conditions)
        if whole
        else _ray_codes(renderer, info, conditions)
    )
    with torch.no_grad():
        return [make(cameras[i]) for i in range(len(cameras))]


def _picture_code(
    renderer: PictureLightField, info: SceneInfo, width: int, height: int, conditions: Sequence[Condition]
) -> Any:
    module = picture_codes(renderer, info.world_transform, width, height, conditions)

    def make(camera: Cameras) -> Tensor:
        named = [getattr(camera, condition.of_rays)[0] for condition in conditions]
        return module(camera.camera_to_world[0], camera.focal[0], camera.principal[0], *named)

    return make


def _ray_codes(renderer: nn.Module, info: SceneInfo, conditions: Sequence[Condition]) -> Any:
    names = [condition.of_rays for condition in conditions]
    module = RayCode(renderer, info.world_transform, names)

    def make(camera: Cameras) -> Tensor:
        rays = camera.view_rays(0).flatten()
        chosen = torch.linspace(0, len(rays) - 1, min(CALIBRATION_RAYS, len(rays))).round().long()
        rays = rays[chosen]
        return module(rays.origins, rays.directions, *(getattr(rays, name) for name in names))

    return make
