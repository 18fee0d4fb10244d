"""Bundles as they are read: their manifest, verified, and a renderer that plays their graphs through onnxruntime."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lumigraph import files
from lumigraph.errors import LumigraphError
from lumigraph.export import lens, parity
from lumigraph.export.ports import CONDITIONS
from lumigraph.export.runtime import Session
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.rays import Rays
from lumigraph.rendering.picture_light_field import SAME_PIXELS, resampled, with_learnt_pixels
from lumigraph.rendering.renderer import Renderer, Rendering
from lumigraph.scenes.scene import SceneInfo

MANIFEST = "manifest.json"
FORMAT = "lumigraph bundle"
SCHEMA = 4
READABLE = (2, 3, SCHEMA)
"""Version 3 has no `orbit`, and students of rays in float32 only; version 2 none that take time or attributes."""


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
        models = manifest["models"]
        named = list(models) if manifest.get("form", "fused") == "lens" else ["view"]
        named += ["rays"] if "rays" in models or manifest["schema"] < 4 else []
        described = [models[form] for form in named]
        for part in (*described, manifest["poster"], *further_files(manifest)):
            _verify(folder, str(part["file"]), str(part["sha256"]))
        for model in described:
            for port in (*model["inputs"], *model["outputs"]):
                _ = port["name"] + port["dtype"], [*port["shape"]]
        _ = manifest["scene"], manifest["camera"]["width"] + manifest["camera"]["height"] + 0
        if "rays" not in named:
            _ = manifest["picture"]["patch"] + 0, [value + 0.0 for value in manifest["picture"]["focal"]]
    except (KeyError, TypeError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise LumigraphError(
            f"the manifest is not complete: {reason}", where=path, todo="Export the run again"
        ) from error
    return manifest


def further_files(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """What is beside the graphs: a lens's constants, and the files of each format for phones."""
    found = [manifest["lens"]] if "lens" in manifest else []
    for written in manifest.get("phones", {}).values():
        found += written["files"]
    return found


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
    `view.onnx`. A bundle of a student that answers for whole pictures (`whole_views`) has no rays.onnx: pictures of
    other sizes are drawn with the pixels that the student has learnt, as by the student, and resampled; it refuses
    cameras that see more than its graph draws, and distorted ones. Near and far of the rays are not asked: those the
    student was trained with are in the graphs. Time and attributes are its `conditions` where the graphs take them.
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
        runnable = [form for form in self.manifest["models"] if form != lens.SNAP]
        self._sessions = {form: self._session(form) for form in runnable}
        self.whole_views = "rays" not in self._sessions
        width, height = self._size = [self.manifest["camera"][side] for side in ("width", "height")]
        self._fixed_lens = "view" not in self._sessions
        if not self._fixed_lens:
            inputs = self._sessions["view"].inputs
            self.conditions = tuple(name for name, of_view in CONDITIONS.items() if of_view in inputs)
        self._draw = lens.view_painter(self._sessions, (width, height), self._to_capture)

    def _session(self, form: str) -> Session:
        model = self.manifest["models"][form]
        path = files.inside(self.folder, model["file"])
        with files.io_errors(path):
            session = Session(path.read_bytes(), str(path))
        session.require_ports(model["inputs"], model["outputs"])
        return session

    @torch.no_grad()
    def render(self, rays: Rays) -> Rendering:
        """Colours of rays of any leading shape.

        Raises:
            LumigraphError: they lack one of the `conditions`, or the bundle answers for whole pictures.
        """
        if self.whole_views:
            return super().render(rays)
        self.require_conditions(rays)
        colours = parity.ray_colours(self._sessions["rays"], rays.flatten(), self.chunk, self._to_capture)
        return Rendering(rgb=colours.to(rays.device).reshape(*rays.shape, 3))

    @torch.no_grad()
    def view(self, camera: Cameras) -> Rendering:
        """The image [H, W] of one camera.

        Raises:
            LumigraphError: it lacks one of the `conditions`; of a bundle of whole pictures also where it sees more than
                the graph draws, or through a lens that distorts.
        """
        self.require_conditions(camera)
        if self.whole_views:
            return Rendering(rgb=self._picture(camera))
        if camera.distorted or camera.size[0].tolist() != self._size:
            return super().view(camera)
        return Rendering(rgb=self._draw(camera).to(camera.device))

    def _picture(self, camera: Cameras) -> Float[Tensor, "H W 3"]:
        """A picture drawn with the pixels that the student has learnt, and resampled to the camera's."""
        if camera.distorted:
            raise LumigraphError(
                "the bundle draws whole pictures as a pinhole sees them, and this camera's lens distorts",
                todo="Render the run itself, or an undistorted capture",
            )
        native = with_learnt_pixels(camera, torch.tensor(self.manifest["picture"]["focal"]))
        sides = native.size[0].tolist()
        fitted = [_within(side, most) for side, most in zip(sides, self._size, strict=True)]
        if fitted != sides:
            native = native.resized(*fitted)
        if any(side > most for side, most in zip(fitted, self._size, strict=True)) or not self._knows_lens(
            native
        ):
            width, height = self._size
            raise LumigraphError(
                f"the bundle draws {width}x{height} pixels of the field of view it was exported for, and this camera "
                f"asks for {sides[0]}x{sides[1]} of them",
                where=str(self.folder),
                todo="Take cameras with that field of view, of any size, or render the run itself",
            )
        drawn = self._draw(native)[: fitted[1], : fitted[0]]
        return resampled(drawn[None].to(camera.device), camera)[0]

    def _knows_lens(self, camera: Cameras) -> bool:
        """Whether a lens's sampler, whose focal length is fixed, has that of the camera."""
        if not self._fixed_lens:
            return True
        known = self.manifest["camera"]
        focal, principal = torch.tensor(known["focal"]), torch.tensor(known["principal"])
        near = (camera.focal[0].cpu() / focal - 1).abs().max() < SAME_PIXELS
        return bool(near and (camera.principal[0].cpu() - principal).abs().max() < 1)


def _within(side: int, most: int) -> int:
    """A side of a picture, `most` where it is larger than that by what rounding makes, or what counts as the same."""
    return most if most < side <= max(most + 1, most * (1 + SAME_PIXELS)) else side
