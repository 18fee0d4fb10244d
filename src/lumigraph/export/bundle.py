"""Bundles: a folder with a student's graphs and a manifest that says all a player needs.

    manifest.json   ports, camera, orbit, scene, provenance, licence, checksums, parity with torch
    rays.onnx       origins [N, 3], directions [N, 3] -> rgb [N, 3]
    view.onnx       camera_to_world [3, 4], focal [2], principal [2] -> image [H, W, 3]
    poster.png      what the first held-out camera sees

Where the student knows time or attributes, rays.onnx takes times [N] and attributes [N, A] as well, and view.onnx time,
a scalar, and attributes [A]; the manifest gives the range, the names and a default of each.
Graphs and the manifest's camera are in the units of the capture, so that a pose of the capture (or of an application
that tracks in it) goes in as it is; `scene` holds the cameras and the transform of the run, in scene units.
All names in the manifest are relative, so a bundle can be moved. `write_bundle` makes one from a run;
`BundleRenderer` renders it through onnxruntime.
"""

import hashlib
import io
import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lumigraph import __version__, files
from lumigraph.configs.serial import config_to_json
from lumigraph.errors import LumigraphError
from lumigraph.export import onnx as graphs
from lumigraph.export import parity
from lumigraph.export.orbit import orbit_of
from lumigraph.export.ports import CONDITIONS, Condition, conditions_of
from lumigraph.export.runtime import Session
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.renderer import Renderer, Rendering
from lumigraph.scenes.scene import SceneInfo
from lumigraph.training.runs import Run

MANIFEST = "manifest.json"
FORMAT = "lumigraph bundle"
SCHEMA = 4
READABLE = (2, 3, SCHEMA)
"""Version 3 has no `orbit`; version 2 has no bundles that take time or attributes either, and is the same otherwise."""
UNSTATED = "not stated: ask whoever took the photos and trained the model"


# -------------------------------------------------------------------------------------------- writing


def write_bundle(
    run: Run,
    out: str | Path,
    *,
    licence: str = UNSTATED,
    check_views: int = 3,
    overwrite: bool = False,
    report: Callable[[str], None] = lambda line: None,
    beside: Callable[[Path], None] = lambda folder: None,
) -> dict[str, Any]:
    """Export a student's run to the folder `out`, and return its manifest.

    Both graphs are compared with torch on `check_views` cameras first; `report` gets the figures, a line each.
    `beside` may put more into the folder before it appears. Whatever goes wrong, nothing is left at `out`.

    Raises:
        LumigraphError: the method has no such graph, a library is missing, `out` exists (with `overwrite`:
            and is no bundle), or torch and onnxruntime differ by more than 1/255.
    """
    graphs.require_libraries((*graphs.WRITERS, "onnxruntime"), "export")
    graphs.require_portable(run.method)
    if check_views < 1:
        raise LumigraphError(
            "a bundle is checked on one camera at least", todo="Choose a number of 1 or more"
        )
    _check_replaceable(Path(out), overwrite)
    cameras = evenly_spread(run.info, check_views)
    with files.new_folder(out, overwrite) as folder:
        renderer = run.load_renderer("cpu").eval()
        renderer.compute_dtype = torch.float32
        width, height = cameras.size[0].tolist()
        conditions = conditions_of(renderer, run.info, cameras)
        rays = graphs.rays_graph(renderer, run.info.world_transform, conditions)
        written = {"rays": rays, "view": graphs.view_graph(rays, width, height, conditions)}
        figures, poster = _check(renderer, written, cameras, run.info.to_capture)
        for figure in figures:
            report(str(figure))
            figure.require()
        models = {form: _write_graph(folder, form, graph) for form, graph in written.items()}
        manifest = {
            "format": FORMAT,
            "schema": SCHEMA,
            "method": run.method,
            "models": models,
            "poster": _write(folder, "poster.png", _png(poster)),
            "camera": _camera(cameras[0].transformed(run.info.to_capture), conditions),
            "orbit": orbit_of(run.info, cameras[0]),
            "scene": run.info.to_json(),
            "provenance": _provenance(run, renderer),
            "licence": licence,
            "parity": {
                figure.form: {
                    "max_abs_error": figure.max_abs_error,
                    "psnr": figure.psnr,
                    "cameras": figure.cameras,
                }
                for figure in figures
            },
        }
        files.write_json(folder / MANIFEST, manifest)
        beside(folder)
        BundleRenderer(folder)  # it opens: checksums, ports and scene are what a reader will find
    return manifest


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


def _check(
    renderer: Renderer,
    written: dict[str, graphs.Graph],
    cameras: Cameras,
    to_capture: Float[Tensor, "4 4"],
) -> tuple[list[parity.Parity], Float[Tensor, "H W 3"]]:
    sessions = {form: Session(graph.data, f"{form}.onnx") for form, graph in written.items()}
    rays = parity.check_rays(renderer, sessions["rays"], cameras, to_capture)
    view, poster = parity.check_views(renderer, sessions["view"], cameras, to_capture)
    return [rays, view], poster


def _write(folder: Path, name: str, data: bytes) -> dict[str, Any]:
    files.write_bytes_atomic(folder / name, data)
    return {"file": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _write_graph(folder: Path, form: str, graph: graphs.Graph) -> dict[str, Any]:
    return {
        **_write(folder, f"{form}.onnx", graph.data),
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
    """The camera a player starts with, units of the capture: values for the inputs of `view.onnx`."""
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


def _provenance(run: Run, renderer: Renderer) -> dict[str, Any]:
    # Where the scene lay as seen from the run says nothing without the run. `scene.source` in the manifest does say
    # where it lay on this disk: that is where eval and render look for it.
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


# -------------------------------------------------------------------------------------------- reading


def is_bundle(folder: str | Path) -> bool:
    """Whether a folder has a bundle's manifest, of whatever version; its files are not looked at."""
    path = Path(folder) / MANIFEST
    try:
        manifest = files.read_json(path) if path.is_file() else None
    except LumigraphError:
        return False
    return isinstance(manifest, dict) and manifest.get("format") == FORMAT


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of a bundle, after every file it names was found and its checksum verified.

    Raises:
        LumigraphError: this is no bundle, or one of another version; a file is missing or was changed.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    manifest = files.read_json(path)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise LumigraphError(
            "this manifest is not a lumigraph bundle's",
            where=path,
            todo="Make one with lumigraph export RUN --out BUNDLE",
        )
    if manifest.get("schema") not in READABLE:
        raise LumigraphError(
            f"the bundle has version {manifest.get('schema')!r}, this lumigraph reads versions "
            f"{', '.join(map(str, READABLE))}",
            where=path,
            todo="Export the run again, or install the version of lumigraph that wrote the bundle",
        )
    try:
        parts = [*(manifest["models"][form] for form in ("rays", "view")), manifest["poster"]]
        for part in parts:
            _verify(folder, str(part["file"]), str(part["sha256"]))
        for form in ("rays", "view"):
            for port in (*manifest["models"][form]["inputs"], *manifest["models"][form]["outputs"]):
                _ = port["name"] + port["dtype"], [*port["shape"]]
        _ = manifest["scene"], manifest["camera"]["width"] + manifest["camera"]["height"] + 0
    except (KeyError, TypeError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise LumigraphError(
            f"the manifest is not complete: {reason}", where=path, todo="Export the run again"
        ) from error
    return manifest


def _verify(folder: Path, name: str, expected: str) -> None:
    path = files.inside(folder, name)
    if not path.is_file():
        raise LumigraphError(
            f"the bundle's file {name} is missing", where=folder, todo="Copy the whole bundle again"
        )
    if files.sha256(path) != expected:
        raise LumigraphError(
            "the file is not the one the bundle was made with: its checksum differs",
            where=path,
            todo="Copy the bundle again, or export the run again",
        )


class BundleRenderer(Renderer):
    """A bundle rendered through onnxruntime: colours only, no depth or opacity, on the background of its scene.

    Lens distortion and any image size go through `rays.onnx`; pinhole cameras of the bundle's own size through
    `view.onnx`. Near and far of the rays are not asked: those the student was trained with are in the graphs. Time and
    attributes are its `conditions` where the graphs take them.
    """

    def __init__(self, folder: str | Path):
        """Opens and verifies the bundle in `folder`.

        Raises:
            LumigraphError: see `read_manifest`; also when onnxruntime is missing, or a model does not have the
                inputs and outputs that the manifest names.
        """
        super().__init__()
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        self.info = SceneInfo.from_json(self.manifest["scene"], where=self.folder / MANIFEST)
        self.background = self.info.background
        self._to_capture = self.info.to_capture
        self._rays, self._view = self._session("rays"), self._session("view")
        self.conditions = tuple(name for name in CONDITIONS if name in self._rays.inputs)
        self._size = [self.manifest["camera"]["width"], self.manifest["camera"]["height"]]

    def _session(self, form: str) -> Session:
        model = self.manifest["models"][form]
        path = files.inside(self.folder, model["file"])
        with files.io_errors(path):
            session = Session(path.read_bytes(), str(path))
        session.require_ports(model["inputs"], model["outputs"])
        return session

    @torch.no_grad()
    def render(self, rays: Rays) -> Rendering:
        """Colours of rays of any leading shape. Raises LumigraphError where they lack one of the `conditions`."""
        self.require_conditions(rays)
        colours = parity.ray_colours(self._rays, rays.flatten(), self.chunk, self._to_capture)
        return Rendering(rgb=colours.to(rays.device).reshape(*rays.shape, 3))

    @torch.no_grad()
    def view(self, camera: Cameras) -> Rendering:
        """The image [H, W] of one camera. Raises LumigraphError where it lacks one of the `conditions`."""
        self.require_conditions(camera)
        if camera.distorted or camera.size[0].tolist() != self._size:
            return super().view(camera)
        return Rendering(rgb=parity.view_colours(self._view, camera, self._to_capture).to(camera.device))
