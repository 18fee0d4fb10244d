"""Key points of a COLMAP model: where each photo saw them, how deep they lie, and how well they fit.

Reads `images` and `points3D` as text or binary (COLMAP's own formats). Depth is in units of the capture: those of a
COLMAP model are free, and the distances between its cameras and between those of the scene tell one from the other.
"""

import itertools
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Float

from lumigraph.errors import LumigraphError
from lumigraph.files import io_errors

_MAX_BYTES = 1 << 32
_FEWEST = 2
_SAME_PLACES = 0.1
"""How far, as a part of them, the distances between cameras may differ in half of the photos."""


@dataclass(frozen=True)
class KeyPoints:
    """Of one photo: places [n, 2] in pixels, depths [n] along the camera's axis and mean reprojection errors [n] in
    pixels; `centre` [3] is the camera. Lengths are in units of the model."""

    places: Float[np.ndarray, "n 2"]
    depths: Float[np.ndarray, " n"]
    errors: Float[np.ndarray, " n"]
    centre: Float[np.ndarray, "3"]


def read_keypoints(folder: Path) -> dict[str, KeyPoints]:
    """The key points of each photo of a COLMAP model, by the photo's name.

    Raises:
        LumigraphError: a file is missing or damaged.
    """
    points = dict(_read(folder, "points3D"))
    found = {}
    for name, (rotation, translation, places, numbers) in _read(folder, "images"):
        known = np.array([number in points for number in numbers], dtype=bool)
        rows = np.array([points[number] for number in numbers[known]]).reshape(-1, 4)
        depths = rows[:, :3] @ rotation[2] + translation[2]
        front = depths > 0
        found[name] = KeyPoints(
            places[known][front], depths[front], rows[front, 3], -rotation.T @ translation
        )
    return found


def pair_photos(known: Sequence[str], photos: Sequence[str]) -> list[str | None]:
    """Which of the names `known` to a model each photo has: the one of the same file name that has most folders in
    common with it, from the last one up; None where there is none.

    Raises:
        LumigraphError: two names fit a photo equally well, or two photos a name.
    """
    by_file: dict[str, list[str]] = {}
    for name in known:
        by_file.setdefault(PurePosixPath(name).name, []).append(name)
    chosen: dict[str, tuple[int, str]] = {}
    for photo in photos:
        ranked = sorted(
            ((_shared(photo, name), name) for name in by_file.get(PurePosixPath(photo).name, ())),
            reverse=True,
        )
        if not ranked:
            continue
        best, name = ranked[0]
        if len(ranked) > 1 and ranked[1][0] == best:
            raise _ambiguous(f"{name} and {ranked[1][1]} of the COLMAP model may both be the photo {photo}")
        rival = chosen.get(name)
        if rival is not None and rival[0] == best:
            raise _ambiguous(f"{name} of the COLMAP model may be the photo {rival[1]} or {photo}")
        if rival is None or rival[0] < best:
            chosen[name] = (best, photo)
    found = {photo: name for name, (_, photo) in chosen.items()}
    return [found.get(photo) for photo in photos]


def _shared(one: str, other: str) -> int:
    """How many parts two paths have in common, from the file name up."""
    pairs = zip(reversed(PurePosixPath(one).parts), reversed(PurePosixPath(other).parts), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _ambiguous(what: str) -> LumigraphError:
    return LumigraphError(what, todo="Name photos in the scene and in the model alike, with their folders")


def capture_scale(
    keypoints: dict[str, KeyPoints], names: Sequence[str | None], positions: Float[np.ndarray, "n 3"]
) -> float:
    """What a unit of the model is in units of the capture: the median ratio of the distances from each camera to the
    mean of all, over the photos with these `names` in the model whose cameras are at `positions`.

    Raises:
        LumigraphError: the model knows fewer than two of the photos, its cameras are all in one place, or they stand
            otherwise than those of the scene.
    """
    there = [place for place, name in enumerate(names) if name in keypoints]
    if len(there) >= _FEWEST:
        model = np.stack([keypoints[name].centre for name in names if name in keypoints])
        ours, theirs = (np.linalg.norm(x - x.mean(0), axis=1) for x in (positions[there], model))
        apart = theirs > 1e-9 * max(float(theirs.max()), 1e-12)
        if apart.any() and float(ours.max()) > 0:
            ratios = ours[apart] / theirs[apart]
            scale = float(np.median(ratios))
            if float(np.median(np.abs(ratios - scale))) > _SAME_PLACES * scale:
                raise LumigraphError(
                    "the cameras of the COLMAP model stand otherwise than those of the scene",
                    todo="Name the folder of the model that the poses are from (--colmap)",
                )
            return scale
    raise LumigraphError(
        f"the COLMAP model knows {len(there)} of the {len(names)} training photos, and two that are apart are needed",
        todo="Name the folder of the model that the poses are from (--colmap); photos go by their file names",
    )


def _read(folder: Path, kind: str) -> Iterator:
    binary, text = folder / f"{kind}.bin", folder / f"{kind}.txt"
    path = binary if binary.is_file() else text
    if not path.is_file():
        raise LumigraphError(
            f"there is no {kind}.bin or {kind}.txt", where=folder, todo="Name the folder of a COLMAP model"
        )
    with io_errors(path):
        if path.stat().st_size > _MAX_BYTES:
            raise LumigraphError("the file is too large", where=path, todo="Use a smaller model")
        data = path.read_bytes()
    parse = {
        ("images", ".bin"): _binary_images,
        ("images", ".txt"): _text_images,
        ("points3D", ".bin"): _binary_points,
        ("points3D", ".txt"): _text_points,
    }[kind, path.suffix]
    try:
        yield from parse(data)
    except (struct.error, ValueError, IndexError) as error:
        raise LumigraphError(
            f"the file is damaged: {error}", where=path, todo="Write the model again with COLMAP"
        ) from error


def _binary_images(data: bytes) -> Iterator:
    count, at = struct.unpack_from("<Q", data)[0], 8
    for _ in range(count):
        pose = struct.unpack_from("<7d", data, at + 4)
        at += 4 + 56 + 4  # number, pose, camera
        end = data.index(b"\0", at)
        name = data[at:end].decode("utf-8", "replace")
        (size,) = struct.unpack_from("<Q", data, end + 1)
        at = end + 9
        if size > (len(data) - at) // 24:
            raise ValueError("it ends too early")
        table = np.frombuffer(data, np.dtype([("place", "<2f8"), ("point", "<i8")]), size, at)
        at += 24 * size
        yield name, _image(pose, table["place"], table["point"])


def _text_images(data: bytes) -> Iterator:
    lines = [line for line in data.decode("utf-8", "replace").splitlines() if not line.startswith("#")]
    for head, body in zip(lines[::2], lines[1::2], strict=False):
        words, values = head.split(maxsplit=9), np.array(body.split(), dtype=np.float64).reshape(-1, 3)
        yield (
            words[9],
            _image([float(word) for word in words[1:8]], values[:, :2], values[:, 2].astype(np.int64)),
        )


def _image(pose, places, points) -> tuple:
    """Rotation and translation from the world to the camera, places of key points, and the numbers of their points."""
    w, x, y, z = np.array(pose[:4]) / np.linalg.norm(pose[:4])
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    return rotation, np.array(pose[4:7]), np.asarray(places), np.asarray(points)


def _binary_points(data: bytes) -> Iterator:
    count, at = struct.unpack_from("<Q", data)[0], 8
    for _ in range(count):
        number, x, y, z, _, error, track = struct.unpack_from("<Q3d3sdQ", data, at)
        at += struct.calcsize("<Q3d3sdQ") + 8 * track
        yield number, (x, y, z, error)


def _text_points(data: bytes) -> Iterator:
    for line in data.decode("utf-8", "replace").splitlines():
        if line.strip() and not line.startswith("#"):
            words = line.split()
            yield int(words[0]), (*map(float, words[1:4]), float(words[7]))
