"""What a renderer sees of depth as files: PFM, float32, 16-bit PNG, and pictures in colour.

Depth is along the camera's axis, in units of the capture. It is unknown where a ray meets hardly anything.
"""

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8, UInt16
from PIL import Image
from torch import Tensor

from lumigraph.configs.depth_files import DepthFile, DepthFiles, DepthStatistic
from lumigraph.errors import LumigraphError
from lumigraph.evaluation.pictures import save_png
from lumigraph.files import new_file, write_bytes_atomic, write_json
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.conventions import split_similarity
from lumigraph.rendering.movies import DEPTH_RANGE, Look, is_there
from lumigraph.rendering.renderer import Renderer, Rendering
from lumigraph.scenes.scene import SceneInfo

log = logging.getLogger("lumigraph")

SIDECAR = "depth.json"
_LARGEST = 65534
"""Of a 16-bit PNG: 0 and 65535 are no depths."""
_HEADROOM = 2.0
"""How much farther than in the first view a 16-bit PNG can tell depths."""

# Anchors of the depth colours, far to near, evenly spaced, after Google's Turbo (Mikhailov 2019), in which small
# differences are seen all along the scale: dark blue, blue, cyan, green, yellow, orange, red, dark red.
ANCHORS = np.array(
    [
        [48, 18, 59], [70, 107, 227], [40, 187, 236], [49, 242, 153], [164, 252, 60],
        [237, 208, 58], [251, 126, 33], [208, 47, 5], [122, 4, 3],
    ],
    np.float64,
)  # fmt: skip

Depth = Float[np.ndarray, "H W"]
Picture = UInt8[np.ndarray, "H W 3"]

_NOT_SEEN = "where the opacity is 0.5 or less"
_ABOUT: dict[DepthFile, dict[str, Any]] = {
    "pfm": {"suffix": "depth.pfm", "type": "float32, little-endian", "rows": "bottom up", "unknown": "inf"},
    "npy": {"suffix": "depth.npy", "type": "float32", "rows": "top down", "unknown": "nan"},
    "bytes": {
        "suffix": "depth.bytes",
        "type": "float32, little-endian, no header",
        "rows": "top down, each as long as the picture is wide",
        "unknown": "nan",
    },
    "png16": {"suffix": "depth.png", "type": "16-bit grey", "unknown": 0},
    "colours": {"suffix": "depth_colours.png", "colours": "turbo, red near and blue far", "unknown": "black"},
    "disparity": {
        "suffix": "disparity.png",
        "colours": "turbo of the inverse of depth, red near and blue far",
        "unknown": "black",
    },
    "normals": {
        "suffix": "normals.png",
        "colours": "red, green, blue = 0.5 + 0.5 (x, y, z), in the axes of the capture",
        "unknown": "black",
    },
}


def turbo(level: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape 3"]:
    """The colours of levels in [0, 1] (clipped): from dark blue over green to dark red."""
    positions = np.linspace(0, 1, len(ANCHORS))
    channels = [np.interp(level, positions, ANCHORS[:, channel]) for channel in range(3)]
    return np.stack(channels, -1).round().astype(np.uint8)


def depth_picture(depth: Depth, near: float, far: float) -> Picture:
    """Depth in colours: red at `near` and in front of it, blue from `far` on, black where it is not finite."""
    return _coloured((far - depth) / (far - near))


def disparity_picture(depth: Depth, near: float, far: float) -> Picture:
    """The inverse of depth in colours, as `depth_picture`."""
    inverse = 1 / np.maximum(depth, near)
    return _coloured((inverse - 1 / far) / (1 / near - 1 / far))


def _coloured(level: Depth) -> Picture:
    known = np.isfinite(level)
    return np.where(known[..., None], turbo(np.where(known, level, 0)), np.uint8(0))


def normals_picture(normals: Float[np.ndarray, "H W 3"], seen: Bool[np.ndarray, "H W"]) -> Picture:
    """Unit vectors as colours, 0.5 + 0.5 (x, y, z); black where nothing is seen."""
    colours = (255 * np.clip(0.5 + 0.5 * normals, 0, 1)).round()
    return np.where(seen[..., None], colours, 0).astype(np.uint8)


def write_pfm(path: Path, values: Depth) -> None:
    """Writes a PFM, little-endian, whose rows go from the bottom to the top; what is not finite becomes inf."""
    known = np.where(np.isfinite(values), values, np.inf).astype("<f4")
    header = f"Pf\n{values.shape[1]} {values.shape[0]}\n-1.0\n"
    write_bytes_atomic(path, header.encode() + np.flipud(known).tobytes())


def steps_of(depth: Depth, unit: float) -> UInt16[np.ndarray, "H W"]:
    """Depth in whole numbers of `unit`, at least 1; 0 where it is not finite or more than a 16-bit PNG can tell."""
    steps = np.maximum(np.round(depth / unit), 1)
    return np.where(steps <= _LARGEST, steps, 0).astype(np.uint16)


def png_unit(depth: Depth) -> float:
    """The unit of 16-bit PNGs, a power of ten: a thousandth where a depth of 1 or more occurs and depths up to twice
    the largest one fit, else the smallest in which they do."""
    largest = float(depth[np.isfinite(depth)].max())
    exponent = math.ceil(math.log10(max(_HEADROOM * largest, 1e-30) / _LARGEST))
    return float(f"1e{max(exponent, -3) if largest >= 1 else exponent}")


_CAMERAS = (
    "one for each view: camera_to_world [3, 4] with OpenCV axes (x right, y down, z forward), near and far, in units "
    "of the capture; focal lengths and principal point in pixels, which begin at the corner of the picture"
)


@dataclass
class _View:
    """One view as it is written: its depth, NaN where unknown, and its normals [H, W, 3], if any."""

    depth: Depth
    normals: Float[np.ndarray, "H W 3"] | None


class DepthWriter:
    """Writes the files that `options` ask for of each view it is shown, and `depth.json`, which says what they hold.

    Args:
        options: with a folder. What is there under the same names is replaced.
        names: of the views; files are named NAME_depth.pfm and so on.
        cameras: of the views, in scene units.
        renderer: whose views these are.
        info: the scene that it was trained on.

    Raises:
        LumigraphError: normalised device coordinates are to be shown as disparity.
    """

    def __init__(
        self,
        options: DepthFiles,
        names: Sequence[str],
        cameras: Cameras,
        renderer: Renderer,
        info: SceneInfo,
    ) -> None:
        assert options.save_depth is not None
        self._folder, self._options, self._names = options.save_depth, options, list(names)
        self._cameras = cameras.transformed(info.to_capture)
        scale, rotation, _ = split_similarity(info.to_capture)
        self._rotation = np.asarray(rotation, np.float64)
        # The published sum is kept in the coordinates that were sampled in.
        self._in_ndc = options.depth_statistic == "raw" and renderer.frame is not None
        self._scale = 1.0 if self._in_ndc else float(scale)
        if self._in_ndc and "disparity" in options.depth_files:
            raise LumigraphError(
                "the raw depth of this renderer is in normalised device coordinates, and has no inverse",
                todo="Leave disparity out of --depth-files, or choose --depth-statistic expected",
            )
        self._range, self._unit = options.depth_range, None
        self._views: list[dict[str, Any]] = []
        self._write: dict[DepthFile, Callable[[Path, _View], None]] = {
            "pfm": lambda path, view: write_pfm(path, view.depth),
            "npy": lambda path, view: _write_npy(path, view.depth),
            "bytes": lambda path, view: write_bytes_atomic(path, view.depth.astype("<f4").tobytes()),
            "png16": self._write_png16,
            "colours": lambda path, view: save_png(path, depth_picture(view.depth, *self._limits)),
            "disparity": lambda path, view: save_png(path, disparity_picture(view.depth, *self._limits)),
            "normals": self._write_normals,
        }

    def add(self, index: int, seen: Rendering) -> None:
        """Writes the files of view `index`, a picture [H, W].

        Raises:
            LumigraphError: it lacks what is to be written, or the disk fails.
        """
        depth = depth_of(seen, self._options.depth_statistic).float().cpu() * self._scale
        known = is_there(seen).cpu()
        normals = None
        if "normals" in self._options.depth_files:
            normals = _normals_of(seen).double().cpu().numpy() @ self._rotation.T
        view = _View(np.where(known.numpy(), depth.numpy(), np.float32(np.nan)), normals)
        self._look_first(view.depth)
        files = {}
        for kind in dict.fromkeys(self._options.depth_files):
            files[kind] = f"{self._names[index]}_{_ABOUT[kind]['suffix']}"
            self._write[kind](self._folder / files[kind], view)
        height, width = depth.shape
        self._views.append(
            {"name": self._names[index], "width": width, "height": height, "files": files}
            | ({"too_far_for_png16": self._too_far(view.depth)} if "png16" in files else {})
        )

    def finish(self) -> None:
        """Writes depth.json."""
        ndc = "t of normalised device coordinates: 0 on the near plane, 1 at infinity"
        files = {kind: dict(_ABOUT[kind]) for kind in dict.fromkeys(self._options.depth_files)}
        for kind in ("colours", "disparity"):
            if kind in files:
                files[kind] |= {
                    "range": self._range,
                    "range_from": "the command" if self._options.depth_range else "the first view",
                }
        if "png16" in files:
            files["png16"] |= {"depth_unit": self._unit, "depth": "stored number times depth_unit"}
        data = {
            "statistic": self._options.depth_statistic,
            "measured": "along the camera's axis",
            "unit": ndc if self._in_ndc else "units of the capture",
            "unknown": _NOT_SEEN,
            "files": files,
            "views": self._views,
            "cameras": {"about": _CAMERAS, **self._cameras.to_json()},
        }
        write_json(self._folder / SIDECAR, data)
        if lost := sum(view.get("too_far_for_png16", 0) for view in self._views):
            log.warning("%s pixels are farther away than 16-bit PNGs tell: unknown there", f"{lost:,}")

    # ------------------------------------------------------------------ the first view decides

    def _look_first(self, depth: Depth) -> None:
        """Range of colours and unit of numbers are those of the first view in which anything is."""
        known = depth[np.isfinite(depth)]
        if not len(known):
            return
        if self._range is None:
            near, far = (float(limit) for limit in np.quantile(known, DEPTH_RANGE))
            far = max(far, 1e-12)
            near = max(near, 1e-6 * far)
            self._range = (near, max(far, 1.001 * near))
        if self._unit is None:
            self._unit = png_unit(depth)

    @property
    def _limits(self) -> tuple[float, float]:
        """Before anything was seen, all is black whatever they are."""
        return self._range or (1.0, 2.0)

    def _write_png16(self, path: Path, view: _View) -> None:
        with new_file(path) as temporary:
            Image.fromarray(steps_of(view.depth, self._unit or 1.0)).save(temporary, format="PNG")

    def _too_far(self, depth: Depth) -> int:
        """Pixels whose depth a 16-bit PNG cannot tell."""
        return int((depth > (_LARGEST + 0.5) * (self._unit or 1.0)).sum())

    def _write_normals(self, path: Path, view: _View) -> None:
        assert view.normals is not None
        save_png(path, normals_picture(view.normals, np.isfinite(view.depth)))


@contextlib.contextmanager
def saving_depth(
    options: DepthFiles, names: Sequence[str], cameras: Cameras, renderer: Renderer, info: SceneInfo
) -> Iterator[Look | None]:
    """Yields what is to see each rendering of the views of these names, so that the files of `options` are written;
    None where none are asked for. The folder is complete where the body ends without an error."""
    if options.save_depth is None:
        yield None
        return
    writer = DepthWriter(options, names, cameras, renderer, info)
    yield writer.add
    writer.finish()


def depth_of(seen: Rendering, statistic: DepthStatistic) -> Tensor:
    """That depth of a rendering, in the units that it has there.

    Raises:
        LumigraphError: the renderer does not tell it.
    """
    if seen.depth is None:
        raise LumigraphError("this renderer has no depth", todo="Leave --save-depth out, or name its teacher")
    if statistic == "expected":
        return seen.depth
    name = f"depth_{statistic}"
    if name not in seen.extras:
        raise LumigraphError(
            f"this renderer tells the expected depth, and not the {statistic} one",
            todo="Choose --depth-statistic expected",
        )
    return seen.extras[name]


def _normals_of(seen: Rendering) -> Tensor:
    if "normals" not in seen.extras:
        raise LumigraphError(
            "this renderer has no normals",
            todo="Leave normals out of --depth-files, or train mipnerf360 with --normals",
        )
    return seen.extras["normals"]


def _write_npy(path: Path, depth: Depth) -> None:
    with new_file(path) as temporary, temporary.open("wb") as file:
        np.save(file, depth.astype(np.float32))
