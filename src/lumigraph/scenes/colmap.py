"""COLMAP's models, as text or binary: lenses, photos with the key points they saw, and 3-D points.

Formats: https://colmap.github.io/format.html. Pixels begin at the corner of the image, as everywhere here.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Float, Int

from lumigraph.errors import LumigraphError
from lumigraph.files import io_errors

T = TypeVar("T")

_MAX_BYTES = 1 << 32
_MODELS = {
    0: ("SIMPLE_PINHOLE", 3),
    1: ("PINHOLE", 4),
    2: ("SIMPLE_RADIAL", 4),
    3: ("RADIAL", 5),
    4: ("OPENCV", 8),
    5: ("OPENCV_FISHEYE", 8),
    6: ("FULL_OPENCV", 12),
    7: ("FOV", 5),
    8: ("SIMPLE_RADIAL_FISHEYE", 4),
    9: ("RADIAL_FISHEYE", 5),
    10: ("THIN_PRISM_FISHEYE", 12),
    11: ("RAD_TAN_THIN_PRISM_FISHEYE", 16),
}
"""Names of the camera models and how many parameters they have, by their numbers in binary files."""
_TWO_FOCAL_LENGTHS = {
    "PINHOLE",
    "OPENCV",
    "OPENCV_FISHEYE",
    "FULL_OPENCV",
    "FOV",
    "THIN_PRISM_FISHEYE",
    "RAD_TAN_THIN_PRISM_FISHEYE",
}


@dataclass(frozen=True)
class Lens:
    """Of a camera: its number, and focal lengths (x, y) in pixels of an image of `size` (width, height)."""

    number: int
    size: tuple[int, int]
    focal: tuple[float, float]


@dataclass(frozen=True)
class Image:
    """A photo: the number of its lens, the rotation and translation from the world to its camera, places [n, 2] of its
    key points in pixels, and the numbers [n] of the 3-D points they are of, -1 for none."""

    name: str
    lens: int
    rotation: Float[np.ndarray, "3 3"]
    translation: Float[np.ndarray, "3"]
    places: Float[np.ndarray, "n 2"]
    points: Int[np.ndarray, " n"]


@dataclass(frozen=True)
class Point:
    """A 3-D point: its place in units of the model, its mean reprojection error in pixels, and how many photos saw
    it."""

    number: int
    place: tuple[float, float, float]
    error: float
    track: int


def is_model(folder: Path) -> bool:
    """Whether a folder holds a model."""
    return any((folder / f"cameras{suffix}").is_file() for suffix in (".bin", ".txt"))


def read_lenses(folder: Path) -> list[Lens]:
    """The lenses of a model.

    Raises:
        LumigraphError: the file is missing or damaged; so do the others here.
    """
    return list(_read(folder, "cameras", _binary_lenses, _text_lenses))


def read_images(folder: Path) -> Iterator[Image]:
    """The photos of a model."""
    return _read(folder, "images", _binary_images, _text_images)


def read_points(folder: Path) -> Iterator[Point]:
    """The 3-D points of a model."""
    return _read(folder, "points3D", _binary_points, _text_points)


def _read(
    folder: Path, kind: str, binary: Callable[[bytes], Iterator[T]], text: Callable[[bytes], Iterator[T]]
) -> Iterator[T]:
    path, parse = folder / f"{kind}.bin", binary
    if not path.is_file():
        path, parse = folder / f"{kind}.txt", text
    if not path.is_file():
        raise LumigraphError(
            f"there is no {kind}.bin or {kind}.txt", where=folder, todo="Name the folder of a COLMAP model"
        )
    with io_errors(path):
        if path.stat().st_size > _MAX_BYTES:
            raise LumigraphError("the file is too large", where=path, todo="Use a smaller model")
        data = path.read_bytes()
    try:
        yield from parse(data)
    except (struct.error, ValueError, IndexError, OverflowError) as error:
        raise LumigraphError(
            f"the file is damaged: {error}", where=path, todo="Write the model again with COLMAP"
        ) from error


def _lines(data: bytes) -> list[str]:
    return [line for line in data.decode("utf-8", "replace").splitlines() if not line.startswith("#")]


def _lens(number: int, model: str, width: int, height: int, values: Sequence[float]) -> Lens:
    focal = float(values[0]), float(values[1] if model in _TWO_FOCAL_LENGTHS else values[0])
    if not (0 < width < 1 << 31 and 0 < height < 1 << 31 and all(0 < f < 1e9 for f in focal)):
        raise ValueError("a camera has no size or no focal length")
    return Lens(number, (width, height), focal)


def _binary_lenses(data: bytes) -> Iterator[Lens]:
    count, at = struct.unpack_from("<Q", data)[0], 8
    for _ in range(count):
        number, model, width, height = struct.unpack_from("<IiQQ", data, at)
        if model not in _MODELS:
            raise LumigraphError(
                f"the COLMAP model has a camera of kind {model}, which is not known here",
                todo="Let COLMAP undistort the photos (image_undistorter), and use what it writes",
            )
        name, size = _MODELS[model]
        yield _lens(number, name, width, height, struct.unpack_from(f"<{size}d", data, at + 24))
        at += 24 + 8 * size


def _text_lenses(data: bytes) -> Iterator[Lens]:
    for line in _lines(data):
        if line.strip():
            number, model, width, height, *values = line.split()
            yield _lens(int(number), model, int(width), int(height), [float(value) for value in values])


def _binary_images(data: bytes) -> Iterator[Image]:
    count, at = struct.unpack_from("<Q", data)[0], 8
    for _ in range(count):
        *pose, lens = struct.unpack_from("<7dI", data, at + 4)
        at += 4 + 56 + 4  # number, pose, lens
        end = data.index(b"\0", at)
        name = data[at:end].decode("utf-8", "replace")
        (size,) = struct.unpack_from("<Q", data, end + 1)
        at = end + 9
        if size > (len(data) - at) // 24:
            raise ValueError("it ends too early")
        table = np.frombuffer(data, np.dtype([("place", "<2f8"), ("point", "<i8")]), size, at)
        at += 24 * size
        yield _image(name, lens, pose, table["place"], table["point"])


def _text_images(data: bytes) -> Iterator[Image]:
    lines = _lines(data)
    for head, body in zip(lines[::2], lines[1::2], strict=False):
        words, values = head.split(maxsplit=9), np.array(body.split(), dtype=np.float64).reshape(-1, 3)
        pose = [float(word) for word in words[1:8]]
        yield _image(words[9], int(words[8]), pose, values[:, :2], values[:, 2].astype(np.int64))


def _image(name: str, lens: int, pose: Sequence[float], places: np.ndarray, points: np.ndarray) -> Image:
    """From a pose as the files have it: a quaternion (w, x, y, z) and a translation."""
    w, x, y, z = np.array(pose[:4]) / np.linalg.norm(pose[:4])
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    return Image(name, lens, rotation, np.array(pose[4:7]), np.asarray(places), np.asarray(points))


def _binary_points(data: bytes) -> Iterator[Point]:
    count, at = struct.unpack_from("<Q", data)[0], 8
    for _ in range(count):
        number, x, y, z, _, error, track = struct.unpack_from("<Q3d3sdQ", data, at)
        at += struct.calcsize("<Q3d3sdQ") + 8 * track
        yield Point(number, (x, y, z), error, track)


def _text_points(data: bytes) -> Iterator[Point]:
    for line in _lines(data):
        if line.strip():
            words = line.split()
            x, y, z = (float(word) for word in words[1:4])
            yield Point(int(words[0]), (x, y, z), float(words[7]), (len(words) - 8) // 2)
