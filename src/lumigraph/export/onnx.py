"""ONNX graphs of a student: rays to colours, and a camera pose to an image.

Both hold standard operators only (opset 18), in one file without external data, so that onnxruntime on any device,
onnxruntime-web and the phone converters can open them. What a student must offer for this is `PortableRays`.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lumigraph.configs import registry
from lumigraph.errors import LumigraphError

OPSET = 18
BLOCK_RAYS = 1 << 16
"""Rays that the image graph evaluates at a time: the encoding of a whole large image would not fit into memory."""
WRITERS = ("onnx", "onnxscript")


@runtime_checkable
class PortableRays(Protocol):
    """A renderer that is one graph of standard operators: no control flow that depends on data."""

    def ray_colours(
        self, origins: Float[Tensor, "N 3"], directions: Float[Tensor, "N 3"]
    ) -> Float[Tensor, "N 3"]:
        """Colours [N, 3] in [0, 1] along rays, on the display background, without perturbation."""
        ...


@dataclass(frozen=True)
class Port:
    """One input or output of a graph, as the manifest describes it. A name in `shape` is a free size."""

    name: str
    shape: tuple[int | str, ...]
    meaning: str
    dtype: str = "float32"

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "shape": list(self.shape)}


@dataclass(frozen=True)
class Graph:
    """An ONNX file's content with its ports."""

    data: bytes
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


def require_libraries(names: Sequence[str], purpose: str) -> None:
    """Raise `LumigraphError` naming the extra when one of the optional libraries is not installed."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise LumigraphError(
            f"{purpose} needs {', '.join(missing)}, which {verb} not installed",
            todo="pip install lumigraph[export]",
        )


def require_portable(method: str) -> None:
    """Raise `LumigraphError` when a method cannot be written as a graph, naming those that can."""
    if issubclass(registry.load_renderer_class(method), PortableRays):
        return
    portable = [
        name for name in registry.methods() if issubclass(registry.load_renderer_class(name), PortableRays)
    ]
    reason = "it is not one evaluation per ray"
    if registry.method_entry(method).kind == "teacher":
        reason = "a teacher marches along its rays through a field, and no standard operator does that"
    raise LumigraphError(
        f"{method} cannot be written as a graph: {reason}; what can be exported is {', '.join(portable)}",
        todo=f"Distil a student and export that: lumigraph distill {portable[0]} RUN --run STUDENT",
    )


def rays_graph(renderer: nn.Module) -> Graph:
    """The graph origins [N, 3], directions [N, 3] -> rgb [N, 3] with any N."""
    inputs = (
        Port("origins", ("rays", 3), "where the rays start, scene units"),
        Port("directions", ("rays", 3), "not normalised: depth 1 along the camera's axis per unit"),
    )
    outputs = (Port("rgb", ("rays", 3), "sRGB in [0, 1] on the background"),)
    # An example of one ray would be specialised to N = 1.
    example = (torch.zeros(4, 3), torch.ones(4, 3))
    return _graph(_RayColours(renderer), example, inputs, outputs)


def view_graph(renderer: nn.Module, width: int, height: int) -> Graph:
    """The graph camera_to_world [3, 4], focal [2], principal [2] -> image [H, W, 3]; rays are made inside.

    The camera is an undistorted pinhole of `width` x `height` pixels with centres at +0.5.
    """
    inputs = (
        Port("camera_to_world", (3, 4), "OpenCV camera frame (x right, y down, z forward) to scene"),
        Port("focal", (2,), "focal lengths, pixels"),
        Port("principal", (2,), "principal point, pixels from the left upper corner of the image"),
    )
    outputs = (Port("image", (height, width, 3), "sRGB in [0, 1] on the background"),)
    example = (torch.eye(3, 4), torch.full((2,), float(width)), torch.tensor([width / 2, height / 2]))
    return _graph(_ViewColours(renderer, width, height), example, inputs, outputs)


class _RayColours(nn.Module):
    def __init__(self, renderer: nn.Module):
        super().__init__()
        self.renderer = renderer

    def forward(self, origins: Tensor, directions: Tensor) -> Tensor:
        assert isinstance(self.renderer, PortableRays)
        return self.renderer.ray_colours(origins, directions)


class _ViewColours(nn.Module):
    """The pinhole camera in front of a ray network; the loop over blocks of rows is unrolled in the graph."""

    def __init__(self, renderer: nn.Module, width: int, height: int):
        super().__init__()
        self.rays = _RayColours(renderer)
        self.width, self.height = width, height
        self.rows = max(1, BLOCK_RAYS // width)

    def forward(self, camera_to_world: Tensor, focal: Tensor, principal: Tensor) -> Tensor:
        right, down, forward, origin = camera_to_world.unbind(1)
        x = (torch.arange(self.width, dtype=torch.float32) + 0.5 - principal[0]) / focal[0]
        y = (torch.arange(self.height, dtype=torch.float32) + 0.5 - principal[1]) / focal[1]
        across = x[None, :, None] * right + forward
        blocks = []
        for rows in y.split(self.rows):
            directions = (rows[:, None, None] * down + across).reshape(-1, 3)
            blocks.append(self.rays(origin.expand_as(directions), directions))
        return torch.cat(blocks).reshape(self.height, self.width, 3)


def _graph(
    module: nn.Module, example: tuple[Tensor, ...], inputs: tuple[Port, ...], outputs: tuple[Port, ...]
) -> Graph:
    """Trace `module`, check what came out, and take this machine's traces out of it."""
    require_libraries(WRITERS, "writing ONNX files")
    import onnx

    free = tuple({i: size for i, size in enumerate(port.shape) if isinstance(size, str)} for port in inputs)
    with _evaluating(module), _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module,
            example,
            dynamo=True,
            opset_version=OPSET,
            input_names=[port.name for port in inputs],
            output_names=[port.name for port in outputs],
            dynamic_shapes=free if any(free) else None,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _anonymise(model)
    foreign = {node.domain for node in model.graph.node} - {"", "ai.onnx"}
    if foreign or model.functions:
        raise RuntimeError(f"the graph uses operators outside the standard: {sorted(foreign)}")
    onnx.checker.check_model(model, full_check=True)
    return Graph(model.SerializeToString(deterministic=True), inputs, outputs)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode (dropout and batch norm would be traced wrongly), and back to what was."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on torchvision's operators and on its own deprecations."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _anonymise(model: Any) -> None:
    """Remove the source lines and paths that the exporter notes at every node: they triple the text of a graph."""
    model.doc_string = ""
    del model.metadata_props[:]
    graph = model.graph
    for item in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        item.doc_string = ""
        del item.metadata_props[:]
