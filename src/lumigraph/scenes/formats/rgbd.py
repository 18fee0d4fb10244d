"""RGB-D frames as 7-Scenes and TSDF fusion keep them: NAME.color.png, NAME.depth.png and NAME.pose.txt.

The frames lie in the folder itself or in folders below it (sequences); `camera-intrinsics.txt` holds the 3x3 matrix of
the colour camera. Poses are 4x4, camera to world with OpenCV axes; depth is 16-bit, 0 or 65535 where unknown, along the
camera's axis and in thousandths of the poses' unit unless the user says otherwise. `TrainSplit.txt` and
`TestSplit.txt`, where they exist, list sequences.

What the cameras saw says where the scene is: the box of the measured points and of the cameras becomes the core of an
unbounded scene.
"""

import logging
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lumigraph.errors import LumigraphError
from lumigraph.files import io_errors
from lumigraph.geometry.bounds import Bounds
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.conventions import (
    opencv_to_opengl,
    similarity,
    split_similarity,
    transform_points,
)
from lumigraph.scenes.depth_agreement import agreeing_scale
from lumigraph.scenes.depth_reading import DepthReading
from lumigraph.scenes.formats.decoding import image_size
from lumigraph.scenes.formats.fields import Fields
from lumigraph.scenes.formats.frames import (
    MAX_FRAMES,
    Frame,
    check_downscale,
    check_enough,
    listing,
    make_cameras,
    make_views,
    natural_order,
    uses_alpha,
)
from lumigraph.scenes.formats.intrinsics import Intrinsics
from lumigraph.scenes.formats.maps import MILLIMETRES, DepthMeaning, depth_loader
from lumigraph.scenes.placing import CAPTURE_FAR, capture_near, unit_transform
from lumigraph.scenes.scene import Background, Scene, SceneInfo
from lumigraph.scenes.splits import SplitOptions, divide
from lumigraph.scenes.stored_arrays import MemoryBudget, threads

log = logging.getLogger("lumigraph")

INTRINSICS = "camera-intrinsics.txt"
_COLOUR = re.compile(r"(.+)\.color\.(?:png|jpg|jpeg)", re.IGNORECASE)
_LISTS = {"train": "TrainSplit.txt", "test": "TestSplit.txt"}
_MAX_TEXT = 1 << 16
# Of how many frames, and of which pixels, the depth says where the scene is.
_PLACING_FRAMES, _PLACING_STRIDE = 16, 8
_OUTLIERS = 0.01
"""The part of the measured points, at either end of each axis, that may lie outside the core."""
_NEAREST = 0.5
"""Nothing is expected nearer than this part of the smallest depth measured."""


@dataclass(frozen=True)
class _Files:
    """The files of one frame; `depth` is None where it has none."""

    name: str
    colour: Path
    pose: Path
    depth: Path | None


def is_rgbd(folder: Path) -> bool:
    """Whether the folder, or one below it, has frames that this reader starts from."""
    return any(_COLOUR.fullmatch(name) for part in _parts(folder) for name in listing(part))


def read(
    folder: Path, downscale: int, splits: SplitOptions, background: Background | None, reading: DepthReading
) -> Scene:
    """Reads a folder of RGB-D frames. Frames whose pose is not finite, where tracking was lost, are skipped.

    Raises:
        LumigraphError: anything in the files that cannot be used; says which file.
    """
    files = _files(folder)
    frames, depths = _frames(folder, files)
    check_enough(len(frames), 0, folder)
    check_downscale(frames, downscale)
    cameras = make_cameras(frames, 1e-3, 1e6)
    meaning = DepthMeaning.told(reading, MILLIMETRES)
    seen = _look(cameras, depths, meaning)
    _check_unit(seen, meaning.unit, folder)
    transform, near = _place(cameras, seen)
    scale, _, _ = split_similarity(transform)
    cameras = make_cameras(frames, near / scale, CAPTURE_FAR / scale).transformed(transform)
    alpha = uses_alpha(frames, thorough=background is not None)
    chosen = divide([frame.name for frame in frames], splits, _listed(folder, frames), str(folder))
    views, memory = {}, MemoryBudget()
    for split, places in chosen.items():
        kept, maps = [frames[i] for i in places], [depths[i] for i in places]
        lenses, loaders = cameras[torch.tensor(places)], {}
        if any(maps):
            loaders["load_depth"] = depth_loader(maps, lenses, [meaning] * len(maps), downscale, scale)
        views[split] = make_views(kept, lenses, alpha, downscale, loaders, memory)
    info = SceneInfo(
        name=folder.name,
        source=str(folder),
        format="rgbd",
        downscale=downscale,
        cameras={split: part.cameras for split, part in views.items()},
        bounds=Bounds(-torch.ones(3), torch.ones(3), unbounded=True),
        background=(background or "white") if alpha else "opaque",
        world_transform=transform,
        splits=splits,
        depths=reading,
    )
    return Scene(info, views)


# ------------------------------------------------------------------ files


def _parts(folder: Path) -> list[Path]:
    """The folder and those right below it, by name."""
    with io_errors(folder):
        below = [entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    return [folder, *sorted(below, key=lambda part: natural_order(part.name))]


def _files(folder: Path) -> list[_Files]:
    found = []
    for part in _parts(folder):
        names = listing(part)
        for name in sorted(names, key=natural_order):
            match = _COLOUR.fullmatch(name)
            if match is None:
                continue
            pose, depth = f"{match[1]}.pose.txt", f"{match[1]}.depth.png"
            if pose not in names:
                raise LumigraphError(
                    f"there is no {pose} beside it",
                    where=part / name,
                    todo="Add its pose, or remove the frame",
                )
            label = (part / name).relative_to(folder).as_posix()
            found.append(_Files(label, part / name, part / pose, part / depth if depth in names else None))
    if len(found) > MAX_FRAMES:
        raise LumigraphError(
            f"there are {len(found):,} frames, at most {MAX_FRAMES:,} are read",
            where=folder,
            todo="Use fewer",
        )
    return found


def _frames(folder: Path, files: Sequence[_Files]) -> tuple[list[Frame], list[Path | None]]:
    """The frames with a finite pose, and their depth maps."""
    matrix = _intrinsics(folder)
    with ThreadPoolExecutor(threads()) as pool:
        headers = list(pool.map(lambda one: image_size(one.colour), files))
        poses = list(pool.map(lambda one: _matrix(one.pose, 4, 4), files))
    frames, depths, lost = [], [], []
    for one, (width, height, alpha), pose in zip(files, headers, poses, strict=True):
        if not np.isfinite(pose).all():
            lost.append(one.name)
            continue
        fields = Fields({"pose": pose.tolist()}, str(one.pose))
        # Frames hold poses as the JSON formats have them, with OpenGL axes.
        opengl = opencv_to_opengl(torch.from_numpy(fields.pose("pose"))).numpy()
        lens = _lens(matrix, (width, height), folder)
        frames.append(Frame(fields, one.name, one.colour, opengl, lens, alpha))
        depths.append(one.depth)
    if lost:
        log.warning(
            "%d of %d frames have a pose that is not finite and are skipped, first %s (in %s)",
            len(lost),
            len(files),
            lost[0],
            folder,
        )
    return frames, depths


def _intrinsics(folder: Path) -> Float[np.ndarray, "3 3"]:
    path = folder / INTRINSICS
    if not path.is_file():
        raise LumigraphError(
            f"there is no {INTRINSICS}",
            where=folder,
            todo="Write the 3x3 matrix of the colour camera into it: 'fx 0 cx', '0 fy cy', '0 0 1' in pixels "
            "(7-Scenes: 585 0 320, 0 585 240, 0 0 1)",
        )
    return _matrix(path, 3, 3)


def _lens(matrix: Float[np.ndarray, "3 3"], size: tuple[int, int], folder: Path) -> Intrinsics:
    focal, principal = (matrix[0, 0], matrix[1, 1]), (matrix[0, 2], matrix[1, 2])
    within = all(0 < place < side for place, side in zip(principal, size, strict=True))
    straight = abs(matrix[0, 1]) + abs(matrix[1, 0]) + abs(matrix[2] - (0, 0, 1)).sum() < 1e-3
    if not (np.isfinite(matrix).all() and min(focal) > 0 and within and straight):
        raise LumigraphError(
            f"this is not the matrix of a camera of {size[0]}x{size[1]} pixels",
            where=folder / INTRINSICS,
            todo="Write 'fx 0 cx', '0 fy cy', '0 0 1', in pixels of the colour images",
        )
    fx, fy, cx, cy = (float(value) for value in (*focal, *principal))
    return Intrinsics(size, (fx, fy), (cx, cy), (0.0,) * 6, fisheye=False)


def _matrix(path: Path, rows: int, columns: int) -> Float[np.ndarray, "rows columns"]:
    """A matrix of numbers written as text; they may be infinite or NaN."""
    with io_errors(path), path.open("rb") as file:
        text = file.read(_MAX_TEXT).decode("utf-8", "replace")
    try:
        values = [float(word) for word in text.split()]
    except ValueError as error:
        raise LumigraphError(f"this is no matrix: {error}", where=path, todo="Write it again") from error
    if len(values) != rows * columns:
        raise LumigraphError(
            f"{rows * columns} numbers are needed, a {rows}x{columns} matrix, and here are {len(values)}",
            where=path,
            todo="Write it again",
        )
    return np.array(values).reshape(rows, columns)


def _listed(folder: Path, frames: Sequence[Frame]) -> dict[str, list[str]] | None:
    """The frames of each split where TrainSplit.txt and TestSplit.txt list sequences ("sequence1" is seq-01)."""
    if not all((folder / name).is_file() for name in _LISTS.values()):
        return None
    listed = {}
    for split, name in _LISTS.items():
        with io_errors(folder / name), (folder / name).open("rb") as file:
            words = file.read(_MAX_TEXT).decode("utf-8", "replace").split()
        numbers = {int(number) for word in words for number in re.findall(r"\d{1,9}", word)}
        listed[split] = [frame.name for frame in frames if _sequence(frame.name) in numbers]
    return listed


def _sequence(name: str) -> int | None:
    """The number in the name of the folder that a frame lies in."""
    numbers = re.findall(r"\d{1,9}", name.rpartition("/")[0])
    return int(numbers[-1]) if numbers else None


# ------------------------------------------------------------------ where the scene is


@dataclass(frozen=True)
class _Seen:
    """Depth maps of some frames with their cameras, and points that they measured; units of the capture."""

    cameras: Cameras
    maps: list[Float[Tensor, "H W"]]
    points: Float[Tensor, "n 3"]
    depths: Float[Tensor, " n"]


def _look(cameras: Cameras, depths: Sequence[Path | None], meaning: DepthMeaning) -> _Seen:
    there = [(index, path) for index, path in enumerate(depths) if path is not None]
    there = there[:: max(1, len(there) // _PLACING_FRAMES)][:_PLACING_FRAMES]
    maps = [torch.from_numpy(meaning.read(path, cameras, index)) for index, path in there]
    points, known = [torch.zeros(0, 3)], [torch.zeros(0)]
    for (index, _), depth in zip(there, maps, strict=True):
        depth = depth[::_PLACING_STRIDE, ::_PLACING_STRIDE]
        y, x = torch.nonzero(torch.isfinite(depth), as_tuple=True)
        at = depth[y, x]
        rays = cameras.rays(torch.full_like(x, index), _PLACING_STRIDE * x, _PLACING_STRIDE * y)
        points.append(rays.origins + at[:, None] * rays.directions)
        known.append(at)
    chosen = torch.tensor([index for index, _ in there], dtype=torch.int64)
    return _Seen(cameras[chosen], maps, torch.cat(points), torch.cat(known))


def _check_unit(seen: _Seen, unit: float, folder: Path) -> None:
    """Warns where depth maps fit each other better were the cameras ten times nearer together, or farther apart."""
    scale = agreeing_scale(seen.cameras, seen.maps)
    if scale != 1:
        log.warning(
            "the depth maps agree if the cameras are %g times as far apart as their poses say: is 1 in a depth "
            "map %g of the poses' unit, or rather --depth-unit %g? (in %s)",
            scale,
            unit,
            unit / scale,
            folder,
        )


def _place(cameras: Cameras, seen: _Seen) -> tuple[Float[Tensor, "4 4"], float]:
    """The similarity to scene units, in which the core is the cube [-1, 1]^3, and near in scene units."""
    upright = unit_transform(cameras)
    if not len(seen.points):
        return upright, capture_near(cameras.transformed(upright))
    points = transform_points(upright, seen.points.double())
    ends = torch.quantile(points, torch.tensor([_OUTLIERS, 1 - _OUTLIERS], dtype=torch.float64), dim=0)
    corners = torch.cat([ends, transform_points(upright, cameras.positions.double())])
    lower, upper = corners.amin(0), corners.amax(0)
    half = float((upper - lower).max()) / 2
    transform = similarity(1.0 / half, translation=-0.5 * (lower + upper) / half) @ upright
    scale, _, _ = split_similarity(transform)
    return transform, max(1e-3, _NEAREST * scale * float(seen.depths.min()))
