"""A student's network in 8 bits, by onnxruntime's static quantisation, written in standard operators (QuantizeLinear,
DequantizeLinear).

A layer computes in 8 bits where its activations before and after it are rounded, and its matrix. The first layer and
the last three keep their numbers: the first sees sines beside coordinates that are several times larger, the last ones
make colours of what all blocks have added up. What blocks add up stays float32: rounded in each block, it would be
wrong by all of these roundings.

The steps of 8 bits must be fine enough for most pictures and reach far enough for all, and in deep networks a few
pixels of a few views make activations that are tens of times larger than all others. Layers in which views differ most
are therefore computed in float32, on matrices of 8 bits, as many of them as it takes (`FLOAT_SHARES`). So are
transposed convolutions in any case, as no runtime here has them in integers.
"""

import io
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lumigraph.export.onnx import Graph, checked, require_libraries
from lumigraph.export.parity import compare
from lumigraph.export.runtime import Session

RANGE = 0.75
"""The 8 bits of an activation reach as far as it does in this part of the views; what is beyond is clipped."""
FLOAT_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Parts of the layers that are computed in float32, tried one after the other, till one is good enough."""
GOOD_PSNR = 40.0
"""What is good enough: PSNR to the network in float32, dB. Bundles are refused below 35 (`parity.LEAST_PSNR`)."""
_JUDGED = 4
"""Views on which that is measured, from one whose activations are small to the one where they are largest."""
_KEPT = (1, 3)
"""Layers at the beginning and at the end that stay float32."""
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_IN_INTEGERS = ("Conv", "Gemm", "MatMul")


def quantised(graph: Graph, codes: Sequence[Tensor]) -> Graph:
    """A network graph with all layers but some at both ends in 8 bits, their matrices in any case, their activations
    where it stands that. `codes`: what it sees of pseudo views, of which ranges and errors are measured."""
    require_libraries(("onnx", "onnxruntime"), "quantisation")
    import onnx

    model = onnx.load_from_string(graph.data)
    layers = [node for node in model.graph.node if node.op_type in _LAYERS][_KEPT[0] : -_KEPT[1]]
    if not layers:
        return graph
    values = [{graph.inputs[0].name: code.numpy()} for code in codes]
    extremes = _extremes(model, layers, values)
    if not all(np.isfinite(views).all() for views in extremes.values()):
        return graph  # is refused for that
    rounded = _rounded(model, [node.name for node in layers], values[0], extremes)
    reaches = {node.name: _reach(node, extremes) for node in layers}
    unruly = [node.name for node in layers if node.op_type in _IN_INTEGERS]
    unruly.sort(key=lambda name: float(reaches[name].max()), reverse=True)
    return _with_fewest_in_float(graph, rounded, unruly, _judged(values, list(reaches.values())))


def _judged(
    values: list[dict[str, np.ndarray]], reaches: list[Float[np.ndarray, " views"]]
) -> list[dict[str, np.ndarray]]:
    """The views by which errors are judged: spread evenly from the usual ones to those that reach farthest."""
    widest_last = np.argsort(np.max(reaches, 0), kind="stable")
    places = np.linspace(0, len(values) - 1, min(_JUDGED, len(values))).round().astype(int)
    return [values[view] for view in widest_last[places]]


def _with_fewest_in_float(
    graph: Graph, rounded: Any, unruly: list[str], judged: list[dict[str, np.ndarray]]
) -> Graph:
    """The graph in which only so many layers compute in float32 that its answers to the views `judged` are good.

    `rounded`: the model with the matrices of all layers in 8 bits. `unruly`: names of the layers that can compute in 8
    bits, in the order in which they are spared that.
    """
    wanted = _answers(graph.data, judged)
    found = graph
    for share in FLOAT_SHARES:
        data = checked(_reading(rounded, set(unruly[round(share * len(unruly)) :])))
        found = replace(graph, data=data)
        if compare("network", len(judged), wanted, _answers(data, judged)).psnr >= GOOD_PSNR:
            break
    return found


def layers_in_8_bits(graph: Graph) -> tuple[int, int]:
    """Of a graph: layers that compute in 8 bits, and layers with a matrix of 8 bits."""
    import onnx

    nodes = onnx.load_from_string(graph.data).graph.node
    made = {name for node in nodes if node.op_type == "DequantizeLinear" for name in node.output}
    on_8_bits = [node for node in nodes if node.op_type in _LAYERS and node.input[1] in made]
    return sum(node.input[0] in made for node in on_8_bits), len(on_8_bits)


def _extremes(
    model: Any, layers: Sequence[Any], values: Sequence[dict[str, np.ndarray]]
) -> dict[str, Float[np.ndarray, "views 2"]]:
    """The smallest and the largest number in every activation before and after one of the layers, view by view."""
    import onnx
    from onnx import helper

    seen = dict.fromkeys(name for node in layers for name in (node.input[0], node.output[0]))
    told = onnx.ModelProto()
    told.CopyFrom(model)
    del told.graph.output[:]
    told.graph.output.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in seen
    )
    session = Session(told.SerializeToString(), "the network")
    views = [[(part.min(), part.max()) for part in session.run_all(of_view)] for of_view in values]
    return dict(zip(seen, np.asarray(views).swapaxes(0, 1), strict=True))


def _reach(layer: Any, extremes: dict[str, Float[np.ndarray, "views 2"]]) -> Float[np.ndarray, " views"]:
    """How many times farther the activations of a layer reach in each view than in the median one."""
    reach = [np.abs(extremes[name]).max(1) for name in (layer.input[0], layer.output[0])]
    return np.max([of_views / max(np.median(of_views), 1e-12) for of_views in reach], 0)


def _range(extremes: Float[np.ndarray, "views 2"]) -> dict[str, np.ndarray]:
    """What 8 bits are to reach over; 0 is among it, as they must know it."""
    low, high = np.quantile(extremes[:, 0], 1 - RANGE), np.quantile(extremes[:, 1], RANGE)
    return {"rmin": np.asarray(min(low, 0.0), np.float32), "rmax": np.asarray(max(high, 0.0), np.float32)}


def _rounded(
    model: Any,
    layers: list[str],
    example: dict[str, np.ndarray],
    extremes: dict[str, Float[np.ndarray, "views 2"]],
) -> Any:
    """The model with all of `layers` in 8 bits. Each row of a matrix has its scale, and 7 of the 8 bits: processors
    without dot products of bytes add two products in 16 bits, and 8 would overflow there."""
    import onnx
    from onnxruntime import quantization

    class Example(quantization.CalibrationDataReader):
        """The quantiser wants to see something, although ranges are told it."""

        def __init__(self) -> None:
            self.left = iter([example])

        def get_next(self) -> Any:
            return next(self.left, None)

    others = [node.name for node in model.graph.node if node.op_type in _LAYERS and node.name not in layers]
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "quantised.onnx"
        quantization.quantize_static(
            model,
            path,
            Example(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(_LAYERS),
            nodes_to_exclude=others,
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            extra_options={
                "TensorQuantOverrides": {name: [_range(views)] for name, views in extremes.items()}
            },
        )
        written = onnx.load(path)
    standard = [entry for entry in written.opset_import if entry.domain == ""]
    del written.opset_import[:]
    written.opset_import.extend(standard)
    del written.metadata_props[:]
    written.producer_name, written.producer_version = model.producer_name, model.producer_version
    return written


def _reading(rounded: Any, in_8_bits: set[str]) -> Any:
    """A copy in which the layers `in_8_bits` read what is rounded, and so does everyone what such a layer has made:
    between the two roundings runtimes compute with integers. All others read what was before rounding."""
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(rounded)
    makers = {name: node for node in model.graph.node for name in node.output}
    before = {}
    for node in model.graph.node:
        maker = makers.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if maker is not None and maker.op_type == "QuantizeLinear":
            before[node.output[0]] = maker.input[0]
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            source = before.get(name, name)
            made_by = makers[source].name if source in makers else ""
            if node.name not in in_8_bits and made_by not in in_8_bits:
                node.input[place] = source
    _drop_unread(model.graph)
    return model


def _drop_unread(graph: Any) -> None:
    """Take out nodes and weights that nothing reads."""
    read, kept = {port.name for port in graph.output}, []
    for node in reversed(graph.node):
        if read & set(node.output):
            read |= set(node.input)
            kept.append(node)
    weights = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.node[:]
    graph.node.extend(reversed(kept))
    del graph.initializer[:]
    graph.initializer.extend(weights)


def _answers(data: bytes, values: Sequence[dict[str, np.ndarray]]) -> Tensor:
    session = Session(data, "the network")
    return torch.cat([torch.from_numpy(session.run(of_view)).flatten() for of_view in values])


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the quantiser's advice to prepare the graph first, which the exporter has done, and its remarks."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
