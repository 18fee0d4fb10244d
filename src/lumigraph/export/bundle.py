"""Bundles: a folder with a student's graphs and a manifest that says all a player needs.

    manifest.json   form, precision, ports, camera, orbit, scene, sizes, provenance, licence, checksums, parity
    view.onnx       camera_to_world [3, 4], focal [2], principal [2] -> image [H, W, 3]
    rays.onnx       origins [N, 3], directions [N, 3] -> rgb [N, 3]; not of students that answer for whole pictures
    poster.png      what the first held-out camera sees

Where the student knows time or attributes, rays.onnx takes times [N] and attributes [N, A] as well, and view.onnx time,
a scalar, and attributes [A]; the manifest gives the range, the names and a default of each.
Graphs and the manifest's camera are in the units of the capture, so that a pose of the capture (or of an application
that tracks in it) goes in as it is; `scene` holds the cameras and the transform of the run, in scene units.

A bundle in the form "lens" has Sampler.onnx, Embedder.onnx and Network.onnx instead (`lens.py`), and a folder lens/.
Files for phones (`phones.py`) are beside either. All names in the manifest are relative, so a bundle can be moved.
`write_bundle` makes one from a run; `bundle_renderer.py` reads and renders it.
"""

import hashlib
import io
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lumigraph import __version__, files
from lumigraph.configs.serial import config_to_json
from lumigraph.errors import LumigraphError
from lumigraph.export import lens, parity, phones
from lumigraph.export import onnx as graphs
from lumigraph.export.bundle_renderer import FORMAT, MANIFEST, SCHEMA, BundleRenderer, is_bundle
from lumigraph.export.orbit import orbit_of
from lumigraph.export.portable import multiply_adds, require_portable, shipped_parameters
from lumigraph.export.ports import Condition, conditions_of
from lumigraph.export.precision import Precision, calibration_codes, network_in
from lumigraph.export.quantisation import layers_in_8_bits
from lumigraph.export.runtime import Session
from lumigraph.geometry.cameras import Cameras
from lumigraph.rendering.picture_light_field import PictureLightField
from lumigraph.rendering.renderer import Renderer
from lumigraph.scenes.scene import SceneInfo
from lumigraph.training.runs import Run

UNSTATED = "not stated: ask whoever took the photos and trained the model"
Form = Literal["fused", "lens"]


@dataclass(frozen=True)
class Shape:
    """What a bundle is to hold: the form and the precision of its graphs, whether a lens gets the network with Snap's
    GELU as well, and the formats for phones, names of `phones.FORMATS`."""

    form: Form = "fused"
    precision: Precision = "float32"
    snap_gelu: bool = False
    phones: tuple[str, ...] = ()


def write_bundle(
    run: Run,
    out: str | Path,
    *,
    shape: Shape | None = None,
    licence: str = UNSTATED,
    check_views: int = 3,
    overwrite: bool = False,
    report: Callable[[str], None] = lambda line: None,
    beside: Callable[[Path], None] = lambda folder: None,
) -> dict[str, Any]:
    """Export a student's run to the folder `out`, and return its manifest.

    All graphs are compared with torch in float32 on `check_views` cameras first; `report` gets the figures, a line
    each. `beside` may put more into the folder before it appears. Whatever goes wrong, nothing is left at `out`.

    Raises:
        LumigraphError: the method has no such graph, or none of this `shape`, a library is missing, `out` exists (with
            `overwrite`: and is no bundle), or torch and onnxruntime differ by more than the precision allows.
    """
    shape = shape or Shape()
    require_exportable(run.method, out, shape, overwrite)
    if check_views < 1:
        raise LumigraphError(
            "a bundle is checked on one camera at least", todo="Choose a number of 1 or more"
        )
    with files.new_folder(out, overwrite) as folder:
        manifest = _written(run, shape, folder, check_views, report)
        manifest["licence"] = licence
        files.write_json(folder / MANIFEST, manifest)
        beside(folder)
        BundleRenderer(folder)  # it opens: checksums, ports and scene are what a reader will find
    return manifest


def require_exportable(
    method: str, out: str | Path, shape: Shape | None = None, overwrite: bool = False
) -> None:
    """Raise what `write_bundle` would raise before it opens a run of this method, for a command that wants to know
    before its long work.

    Raises:
        LumigraphError: see `write_bundle`.
    """
    shape = shape or Shape()
    graphs.require_libraries((*graphs.WRITERS, "onnxruntime"), "export")
    require_portable(method)
    phones.require_formats(shape.phones, shape.precision)
    if shape.snap_gelu and (shape.form != "lens" or shape.precision == "int8"):
        raise LumigraphError(
            "Snap's GELU is for the network of a lens, in float32 or float16",
            todo="Add --form lens, without int8",
        )
    _check_replaceable(Path(out), overwrite)


def _written(
    run: Run, shape: Shape, folder: Path, check_views: int, report: Callable[[str], None]
) -> dict[str, Any]:
    """Everything but the manifest, which is returned."""
    renderer = run.load_renderer("cpu").eval()
    renderer.compute_dtype = torch.float32
    cameras = evenly_spread(run.info, check_views)
    if isinstance(renderer, PictureLightField):
        cameras = _through_learnt_lens(renderer, cameras)
    student = _Student(renderer, run.info, cameras, conditions_of(renderer, run.info, cameras))
    made = (_lens if shape.form == "lens" else _fused)(student, shape)
    figures, poster = made.check(student, shape.precision)
    for figure in figures:
        report(str(figure))
        figure.require()
    network = _network_sizes(student)
    if shape.precision == "int8":
        network |= _counts_of_8_bits(made, report)
    models = {form: _write_graph(folder, made.files[form], graph) for form, graph in made.graphs.items()}
    for form, more in made.about.items():
        models[form] |= more
    written = {}
    for name in shape.phones:
        written[name], lines = phones.write(
            name, renderer, run.info, cameras, student.conditions, shape.precision, folder
        )
        for line in lines:
            report(line)
    capture = cameras[0].transformed(run.info.to_capture)
    orbit = orbit_of(run.info, cameras[0])
    manifest = {
        "format": FORMAT,
        "schema": SCHEMA,
        "method": run.method,
        "form": shape.form,
        "precision": shape.precision,
        "models": models,
        "phones": written,
        "network": network,
        "poster": _write(folder, "poster.png", _png(poster)),
        "camera": _camera(capture, student.conditions),
        "orbit": orbit,
        "scene": _without_place(run.info).to_json(),
        "provenance": _provenance(run, renderer),
        "parity": {figure.form: figure.to_json() for figure in figures},
    }
    if isinstance(renderer, PictureLightField):
        manifest["picture"] = {"patch": renderer.config.patch, "focal": renderer.focal.tolist()}
    if shape.form == "lens":
        constants = lens.lens_constants(lens.require_lens(renderer), run.info, capture, orbit)
        (folder / "lens").mkdir()
        manifest["lens"] = _write(folder, "lens/constants.js", lens.constants_script(constants)) | {
            "constants": constants
        }
    return manifest


@dataclass(frozen=True)
class _Student:
    """A renderer with the cameras, scene units, of which the first is the one that graphs are made for."""

    renderer: Renderer
    info: SceneInfo
    cameras: Cameras
    conditions: tuple[Condition, ...]

    @property
    def size(self) -> tuple[int, int]:
        width, height = self.cameras.size[0].tolist()
        return width, height

    def codes(self, precision: Precision) -> list[Tensor]:
        """What the network sees of pseudo views, of as many as the precision asks for."""
        views = {"views": 2} if precision != "int8" else {}
        return calibration_codes(self.renderer, self.info, *self.size, self.conditions, **views)


@dataclass(frozen=True)
class _Made:
    """Graphs by their names in the manifest, with the names of their files and what else is to be said of them."""

    graphs: Mapping[str, graphs.Graph]
    files: Mapping[str, str]
    about: Mapping[str, dict[str, Any]] = field(default_factory=dict)

    def sessions(self) -> dict[str, Session]:
        """All but what no runtime here knows."""
        known = {form: graph for form, graph in self.graphs.items() if form != lens.SNAP}
        return {form: Session(graph.data, self.files[form]) for form, graph in known.items()}

    def check(
        self, student: _Student, precision: Precision
    ) -> tuple[list[parity.Parity], Float[Tensor, "H W 3"]]:
        """How exact the graphs are, and a poster."""
        renderer, cameras, to_capture = student.renderer, student.cameras, student.info.to_capture
        sessions, figures = self.sessions(), []
        if "rays" in sessions:
            figures.append(parity.check_rays(renderer, sessions["rays"], cameras, to_capture, precision))
        paint = lens.view_painter(sessions, student.size, to_capture)
        view_figure, poster = parity.check_views(renderer, paint, cameras, precision)
        return [*figures, view_figure], poster


def _through_learnt_lens(renderer: PictureLightField, cameras: Cameras) -> Cameras:
    """The poses of all cameras, seen through one lens: with the pixels that a student of whole pictures has learnt, and
    at the size that the first camera has with those. With other pixels torch would resample, and graphs do not."""
    first = renderer.native(cameras[0])
    focal = renderer.focal if bool(renderer.focal.all()) else first.focal[0]
    return replace(
        cameras,
        size=first.size.expand_as(cameras.size),
        focal=focal.expand_as(cameras.focal),
        principal=first.principal.expand_as(cameras.principal),
    )


def _fused(student: _Student, shape: Shape) -> _Made:
    renderer, info, conditions = student.renderer, student.info, student.conditions
    network = network_in(shape.precision, renderer, student.codes(shape.precision))
    if isinstance(renderer, PictureLightField):
        view = graphs.picture_view_graph(renderer, info.world_transform, *student.size, conditions, network)
        return _Made({"view": view}, {"view": "view.onnx"})
    rays = graphs.rays_graph(renderer, info.world_transform, conditions, network)
    view = graphs.rays_view_graph(rays, *student.size, conditions)
    return _Made({"rays": rays, "view": view}, {"rays": "rays.onnx", "view": "view.onnx"})


def _lens(student: _Student, shape: Shape) -> _Made:
    renderer = lens.require_lens(student.renderer)
    codes = student.codes(shape.precision)
    camera = student.cameras[0].transformed(student.info.to_capture)
    made: dict[str, graphs.Graph] = dict(
        lens.lens_graphs(renderer, student.info.world_transform, camera, shape.precision, codes)
    )
    about = {}
    if shape.snap_gelu:
        made[lens.SNAP], figures = lens.snap_network(renderer, shape.precision == "float16", codes)
        about[lens.SNAP] = {"runs_in": "SnapML, which knows the operator GeluSnap", **figures}
    return _Made(made, {form: f"{lens.FILES[form]}.onnx" for form in made}, about)


def _network_sizes(student: _Student) -> dict[str, Any]:
    """Parameters of the whole student as it is shipped, and its multiply-adds, of a ray and of a picture."""
    width, height = student.size
    each, picture = multiply_adds(
        student.renderer, student.info.world_transform, width, height, student.conditions
    )
    sizes: dict[str, Any] = {"parameters": shipped_parameters(student.renderer)}
    if each is not None:
        sizes["multiply_adds_per_ray"] = each
    return {**sizes, "multiply_adds": picture}


def _counts_of_8_bits(made: _Made, report: Callable[[str], None]) -> dict[str, Any]:
    """How many layers compute in 8 bits, of those with matrices of 8 bits: of the graph in which each stands once."""
    form = next(form for form in ("network", "rays", "view") if form in made.graphs)
    computing, stored = layers_in_8_bits(made.graphs[form])
    report(
        f"int8: {computing} of the {stored} layers with matrices of 8 bits compute in 8 bits, the others in float32"
    )
    return {"layers_in_8_bits": computing, "layers_on_8_bits": stored}


def _check_replaceable(out: Path, overwrite: bool) -> None:
    files.require_replaceable(out, overwrite)
    with files.io_errors(out):
        filled = out.is_dir() and any(out.iterdir())
    if filled and not is_bundle(out):
        raise LumigraphError(
            f"there is something here that is not a bundle (no {MANIFEST} of ours)",
            where=out,
            todo="Choose another folder for --out, or remove this one yourself",
        )


def evenly_spread(info: SceneInfo, count: int) -> Cameras:
    """Up to `count` held-out cameras (training cameras where there are none), at the size of the first, with attributes
    of 0 where nobody has said what they are."""
    split = next(name for name in ("test", "val", "train") if len(info.cameras.get(name, ())))
    cameras = info.cameras[split]
    chosen = torch.linspace(0, len(cameras) - 1, min(count, len(cameras))).round().long()
    width, height = cameras.size[0].tolist()
    cameras = cameras[chosen].resized(width, height)
    if cameras.attributes is None:
        return cameras
    return replace(cameras, attributes=cameras.attributes.nan_to_num(0.0))


def _write(folder: Path, name: str, data: bytes) -> dict[str, Any]:
    files.write_bytes_atomic(folder / name, data)
    return {"file": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _write_graph(folder: Path, name: str, graph: graphs.Graph) -> dict[str, Any]:
    return {
        **_write(folder, name, graph.data),
        "opset": graphs.OPSET,
        "inputs": [port.to_json() for port in graph.inputs],
        "outputs": [port.to_json() for port in graph.outputs],
    }


def _png(image: Float[Tensor, "H W 3"]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _camera(camera: Cameras, conditions: Sequence[Condition]) -> dict[str, Any]:
    """The camera a player starts with, units of the capture: values for the inputs of the graph from pose to image."""
    width, height = camera.size[0].tolist()
    return {
        "width": width,
        "height": height,
        "focal": camera.focal[0].tolist(),
        "principal": camera.principal[0].tolist(),
        "camera_to_world": camera.camera_to_world[0].tolist(),
        **{condition.of_view: condition.value for condition in conditions},
        "near": float(camera.near[0]),
        "far": float(camera.far[0]),
        "frame": "OpenCV: x right, y down, z forward; pixel centres at +0.5; no lens distortion",
        "units": "those of the capture",
    }


def _without_place(info: SceneInfo) -> SceneInfo:
    """The scene by its name alone: bundles are published, and where photos lie on this disk is nobody's business."""
    if info.source.startswith("builtin:"):
        return info
    return replace(info, source=Path(info.source).name)


def _provenance(run: Run, renderer: Renderer) -> dict[str, Any]:
    # Where the scene lay as seen from the run says nothing without the run.
    history = {key: value for key, value in run.provenance.items() if key != "scene_relative_to_run"}
    return {
        "run": history,
        "config": config_to_json(run.config),
        "parameters": sum(parameter.numel() for parameter in renderer.parameters()),
        "scene": run.info.name,
        "versions": {
            "lumigraph": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "onnx", "onnxscript", "onnxruntime")},
        },
    }
