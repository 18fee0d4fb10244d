"""ONNX graphs of a student: rays to colours, and a camera pose to an image, both with the time and the attributes that
the student knows as further inputs.

Both hold standard operators only (opset 18), in one file without external data, so that onnxruntime on any device,
onnxruntime-web and the phone converters can open them. What a student must offer for this is `PortableRays`.
"""

import inspect
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lumigraph.configs import registry
from lumigraph.errors import LumigraphError
from lumigraph.export.ports import Condition, Port
from lumigraph.geometry.conventions import split_similarity

OPSET = 18
BLOCK_RAYS = 1 << 15
"""Rays that the image graph evaluates at a time: the encoding of a whole large image would not fit into memory."""
WRITERS = ("onnx", "onnxscript")


@runtime_checkable
class PortableRays(Protocol):
    """A renderer that is one graph of standard operators: no control flow that depends on data."""

    def ray_colours(
        self, origins: Float[Tensor, "N 3"], directions: Float[Tensor, "N 3"], **conditions: Tensor
    ) -> Float[Tensor, "N 3"]:
        """Colours [N, 3] in [0, 1] along rays, on the display background, without perturbation. `conditions` are those
        of the renderer's own `conditions`, by their names: `times` [N], `attributes` [N, A]."""
        ...


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
    refused = registry.load_renderer_class(method)
    if issubclass(refused, PortableRays):
        return
    classes = {name: registry.load_renderer_class(name) for name in registry.methods()}
    portable = [name for name, of_method in classes.items() if issubclass(of_method, PortableRays)]
    alike = [name for name in portable if classes[name].conditions == refused.conditions]
    reason = "it is not one evaluation per ray"
    if registry.method_entry(method).kind == "teacher":
        reason = "a teacher marches along its rays through a field, and no standard operator does that"
    raise LumigraphError(
        f"{method} cannot be written as a graph: {reason}; what can be exported is {', '.join(portable)}",
        todo=f"Distil a student and export that: lumigraph distill {(alike or portable)[0]} RUN --run STUDENT",
    )


def rays_graph(
    renderer: nn.Module, world_transform: Float[Tensor, "4 4"], conditions: Sequence[Condition] = ()
) -> Graph:
    """The graph origins [N, 3], directions [N, 3], then each condition (times [N], attributes [N, A]) -> rgb [N, 3],
    with any N.

    Its rays are in the units of the capture: `world_transform`, from those to scene units, is part of the graph.
    """
    inputs = (
        Port("origins", ("rays", 3), "where the rays start, units of the capture"),
        Port("directions", ("rays", 3), "not normalised: depth 1 along the camera's axis per unit"),
        *(condition.ray_port for condition in conditions),
    )
    outputs = (Port("rgb", ("rays", 3), "sRGB in [0, 1] on the background"),)
    # An example of one ray would be specialised to N = 1.
    values = [condition.example for condition in conditions]
    example = (torch.zeros(4, 3), torch.ones(4, 3), *(value.expand(4, *value.shape) for value in values))
    names = [condition.of_rays for condition in conditions]
    model = _trace(_RayColours(renderer, world_transform, names), example, inputs, outputs)
    return Graph(_checked(model), inputs, outputs)


def view_graph(rays: Graph, width: int, height: int, conditions: Sequence[Condition] = ()) -> Graph:
    """The graph camera_to_world [3, 4], focal [2], principal [2], then each condition (time, a scalar, and attributes
    [A]) -> image [H, W, 3]; rays are made inside.

    The camera is an undistorted pinhole of `width` x `height` pixels with centres at +0.5. The nodes of the ray
    graph are repeated for each block of rows, which is as portable as operators are (loops are not), with one
    copy of the weights.
    """
    inputs = (
        Port("camera_to_world", (3, 4), "OpenCV camera frame (x right, y down, z forward) to the capture's"),
        Port("focal", (2,), "focal lengths, pixels"),
        Port("principal", (2,), "principal point, pixels from the left upper corner of the image"),
        *(condition.view_port for condition in conditions),
    )
    outputs = (Port("image", (height, width, 3), "sRGB in [0, 1] on the background"),)
    camera = _PinholeRays(width, height)
    blocks = range(camera.blocks)
    made = [Port(f"{port.name}_{k}", port.shape, "") for k in blocks for port in rays.inputs]
    pose = (torch.eye(3, 4), torch.full((2,), float(width)), torch.tensor([width / 2, height / 2]))
    example = (*pose, *(condition.example for condition in conditions))
    model = _trace(camera, example, inputs, tuple(made))
    _append_blocks(model, rays, camera.blocks, (height, width, 3))
    return Graph(_checked(model), inputs, outputs)


class _RayColours(nn.Module):
    turn: Tensor
    turn_and_scale: Tensor
    translation: Tensor

    def __init__(self, renderer: nn.Module, world_transform: Tensor, conditions: Sequence[str]):
        super().__init__()
        self.renderer = renderer
        self.conditions = conditions
        scale, rotation, translation = split_similarity(world_transform)
        self.moved = not torch.equal(world_transform, torch.eye(4).to(world_transform))
        self.register_buffer("turn", rotation.T.float())
        self.register_buffer("turn_and_scale", (scale * rotation.T).float())
        self.register_buffer("translation", translation.float())

    def forward(self, origins: Tensor, directions: Tensor, *conditions: Tensor) -> Tensor:
        assert isinstance(self.renderer, PortableRays)
        if self.moved:
            origins = origins @ self.turn_and_scale + self.translation
            directions = directions @ self.turn
        named = dict(zip(self.conditions, conditions, strict=True))
        return self.renderer.ray_colours(origins, directions, **named)


class _PinholeRays(nn.Module):
    """Origins, directions and conditions, block after block of rows, of the pixels of a pinhole camera."""

    def __init__(self, width: int, height: int):
        super().__init__()
        self.width, self.height = width, height
        self.rows = max(1, BLOCK_RAYS // width)
        self.blocks = -(-height // self.rows)

    def forward(
        self, camera_to_world: Tensor, focal: Tensor, principal: Tensor, *conditions: Tensor
    ) -> tuple[Tensor, ...]:
        right, down, forward, origin = camera_to_world.unbind(1)
        x = (torch.arange(self.width, dtype=torch.float32) + 0.5 - principal[0]) / focal[0]
        y = (torch.arange(self.height, dtype=torch.float32) + 0.5 - principal[1]) / focal[1]
        across = x[None, :, None] * right + forward
        made: list[Tensor] = []
        for rows in y.split(self.rows):
            directions = (rows[:, None, None] * down + across).reshape(-1, 3)
            repeated = [value.expand(len(directions), *value.shape) for value in conditions]
            made += [origin.expand_as(directions), directions, *repeated]
        return tuple(made)


def _append_blocks(model: Any, rays: Graph, blocks: int, shape: tuple[int, int, int]) -> None:
    """Behind the rays that `model` makes, the ray graph for each block, and the image [H, W, 3] of all."""
    import onnx
    from onnx import helper

    network = onnx.load_from_string(rays.data).graph
    weights = {tensor.name: f"network/{tensor.name}" for tensor in network.initializer}
    for tensor in network.initializer:
        tensor.name = weights[tensor.name]
        model.graph.initializer.append(tensor)
    ends = [port.name for port in (*rays.inputs, *rays.outputs)]
    for k in range(blocks):
        # Ends of the ray graph meet the rays of this block; what is between gets names of its own.
        names = {"": "", **weights, **{end: f"{end}_{k}" for end in ends}}
        for template in network.node:
            node = model.graph.node.add()
            node.CopyFrom(template)
            node.name = f"{template.name}_{k}"
            node.input[:] = [names[name] for name in template.input]
            for name in template.output:
                names.setdefault(name, f"network/{name}_{k}")
            node.output[:] = [names[name] for name in template.output]
    size = helper.make_tensor("image_size", onnx.TensorProto.INT64, [3], shape)
    model.graph.initializer.append(size)
    colours = [f"{rays.outputs[0].name}_{k}" for k in range(blocks)]
    model.graph.node.append(helper.make_node("Concat", colours, ["colours"], name="node_colours", axis=0))
    model.graph.node.append(
        helper.make_node("Reshape", ["colours", "image_size"], ["image"], name="node_image")
    )
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, shape))


def _trace(
    module: nn.Module, example: tuple[Tensor, ...], inputs: tuple[Port, ...], outputs: tuple[Port, ...]
) -> Any:
    """The ONNX model of a module in evaluation mode, without traces of this machine."""
    require_libraries(WRITERS, "writing ONNX files")
    free = tuple({i: size for i, size in enumerate(port.shape) if isinstance(size, str)} for port in inputs)
    with _evaluating(module), _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module,
            example,
            dynamo=True,
            opset_version=OPSET,
            input_names=[port.name for port in inputs],
            output_names=[port.name for port in outputs],
            dynamic_shapes=_as_arguments(module, free) if any(free) else None,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _anonymise(model)
    return model


def _as_arguments(module: nn.Module, free: tuple[Any, ...]) -> tuple[Any, ...]:
    """One entry for each argument of the module, those of `*conditions` being one argument together."""
    kinds = [parameter.kind for parameter in inspect.signature(module.forward).parameters.values()]
    named = kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return (*free[:named], free[named:]) if free[named:] else free


def _checked(model: Any) -> bytes:
    """The file's content, once it is known to be valid and to need standard operators only."""
    import onnx

    foreign = {node.domain for node in model.graph.node} - {"", "ai.onnx"}
    if foreign or model.functions:
        raise RuntimeError(f"the graph uses operators outside the standard: {sorted(foreign)}")
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


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
