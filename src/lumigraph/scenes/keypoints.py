"""Key points of a COLMAP model: where each photo saw them, how deep they lie, and how well they fit.

Depth is in units of the capture: those of a COLMAP model are free, and the distances between its cameras and between
those of the scene tell one from the other.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Float

from lumigraph.errors import LumigraphError
from lumigraph.scenes.colmap import read_images, read_lenses, read_points

_FEWEST = 2
_SAME_PLACES = 0.1
"""How far, as a part of them, the distances between cameras may differ in half of the photos."""


@dataclass(frozen=True)
class KeyPoints:
    """Of one photo: places [n, 2] in pixels, depths [n] along the camera's axis and mean reprojection errors [n] in
    pixels; `centre` [3] is the camera. Lengths are in units of the model, pixels those of the picture that COLMAP saw,
    of `size` (width, height)."""

    size: tuple[int, int]
    places: Float[np.ndarray, "n 2"]
    depths: Float[np.ndarray, " n"]
    errors: Float[np.ndarray, " n"]
    centre: Float[np.ndarray, "3"]


def read_keypoints(folder: Path) -> dict[str, KeyPoints]:
    """The key points of each photo of a COLMAP model, by the photo's name.

    Raises:
        LumigraphError: a file is missing or damaged.
    """
    sizes = {lens.number: lens.size for lens in read_lenses(folder)}
    points = {point.number: (*point.place, point.error) for point in read_points(folder)}
    found = {}
    for image in read_images(folder):
        if image.lens not in sizes:
            raise LumigraphError(
                f"{image.name} was taken with camera {image.lens}, which the model does not know",
                where=folder,
                todo="Write the model again with COLMAP",
            )
        known = np.array([number in points for number in image.points], dtype=bool)
        rows = np.array([points[number] for number in image.points[known]]).reshape(-1, 4)
        depths = rows[:, :3] @ image.rotation[2] + image.translation[2]
        front = depths > 0
        found[image.name] = KeyPoints(
            sizes[image.lens],
            image.places[known][front],
            depths[front],
            rows[front, 3],
            -image.rotation.T @ image.translation,
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
