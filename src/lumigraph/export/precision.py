"""In what numbers the network of a student is shipped, and how far it may then be from the student.

- float32: as it was trained.
- float16: weights and activations in half precision; the code before it and the colours after it stay float32.
- int8: matrices and activations of all layers but the first and the last three in 8 bits, by onnxruntime's static
  quantisation, written in standard operators (QuantizeLinear, DequantizeLinear). Each row of a matrix has its scale;
  those of activations hold nearly all that was seen while the network answered for `codes` (`PERCENTILE`). The first
  layer sees sines beside coordinates that are several times larger; the last ones make colours of what all blocks
  have added up.
"""

import io
import logging
import tempfile
from collections.abc import Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from lumigraph.distillation.poses import sample_poses
from lumigraph.export.onnx import Graph, checked, network_graph, picture_codes, require_libraries
from lumigraph.export.portable import RayCode
from lumigraph.export.ports import Condition
from lumigraph.geometry.cameras import Cameras
from lumigraph.rendering.picture_light_field import PictureLightField
from lumigraph.scenes.scene import SceneInfo

Precision = Literal["float32", "float16", "int8"]

CALIBRATION_VIEWS = 32
"""Pseudo views whose codes say how large activations become."""
CALIBRATION_RAYS = 1 << 11
"""Rays of each of them, where the student answers for rays."""
PERCENTILE = 99.9
"""Percentile of activations at which their 8 bits end, and its counterpart below: the few beyond are clipped, and all
others have finer steps (docs/export.md compares ways of calibration)."""
_KEPT = (1, 3)
"""Layers at the beginning and at the end that stay float32 in int8."""
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


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


def quantised(graph: Graph, codes: Sequence[Tensor]) -> Graph:
    """A network graph with all layers but some at both ends in 8 bits, calibrated on `codes`.

    Weights have 7 of the 8 bits: processors without dot products of bytes add two products in 16 bits, and 8 would
    overflow there.
    """
    require_libraries(("onnx", "onnxruntime"), "quantisation")
    import onnx
    from onnxruntime import quantization

    class Codes(quantization.CalibrationDataReader):
        """Asked for one after the other: the histograms of each are added up, and its activations forgotten."""

        def __init__(self) -> None:
            self.left = iter(codes)

        def __len__(self) -> int:
            return len(codes)

        def set_range(self, start_index: int, end_index: int) -> None:
            self.left = iter(codes[start_index:end_index])

        def get_next(self) -> Any:
            code = next(self.left, None)
            return None if code is None else {graph.inputs[0].name: np.ascontiguousarray(code.numpy())}

    model = onnx.load_from_string(graph.data)
    layers = [node.name for node in model.graph.node if node.op_type in _LAYERS]
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "quantised.onnx"
        quantization.quantize_static(
            model,
            path,
            Codes(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(_LAYERS),
            nodes_to_exclude=layers[: _KEPT[0]] + layers[-_KEPT[1] :],
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.Percentile,
            extra_options={"CalibPercentile": PERCENTILE, "CalibStridedMinMax": 1},
        )
        written = onnx.load(path)
    standard = [entry for entry in written.opset_import if entry.domain == ""]
    del written.opset_import[:]
    written.opset_import.extend(standard)
    del written.metadata_props[:]
    written.producer_name, written.producer_version = model.producer_name, model.producer_version
    return replace(graph, data=checked(written))


@contextmanager
def _quiet() -> Any:
    """Without the quantiser's advice to prepare the graph first, which the exporter has done, and its remarks."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
