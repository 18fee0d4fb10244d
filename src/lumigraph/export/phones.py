"""The image graph of a student in the formats of phones: Core ML, LiteRT and ExecuTorch, each beside the ONNX files.

All three are made from torch, not from ONNX: their converters take what `torch.export` gives. Their inputs and outputs
are those of view.onnx, in the same order; where a format knows no number without an axis, the time has shape [1].
LiteRT and ExecuTorch have runtimes here, through which the files are compared with torch; Core ML runs on Apple's
systems only, so that its file is written and not checked.

Each format needs packages of its own, which are large (`Format.install`).
"""

import contextlib
import hashlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._decomp import get_decompositions

from lumigraph import files
from lumigraph.errors import LumigraphError
from lumigraph.export.onnx import BLOCK_RAYS, require_libraries, view_ports
from lumigraph.export.parity import compare, pinhole, view_values
from lumigraph.export.portable import view_image
from lumigraph.export.ports import Condition, Port
from lumigraph.export.precision import Precision
from lumigraph.geometry.cameras import Cameras
from lumigraph.rendering.renderer import Renderer
from lumigraph.scenes.scene import SceneInfo


@dataclass(frozen=True)
class Format:
    """A format: its file, the packages that write it, and what it is for."""

    file: str
    libraries: tuple[str, ...]
    install: str
    runtime: str
    write: Callable[[nn.Module, tuple[Tensor, ...], tuple[Port, ...], Path], None]
    """A module, an example and the ports of its inputs, and where to."""
    open: Callable[[Path], Callable[[tuple[Tensor, ...]], Tensor]] | None
    halve: Callable[[Path], None] | None = None
    """How float16 is made. None: the module's network computes in half precision when it is converted; else what
    makes the weights of a file that was written in float32 half as large."""
    scalars: bool = True
    """Whether an input may be a number, without an axis."""


def require_formats(names: Sequence[str], precision: Precision = "float32") -> None:
    """Raise `LumigraphError` where a format's packages are not installed, or it is not written in a precision."""
    if names and precision == "int8":
        raise LumigraphError(
            "files for phones are written in float32 and float16",
            todo=f"Export once more with --precision float16 --{names[0]}, to another folder",
        )
    for name in names:
        packages = tuple(library.replace("-", "_") for library in FORMATS[name].libraries)
        require_libraries(packages, f"--{name}", FORMATS[name].install)


def write(
    name: str,
    renderer: Renderer,
    info: SceneInfo,
    cameras: Cameras,
    conditions: Sequence[Condition],
    precision: Precision,
    folder: Path,
) -> tuple[dict[str, Any], list[str]]:
    """Write one format into `folder`; what the manifest says of it, and lines on how exact it is.

    Raises:
        LumigraphError: its packages refuse the network, or what the file paints differs by more than the precision
            allows.
    """
    made = FORMATS[name]
    width, height = cameras.size[0].tolist()
    inputs, outputs, example = view_ports(width, height, conditions)
    half = precision == "float16"
    module: nn.Module = view_image(
        renderer,
        info.world_transform,
        width,
        height,
        conditions,
        half and made.halve is None,
        BLOCK_RAYS,
    )
    if not made.scalars:
        module = FromVectors(module, inputs)
        inputs = tuple(replace(port, shape=port.shape or (1,)) for port in inputs)
        example = tuple(torch.atleast_1d(value) for value in example)
    path = folder / made.file
    with _quiet(), torch.no_grad():
        try:
            made.write(module, example, inputs, path)
            if half and made.halve is not None:
                made.halve(path)
        except LumigraphError:
            raise
        except Exception as error:  # converters have no base class of errors
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]
            raise LumigraphError(
                f"{made.libraries[0]} cannot convert this student: {reason}", todo=f"Leave --{name} out"
            ) from error
        figure = None
        if made.open is not None:
            paint = made.open(path)
            wanted = [renderer.view(pinhole(cameras[i])).rgb for i in range(len(cameras))]
            values = [view_values(cameras[i], info.to_capture, conditions) for i in range(len(cameras))]
            found = [paint(each) for each in values]
            figure = compare(name, len(cameras), torch.cat(wanted), torch.cat(found), precision)
            figure.require()
    listed = _files(path, folder)
    about = {
        "files": listed,
        "bytes": sum(part["bytes"] for part in listed),
        "inputs": [port.to_json() for port in inputs],
        "outputs": [port.to_json() for port in outputs],
        "runtime": made.runtime,
        "versions": {library: version(library) for library in made.libraries},
        "parity": None if figure is None else figure.to_json(),
    }
    return about, [f"{name}: written, not run: {made.runtime}" if figure is None else str(figure)]


class FromVectors(nn.Module):
    """A module whose inputs that are a number come as [1]."""

    def __init__(self, module: nn.Module, inputs: Sequence[Port]):
        """`inputs`: as the module takes them."""
        super().__init__()
        self.module = module
        self.numbers = [port.shape == () for port in inputs]

    def forward(self, *values: Tensor) -> Tensor:
        pairs = zip(values, self.numbers, strict=True)
        return self.module(*(value.squeeze(0) if number else value for value, number in pairs))


def _files(path: Path, folder: Path) -> list[dict[str, Any]]:
    """The file, or all files of the folder, that a format consists of."""
    found = sorted(part for part in path.rglob("*") if part.is_file()) if path.is_dir() else [path]
    parts = []
    for part in found:
        data = part.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        parts.append({"file": part.relative_to(folder).as_posix(), "bytes": len(data), "sha256": digest})
    return parts


# -------------------------------------------------------------------------------------------- Core ML


def _write_coreml(
    module: nn.Module, example: tuple[Tensor, ...], inputs: tuple[Port, ...], path: Path
) -> None:
    coremltools = import_module("coremltools")

    unknown = get_decompositions([torch.ops.aten.addcmul])
    program = torch.export.export(module, example).run_decompositions(unknown)
    model = coremltools.convert(
        program,
        convert_to="mlprogram",
        inputs=[coremltools.TensorType(name=port.name, shape=port.shape) for port in inputs],
        outputs=[coremltools.TensorType(name="image")],
        # Half precision is where the module has it; the code of a ray has no room in it.
        compute_precision=coremltools.precision.FLOAT32,
        minimum_deployment_target=coremltools.target.iOS16,
    )
    model.save(str(path))


# -------------------------------------------------------------------------------------------- LiteRT


def _write_litert(
    module: nn.Module, example: tuple[Tensor, ...], inputs: tuple[Port, ...], path: Path
) -> None:
    litert_torch = import_module("litert_torch")

    litert_torch.convert(module, example).export(str(path))


def _halve_weights(path: Path) -> None:
    """Weights in half precision, which are made float32 again when the file is opened: LiteRT's processors of
    convolutions know no half precision on a CPU."""
    qtyping, quantizer = (import_module(f"ai_edge_quantizer.{name}") for name in ("qtyping", "quantizer"))

    weights = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
    quantiser = quantizer.Quantizer(str(path))
    quantiser.update_quantization_recipe(
        regex=".*",
        operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
        op_config=qtyping.OpQuantizationConfig(
            weight_tensor_config=weights, compute_precision=qtyping.ComputePrecision.FLOAT
        ),
        algorithm_key="float_casting",
    )
    quantiser.quantize().export_model(str(path), overwrite=True)


def _open_litert(path: Path) -> Callable[[tuple[Tensor, ...]], Tensor]:
    interpreter = import_module("ai_edge_litert.interpreter")

    opened = interpreter.Interpreter(model_path=str(path), num_threads=torch.get_num_threads())
    runner = opened.get_signature_runner()

    def paint(values: tuple[Tensor, ...]) -> Tensor:
        given = {f"args_{i}": np.ascontiguousarray(value.numpy()) for i, value in enumerate(values)}
        return torch.from_numpy(next(iter(runner(**given).values())))

    return paint


# -------------------------------------------------------------------------------------------- ExecuTorch


def _write_executorch(
    module: nn.Module, example: tuple[Tensor, ...], inputs: tuple[Port, ...], path: Path
) -> None:
    xnnpack = import_module("executorch.backends.xnnpack.partition.xnnpack_partitioner")
    exir = import_module("executorch.exir")

    program = torch.export.export(module, example)
    lowered = exir.to_edge_transform_and_lower(
        program, partitioner=[xnnpack.XnnpackPartitioner()]
    ).to_executorch()
    files.write_bytes_atomic(path, lowered.buffer)


def _open_executorch(path: Path) -> Callable[[tuple[Tensor, ...]], Tensor]:
    runtime = import_module("executorch.runtime")
    method = runtime.Runtime.get().load_program(path).load_method("forward")

    def paint(values: tuple[Tensor, ...]) -> Tensor:
        return method.execute(list(values))[0].clone()

    return paint


FORMATS = {
    "coreml": Format(
        "view.mlpackage",
        ("coremltools",),
        "pip install lumigraph[coreml]",
        "Core ML, on Apple's systems only",
        _write_coreml,
        open=None,
        scalars=False,
    ),
    "litert": Format(
        "view.tflite",
        ("litert-torch", "ai-edge-litert"),
        "pip install 'litert-torch>=0.10' && pip install --upgrade typing_extensions",
        "LiteRT",
        _write_litert,
        _open_litert,
        halve=_halve_weights,
    ),
    "executorch": Format(
        "view.pte",
        ("executorch",),
        "pip install lumigraph[executorch]",
        "ExecuTorch with its XNNPACK backend",
        _write_executorch,
        _open_executorch,
    ),
}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the remarks of the converters."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            with contextlib.redirect_stderr(io.StringIO()):
                yield
    finally:
        logging.disable(before)
