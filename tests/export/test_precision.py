"""Networks in half precision and in 8 bits: what is in the files, how exact they are, and when they are refused."""

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from lumigraph.configs.common import TrainOptions
from lumigraph.configs.dylin import DyLiNConfig
from lumigraph.configs.mobile_r2l import MobileR2LConfig
from lumigraph.configs.r2l import R2LConfig
from lumigraph.errors import LumigraphError
from lumigraph.export.bundle import Shape, write_bundle
from lumigraph.export.bundle_renderer import BundleRenderer
from lumigraph.export.parity import Parity
from lumigraph.scenes.procedural import make_scene
from lumigraph.training.runs import Run

SIDE = 16
CONFIGS: dict[str, Any] = {
    "r2l": R2LConfig(width=32, depth=8, points=4, octaves=3),
    "mobile-r2l": MobileR2LConfig(
        points=4, octaves=3, width=24, blocks=3, up_factors=(2, 2), up_widths=(16, 12)
    ),
    "dylin": DyLiNConfig(
        width=32, depth=8, points=4, octaves=3, hyper_dims=2, offset_width=16, hyper_width=16
    ),
}


def saved(folder: Path, method: str, config: Any = None) -> Run:
    info = make_scene("moving" if method == "dylin" else "still", 4, 0, 2, size=SIDE).info
    torch.manual_seed(2)
    run = Run.create(folder, method, config or CONFIGS[method], info, TrainOptions(run=folder))
    run.save_weights(run.new_renderer(), 1)
    return run


def kinds(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def weight_types(path: Path) -> set[int]:
    return {tensor.data_type for tensor in onnx.load(path).graph.initializer if len(tensor.dims) > 1}


@pytest.mark.parametrize(
    ("method", "precision"),
    [
        ("mobile-r2l", "float16"), ("mobile-r2l", "int8"), ("dylin", "int8"),
        # The others go the same ways.
        pytest.param("dylin", "float16", marks=pytest.mark.slow),
        pytest.param("r2l", "float16", marks=pytest.mark.slow),
        pytest.param("r2l", "int8", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_a_smaller_network_paints_nearly_the_same(tmp_path: Path, method: str, precision: Any) -> None:
    run = saved(tmp_path / "run", method)
    lines: list[str] = []
    manifest = write_bundle(
        run, tmp_path / "bundle", shape=Shape(precision=precision), check_views=2, report=lines.append
    )
    assert manifest["precision"] == precision
    path = tmp_path / "bundle" / "view.onnx"
    parity = manifest["parity"]["view"]
    if precision == "float16":
        assert onnx.TensorProto.FLOAT16 in weight_types(path)
        assert 0 < parity["max_abs_error"] <= 2 / 255
        assert "(allowed 7.8e-03)" in lines[-1]
    else:
        assert onnx.TensorProto.INT8 in weight_types(path)
        assert {"QuantizeLinear", "DequantizeLinear"} <= set(kinds(path))
        assert 35 <= parity["psnr"] < 100
        assert "(wanted 35)" in lines[-2]
        network = manifest["network"]
        assert 0 < network["layers_in_8_bits"] <= network["layers_on_8_bits"]
        assert f"{network['layers_in_8_bits']} of the {network['layers_on_8_bits']} layers" in lines[-1]
    model = onnx.load(path)
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    assert all(
        port.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        for port in (*model.graph.input, *model.graph.output)
    )
    camera = run.info.cameras["test"][0]
    error = BundleRenderer(tmp_path / "bundle").view(camera).rgb - run.load_renderer("cpu").view(camera).rgb
    assert float(error.square().mean()) < 10**-3.5


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_the_encoding_stays_float32(tmp_path: Path, precision: Any) -> None:
    """What sines are taken of has never been in less; and all that moves rays is as it was trained."""
    run = saved(tmp_path / "run", "dylin")
    write_bundle(run, tmp_path / "bundle", shape=Shape(precision=precision), check_views=1)
    model = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "bundle" / "rays.onnx"))
    types = {info.name: info.type.tensor_type.elem_type for info in model.graph.value_info}
    sines = [node for node in model.graph.node if node.op_type in ("Sin", "Cos")]
    assert sines and all(types[node.input[0]] == onnx.TensorProto.FLOAT for node in sines)
    offsets = [t for t in model.graph.initializer if "offset" in t.name and len(t.dims) > 1]
    assert offsets and {tensor.data_type for tensor in offsets} == {onnx.TensorProto.FLOAT}


def test_layers_at_both_ends_keep_their_numbers(tmp_path: Path) -> None:
    run = saved(tmp_path / "run", "r2l")
    write_bundle(run, tmp_path / "bundle", shape=Shape(precision="int8"), check_views=1)
    weights = onnx.load(tmp_path / "bundle" / "rays.onnx").graph.initializer
    matrices = [tensor for tensor in weights if len(tensor.dims) == 2]
    kept = [tensor for tensor in matrices if tensor.data_type == onnx.TensorProto.FLOAT]
    assert len(matrices) == 8 and len(kept) == 4


@pytest.mark.slow
def test_the_same_weights_give_the_same_quantised_file(tmp_path: Path) -> None:
    run = saved(tmp_path / "run", "mobile-r2l")
    written = [
        write_bundle(run, tmp_path / name, shape=Shape(precision="int8"), check_views=1)
        for name in ("a", "b")
    ]
    assert len({manifest["models"]["view"]["sha256"] for manifest in written}) == 1
    assert b"ort.quant" not in (tmp_path / "a" / "view.onnx").read_bytes()


def test_a_student_that_does_not_stand_it_is_refused(tmp_path: Path) -> None:
    """Weights beyond what half precision holds; the message says what to take instead."""
    run = saved(tmp_path / "run", "r2l")
    renderer: Any = run.new_renderer()
    with torch.no_grad():
        renderer.network.head.weight.mul_(1e6)
        renderer.network.tail.weight.mul_(1e-6)
    run.save_weights(renderer, 2)
    with pytest.raises(LumigraphError, match=r"float16 graph does not paint.*--precision float32"):
        write_bundle(run, tmp_path / "bundle", shape=Shape(precision="float16"), check_views=1)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("precision", "error", "psnr", "fine"),
    [
        ("float32", 0.0039, 48.0, True), ("float32", 0.0040, 90.0, False),
        ("float16", 0.0078, 48.0, True), ("float16", 0.0079, 90.0, False), ("float16", float("nan"), 90.0, False),
        ("int8", 0.5, 35.0, True), ("int8", 0.01, 34.9, False), ("int8", 0.01, float("nan"), False),
        ("int8", float("nan"), float("nan"), False),
    ],
)  # fmt: skip
def test_what_each_precision_allows(precision: str, error: float, psnr: float, fine: bool) -> None:
    figure = Parity("view", 1, 3, error, psnr, precision)
    if fine:
        figure.require()
        return
    with pytest.raises(
        LumigraphError, match=f"the {precision} graph does not paint what torch paints in float32"
    ):
        figure.require()


@pytest.mark.slow
def test_a_lens_in_eight_bits(tmp_path: Path) -> None:
    run = saved(tmp_path / "run", "mobile-r2l")
    manifest = write_bundle(
        run, tmp_path / "bundle", shape=Shape(form="lens", precision="int8"), check_views=1
    )
    assert manifest["parity"]["view"]["psnr"] >= 35
    assert onnx.TensorProto.INT8 in weight_types(tmp_path / "bundle" / "Network.onnx")
    shape = Shape(form="lens", precision="int8", snap_gelu=True)
    with pytest.raises(LumigraphError, match="without int8"):
        write_bundle(run, tmp_path / "other", shape=shape, check_views=1)
