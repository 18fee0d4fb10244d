"""MobileR2L in three graphs, with the published names of their inputs and outputs, so that lenses written for those
keep working (Cao et al., CVPR 2023, and its published exporter).

    Sampler   c2w33 [1, 1, 3, 3], c2w13 [1, 1, 1, 3]  ->  pts [1, 1, h w, 3 K]
    Embedder  rays [1, 1, h w, 3 K]                   ->  embbrays [1, 2 L + 1, h w, 3 K]
    Network   input [B, 3 K (2 L + 1), h, w]          ->  output [B, 3, H, W]

c2w33 and c2w13 are rotation and position of a camera in OpenGL's frame (x right, y up, z backward), in the units of the
capture; its focal length is fixed. `embbrays` has sines, cosines and the points themselves, and is `input` once its
axes stand in the order [h w, 3 K, 2 L + 1]: in a runtime that keeps channels last it already is.

Published are two further files, of which one is wrong: there the network has Relu where it was trained with GELU. The
other has the operator GeluSnap in that place, which only Snap's runtime knows; `snap_network` makes that one.

Letters: K points of a ray, L octaves; h w the grid of rays, H W the picture in whole patches.
"""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lumigraph.errors import LumigraphError
from lumigraph.export import onnx as graphs
from lumigraph.export.parity import compare, view_colours
from lumigraph.export.portable import PictureColours, PinholeRays, ToScene, colours_module
from lumigraph.export.ports import Port
from lumigraph.export.precision import Precision
from lumigraph.export.quantisation import quantised
from lumigraph.export.runtime import Session
from lumigraph.fields.ray_code import point_depths
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.conventions import opencv_to_opengl, split_similarity
from lumigraph.rendering.described_rays import Lines
from lumigraph.scenes.scene import SceneInfo
from lumigraph.students.mobile_r2l import MobileR2L

PARTS = ("sampler", "embedder", "network")
SNAP = "network_snap_gelu"
FILES = {"sampler": "Sampler", "embedder": "Embedder", "network": "Network", SNAP: "Network_SnapGELU"}
ELEVATION = (15.0, 75.0)
"""Degrees above the horizon between which the published lens, of a scene in Blender's format, keeps its orbit; it
counts them downwards, as -15 and -75."""


def require_lens(renderer: nn.Module) -> MobileR2L:
    """The student, where it has this form. Raises LumigraphError for others."""
    if isinstance(renderer, MobileR2L):
        return renderer
    raise LumigraphError(
        "the lens form is MobileR2L's: points of rays, sines of those, a network of convolutions, for still scenes",
        todo="Leave --form lens out, or distil mobile-r2l",
    )


class Sampler(nn.Module):
    """A pose to the points of the rays of all patches, in the frame where the student takes them."""

    def __init__(self, renderer: MobileR2L, world_transform: Tensor, camera: Cameras):
        super().__init__()
        width, height = camera.size[0].tolist()
        self.renderer = renderer
        self.to_scene = ToScene(world_transform)
        self.camera = PinholeRays(width, height, renderer.config.patch)
        self.register_buffer("focal", camera.focal[0].clone())
        self.register_buffer("principal", camera.principal[0].clone())

    def forward(self, c2w33: Tensor, c2w13: Tensor) -> Tensor:
        turn = torch.tensor([1.0, -1.0, -1.0])
        pose = torch.cat([c2w33[0, 0] * turn, c2w13[0, 0].T], 1)
        origin, across, down = self.camera(pose, self.focal, self.principal)
        directions = (down[:, None] + across).reshape(-1, 3)
        origins, directions = self.to_scene(origin.expand_as(directions), directions)
        if self.renderer.frame is not None:
            origins, directions = self.renderer.frame.lines(origins, directions)
        near, far = torch.tensor(self.renderer.near), torch.tensor(self.renderer.far)
        depths = point_depths(self.renderer.config.points, near, far, None)
        return self.renderer.describe(Lines(origins, directions, None, None), depths).rows.T[None, None]


class Embedder(nn.Module):
    """Points to their sines, cosines and themselves, in the published order."""

    def __init__(self, octaves: int):
        super().__init__()
        self.octaves = octaves

    def forward(self, rays: Tensor) -> Tensor:
        frequencies = 2.0 ** torch.arange(self.octaves, dtype=torch.float32)
        angles = rays * frequencies[:, None, None]
        return torch.cat([angles.sin(), angles.cos(), rays], 1)


def as_input(embedded: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """`embbrays` as the network's `input`."""
    values = embedded[0].transpose(1, 2, 0).reshape(rows, columns, -1)
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None])


def lens_graphs(
    renderer: MobileR2L,
    world_transform: Float[Tensor, "4 4"],
    camera: Cameras,
    precision: Precision,
    codes: list[Tensor],
) -> dict[str, graphs.Graph]:
    """The three graphs by the names of `PARTS`, for the focal length and the picture size of `camera` (units of the
    capture). `codes`: what the network sees, see `precision.calibration_codes`; the first two are its example."""
    points, octaves = renderer.config.scalars, renderer.config.octaves
    rays = codes[0].shape[2] * codes[0].shape[3]
    pose = (
        Port(
            "c2w33",
            (1, 1, 3, 3),
            "rotation, camera in OpenGL's frame (x right, y up, z backward) to the capture's",
        ),
        Port("c2w13", (1, 1, 1, 3), "position of the camera, units of the capture"),
    )
    points_port = Port("pts", (1, 1, rays, points), "points of the ray of each patch, x y z after x y z")
    sampler = _graph(
        Sampler(renderer, world_transform, camera),
        (torch.eye(3)[None, None], torch.ones(1, 1, 1, 3)),
        pose,
        (points_port,),
    )
    told = replace(points_port, name="rays")
    embedded = Port(
        "embbrays", (1, 2 * octaves + 1, rays, points), "sines, cosines, and the points themselves"
    )
    embedder = _graph(Embedder(octaves), (torch.zeros(1, 1, rays, points),), (told,), (embedded,))
    network = _network(colours_module(renderer, half=precision == "float16"), codes)
    if precision == "int8":
        network = quantised(network, codes)
    return {"sampler": sampler, "embedder": embedder, "network": network}


def _network(module: nn.Module, codes: list[Tensor]) -> graphs.Graph:
    example = torch.cat([codes[0], codes[0]])
    with torch.no_grad():
        _, channels, height, width = module(codes[0]).shape
    inputs = (Port("input", ("batch", *codes[0].shape[1:]), "embbrays, axes in the order of the channels"),)
    outputs = (Port("output", ("batch", channels, height, width), "sRGB in [0, 1], whole patches"),)
    return _graph(module, (example,), inputs, outputs)


def _graph(
    module: nn.Module, example: tuple[Tensor, ...], inputs: tuple[Port, ...], outputs: tuple[Port, ...]
) -> graphs.Graph:
    return graphs.Graph(graphs.checked(graphs.trace(module, example, inputs, outputs)), inputs, outputs)


class LensView:
    """The three graphs in onnxruntime, one after the other: a camera of the capture to its picture."""

    def __init__(self, sessions: Mapping[str, Session], width: int, height: int):
        self.sessions = sessions
        self.width, self.height = width, height
        self.rows, self.columns = (int(side) for side in sessions["network"].input_shape("input")[2:])

    def __call__(self, camera: Cameras) -> Float[Tensor, "H W 3"]:
        """The picture of one camera in units of the capture, of which the pose alone is asked."""
        pose = opencv_to_opengl(camera.camera_to_world)[0].cpu().numpy().astype(np.float32)
        values = {"c2w33": pose[None, None, :, :3].copy(), "c2w13": pose[None, None, :, 3][:, :, None].copy()}
        points = self.sessions["sampler"].run(values)
        embedded = self.sessions["embedder"].run({"rays": points})
        colours = self.sessions["network"].run({"input": as_input(embedded, self.rows, self.columns)})
        return torch.from_numpy(colours)[0].permute(1, 2, 0)[: self.height, : self.width]


def view_painter(
    sessions: Mapping[str, Session], size: tuple[int, int], to_capture: Float[Tensor, "4 4"]
) -> Callable[[Cameras], Float[Tensor, "H W 3"]]:
    """What draws the picture of one camera, scene units, of the graphs' `size` (width, height), in either form: a
    graph from pose to image, or the three of a lens."""
    if "view" in sessions:
        return lambda camera: view_colours(sessions["view"], camera, to_capture)
    three = LensView(sessions, *size)
    return lambda camera: three(camera.transformed(to_capture))


# -------------------------------------------------------------------------------------------- Snap's GELU


def snap_network(
    renderer: MobileR2L, half: bool, codes: list[Tensor]
) -> tuple[graphs.Graph, dict[str, float]]:
    """The network with GeluSnap, an operator of Snap's runtime that no other knows, in place of every GELU; and what
    that changes: PSNR [dB] between pictures of the network and the same graph where GeluSnap is computed as GELU
    (`psnr_as_gelu`), as its approximation by a hyperbolic tangent (`psnr_as_tanh`), and as Relu (`psnr_as_relu`),
    which is what programs make of the published file without it.

    Raises:
        LumigraphError: the network has no GELU.
    """
    if renderer.config.activation != "gelu":
        raise LumigraphError(
            "this network has no GELU that could become Snap's",
            todo="Leave --snap-gelu out: Relu runs in a lens as it is",
        )
    import onnx

    network = colours_module(renderer, half)
    plain = _network(_with_relu(network), codes)
    model = onnx.load_from_string(plain.data)
    for node in model.graph.node:
        if node.op_type == "Relu":
            node.op_type = "GeluSnap"
    written = replace(plain, data=model.SerializeToString(deterministic=True))
    exact = colours_module(renderer)
    with torch.no_grad():
        wanted = torch.cat([exact(code) for code in codes[:2]])
    ways = {
        "psnr_as_gelu": ("Gelu", "none"),
        "psnr_as_tanh": ("Gelu", "tanh"),
        "psnr_as_relu": ("Relu", None),
    }
    figures = {}
    for name, (kind, approximate) in ways.items():
        session = Session(_computed_as(written.data, kind, approximate), FILES[SNAP])
        found = torch.cat(
            [torch.from_numpy(session.run({"input": code.contiguous().numpy()})) for code in codes[:2]]
        )
        figures[name] = compare("network", len(found), wanted, found).psnr
    return written, figures


def _with_relu(network: PictureColours | nn.Module) -> nn.Module:
    changed = copy.deepcopy(network)
    for module in list(changed.modules()):
        for name, part in list(module.named_children()):
            if isinstance(part, nn.GELU):
                setattr(module, name, nn.ReLU())
    return changed


def _computed_as(data: bytes, kind: str, approximate: str | None) -> bytes:
    """A graph that onnxruntime opens, with a standard operator in the place of GeluSnap."""
    import onnx
    from onnx import helper

    model = onnx.load_from_string(data)
    model.opset_import[0].version = 20  # the first with Gelu; the other operators here are the same in both
    for node in model.graph.node:
        if node.op_type == "GeluSnap":
            node.op_type = kind
            if approximate is not None:
                node.attribute.append(helper.make_attribute("approximate", approximate))
    return model.SerializeToString()


# -------------------------------------------------------------------------------------------- the lens's folder


def lens_constants(
    renderer: MobileR2L, info: SceneInfo, camera: Cameras, orbit: Mapping[str, Any]
) -> dict[str, Any]:
    """What a lens has to know: the grid of rays, how the code was made, and the orbit, units of the capture and
    degrees. `camera` is the one of the sampler, `orbit` that of the manifest (`orbit.orbit_of`)."""
    patch = renderer.config.patch
    width, height = camera.size[0].tolist()
    scale = split_similarity(info.to_capture)[0]
    ndc = renderer.frame is not None
    return {
        "H": math.ceil(height / patch),
        "W": math.ceil(width / patch),
        "PATCH": patch,
        "FOCAL": (camera.focal[0] / patch).tolist(),
        "NSAMPLE": renderer.config.points,
        "MULTIRES": renderer.config.octaves,
        "NEAR": renderer.near * (1 if ndc else scale),
        "FAR": renderer.far * (1 if ndc else scale),
        "NDC": ndc,
        "RADIUS": math.dist(camera.positions[0].tolist(), orbit["target"]),
        "TARGET": orbit["target"],
        "UP": orbit["up"],
        "EAST": orbit["east"],
        "AZIMUTH": orbit["azimuth"],
        "ELEVATION": list(ELEVATION) if info.format == "blender" else orbit["elevation"],
        "DISTANCE": orbit["distance"],
        "OUTPUT_SCALE": 255,
    }


def constants_script(constants: dict[str, Any]) -> bytes:
    """The constants as lines of JavaScript, the language of lenses."""
    import json

    lines = [f"var {name} = {json.dumps(value)};" for name, value in constants.items()]
    return "\n".join([*_SCRIPT_HEAD, *lines, ""]).encode()


_SCRIPT_HEAD = (
    "// Constants of this lens: lengths in units of the capture, angles in degrees, FOCAL in cells of the ray grid.",
    "// A camera stands at TARGET + r (cos(e) (cos(a) EAST + sin(a) UP x EAST) + sin(e) UP) and looks at TARGET:",
    "// r within DISTANCE, RADIUS at first; e within ELEVATION; a within AZIMUTH, or any where that is null.",
)
