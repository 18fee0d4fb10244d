"""ONNX graphs of a student: rays to colours, and a camera pose to an image, both with the time and the attributes that
the student knows as further inputs.

All hold standard operators only (opset 18), in one file without external data, so that onnxruntime on any device,
onnxruntime-web and the phone converters can open them. A graph is the code of the student followed by its network
(`portable.py`), which may be in less than float32 (`precision.py`).
"""

import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lumigraph.errors import LumigraphError
from lumigraph.export import portable
from lumigraph.export.ports import CODE, Condition, Port
from lumigraph.rendering.picture_light_field import PictureLightField

OPSET = 18
BLOCK_RAYS = 1 << 15
"""Rays that the image graph evaluates at a time: the encoding of a whole large image would not fit into memory."""
WRITERS = ("onnx", "onnxscript")


@dataclass(frozen=True)
class Graph:
    """An ONNX file's content with its ports."""

    data: bytes
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


def require_libraries(
    names: Sequence[str], purpose: str, install: str = "pip install lumigraph[export]"
) -> None:
    """Raise `LumigraphError` saying how to `install` them when one of the optional libraries is not there."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise LumigraphError(
            f"{purpose} needs {', '.join(missing)}, which {verb} not installed",
            todo=install,
        )


# -------------------------------------------------------------------------------------------- of rays


def network_graph(renderer: nn.Module, codes: Tensor, half: bool = False) -> Graph:
    """The network of a student alone, float32 from end to end of it: `code` -> `colours`. Of rays [N, E] -> [N, 3] with
    any N; of pictures [1, E, h, w] -> [1, 3, h f, w f]. `codes` is an example; with `half`, weights and activations are
    in half precision within."""
    network = portable.colours_module(renderer, half)
    if isinstance(renderer, PictureLightField):
        with torch.no_grad():
            shape = tuple(network(codes).shape)
        inputs = (Port(CODE, tuple(codes.shape), "codes of the rays through the patches"),)
        outputs = (Port("colours", shape, "sRGB in [0, 1], whole patches"),)
    else:
        inputs = (Port(CODE, ("rays", codes.shape[1]), "codes of rays"),)
        outputs = (Port("colours", ("rays", 3), "sRGB in [0, 1] on the background"),)
    return Graph(checked(trace(network, (codes,), inputs, outputs)), inputs, outputs)


def rays_graph(
    renderer: nn.Module,
    world_transform: Float[Tensor, "4 4"],
    conditions: Sequence[Condition] = (),
    network: Graph | None = None,
) -> Graph:
    """The graph origins [N, 3], directions [N, 3], then each condition (times [N], attributes [N, A]) -> rgb [N, 3],
    with any N.

    Its rays are in the units of the capture: `world_transform`, from those to scene units, is part of the graph.
    `network`: what turns codes into colours, that of the student in float32 unless given.
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
    encoder = portable.RayCode(renderer, world_transform, [condition.of_rays for condition in conditions])
    with torch.no_grad():
        codes = encoder(*example)
    code = Port(CODE, ("rays", codes.shape[1]), "")
    model = trace(encoder, example, inputs, (code,))
    append(model, network or network_graph(renderer, codes), {"colours": "rgb"})
    _set_output(model, outputs[0])
    return Graph(checked(model), inputs, outputs)


def rays_view_graph(rays: Graph, width: int, height: int, conditions: Sequence[Condition] = ()) -> Graph:
    """The graph camera_to_world [3, 4], focal [2], principal [2], then each condition (time, a scalar, and attributes
    [A]) -> image [H, W, 3] of a student of rays; rays are made inside.

    The camera is an undistorted pinhole of `width` x `height` pixels with centres at +0.5. The nodes of the ray
    graph are repeated for each block of rows, which is as portable as operators are (loops are not), with one
    copy of the weights.
    """
    camera = _PinholeBlocks(width, height)
    inputs, outputs, example = view_ports(width, height, conditions)
    made = [Port(f"{port.name}_{k}", port.shape, "") for k in range(camera.blocks) for port in rays.inputs]
    model = trace(camera, example, inputs, tuple(made))
    _append_blocks(model, rays, camera.blocks, (height, width, 3))
    _set_output(model, outputs[0])
    return Graph(checked(model), inputs, outputs)


class _PinholeBlocks(nn.Module):
    """Origins, directions and conditions, block after block of rows, of the pixels of a pinhole camera."""

    def __init__(self, width: int, height: int):
        super().__init__()
        self.camera = portable.PinholeRays(width, height, 1)
        self.rows = max(1, BLOCK_RAYS // width)
        self.blocks = -(-height // self.rows)

    def forward(
        self, camera_to_world: Tensor, focal: Tensor, principal: Tensor, *conditions: Tensor
    ) -> tuple[Tensor, ...]:
        origin, across, down = self.camera(camera_to_world, focal, principal)
        made: list[Tensor] = []
        for rows in down.split(self.rows):
            directions = (rows[:, None] + across).reshape(-1, 3)
            repeated = [value.expand(len(directions), *value.shape) for value in conditions]
            made += [origin.expand_as(directions), directions, *repeated]
        return tuple(made)


# -------------------------------------------------------------------------------------------- of pictures


def picture_codes(
    renderer: PictureLightField,
    world_transform: Float[Tensor, "4 4"],
    width: int,
    height: int,
    conditions: Sequence[Condition] = (),
) -> portable.PictureCode:
    """The module that makes the code of a picture from the inputs of its graph."""
    names = [condition.of_rays for condition in conditions]
    return portable.PictureCode(renderer, world_transform, width, height, names)


def picture_view_graph(
    renderer: PictureLightField,
    world_transform: Float[Tensor, "4 4"],
    width: int,
    height: int,
    conditions: Sequence[Condition] = (),
    network: Graph | None = None,
) -> Graph:
    """The graph of `rays_view_graph` for a student of whole pictures: one pass of its network, or of `network`.

    Pictures whose sides are no multiples of a patch are made of whole patches and cut.
    """
    inputs, outputs, example = view_ports(width, height, conditions)
    encoder = picture_codes(renderer, world_transform, width, height, conditions)
    with torch.no_grad():
        codes = encoder(*example)
    model = trace(encoder, example, inputs, (Port(CODE, tuple(codes.shape), ""),))
    append(model, network or network_graph(renderer, codes), {})
    _append_cut(model, width, height)
    _set_output(model, outputs[0])
    return Graph(checked(model), inputs, outputs)


def view_ports(
    width: int, height: int, conditions: Sequence[Condition]
) -> tuple[tuple[Port, ...], tuple[Port, ...], tuple[Tensor, ...]]:
    """Inputs and outputs of an image graph, and an example of the inputs."""
    inputs = (
        Port("camera_to_world", (3, 4), "OpenCV camera frame (x right, y down, z forward) to the capture's"),
        Port("focal", (2,), "focal lengths, pixels"),
        Port("principal", (2,), "principal point, pixels from the left upper corner of the image"),
        *(condition.view_port for condition in conditions),
    )
    outputs = (Port("image", (height, width, 3), "sRGB in [0, 1] on the background"),)
    pose = (torch.eye(3, 4), torch.full((2,), float(width)), torch.tensor([width / 2, height / 2]))
    return inputs, outputs, (*pose, *(condition.example for condition in conditions))


# -------------------------------------------------------------------------------------------- putting together


def append(model: Any, part: Graph, names: Mapping[str, str], prefix: str = "network/") -> None:
    """Behind what `model` makes, the nodes and weights of `part`. Its inputs are values of the same names; its outputs
    get those of `names`; all that is between gets `prefix` before its name."""
    import onnx

    graph = onnx.load_from_string(part.data).graph
    ends = {port.name: names.get(port.name, port.name) for port in (*part.inputs, *part.outputs)}
    known = {"": "", **ends, **_append_weights(model, graph, prefix)}
    _append_nodes(model, graph, known, prefix)


def _append_weights(model: Any, graph: Any, prefix: str) -> dict[str, str]:
    """Weights of `graph`, under new names, which are returned by the old ones."""
    names = {tensor.name: f"{prefix}{tensor.name}" for tensor in graph.initializer}
    for tensor in graph.initializer:
        tensor.name = names[tensor.name]
        model.graph.initializer.append(tensor)
    return names


def _append_nodes(model: Any, graph: Any, known: dict[str, str], prefix: str, suffix: str = "") -> None:
    """Nodes of `graph` with the names of `known`, and new ones for what is between."""
    for template in graph.node:
        node = model.graph.node.add()
        node.CopyFrom(template)
        node.name = f"{prefix}{template.name}{suffix}"
        node.input[:] = [known[name] for name in template.input]
        for name in template.output:
            known.setdefault(name, f"{prefix}{name}{suffix}")
        node.output[:] = [known[name] for name in template.output]


def _append_blocks(model: Any, rays: Graph, blocks: int, shape: tuple[int, int, int]) -> None:
    """Behind the rays that `model` makes, the ray graph for each block, and the image [H, W, 3] of all."""
    import onnx
    from onnx import helper

    graph = onnx.load_from_string(rays.data).graph
    weights = _append_weights(model, graph, "rays/")
    ends = [port.name for port in (*rays.inputs, *rays.outputs)]
    for k in range(blocks):
        # Ends of the ray graph meet the rays of this block; what is between gets names of its own.
        known = {"": "", **weights, **{end: f"{end}_{k}" for end in ends}}
        _append_nodes(model, graph, known, "rays/", f"_{k}")
    size = helper.make_tensor("image_size", onnx.TensorProto.INT64, [3], shape)
    model.graph.initializer.append(size)
    colours = [f"{rays.outputs[0].name}_{k}" for k in range(blocks)]
    model.graph.node.append(helper.make_node("Concat", colours, ["colours"], name="node_colours", axis=0))
    model.graph.node.append(
        helper.make_node("Reshape", ["colours", "image_size"], ["image"], name="node_image")
    )


def _append_cut(model: Any, width: int, height: int) -> None:
    """Behind `colours` [1, 3, h f, w f], the image [H, W, 3], without what reaches over the rim."""
    import onnx
    from onnx import helper

    for name, values in (
        ("batch", [0]),
        ("cut_from", [0, 0]),
        ("cut_to", [height, width]),
        ("sides", [0, 1]),
    ):
        model.graph.initializer.append(
            helper.make_tensor(name, onnx.TensorProto.INT64, [len(values)], values)
        )
    nodes: tuple[tuple[str, list[str], str, dict[str, Any]], ...] = (
        ("Squeeze", ["colours", "batch"], "planes", {}),
        ("Transpose", ["planes"], "patches", {"perm": [1, 2, 0]}),
        ("Slice", ["patches", "cut_from", "cut_to", "sides"], "image", {}),
    )
    for kind, inputs, output, more in nodes:
        model.graph.node.append(helper.make_node(kind, inputs, [output], name=f"node_{output}", **more))


def _set_output(model: Any, port: Port) -> None:
    """Make one value the only output."""
    import onnx
    from onnx import helper

    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(port.name, onnx.TensorProto.FLOAT, port.shape))


# -------------------------------------------------------------------------------------------- tracing


def trace(
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


def checked(model: Any) -> bytes:
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
