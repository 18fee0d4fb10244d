"""Mip-NeRF's multi-scale data: `metadata.json` beside pictures of every view at several sizes.

The file has one object for each split, with arrays of equal length: `file_path`, `cam2world` (OpenGL axes), `width`,
`height`, `focal`, `pix2cam` (the inverse of the intrinsics, in OpenGL axes), `near`, `far`, `label` (0 for the finest
size) and `lossmult` (the area of a pixel, in pixels of the finest size). Sizes of one view follow each other. lumigraph
also reads and writes `aabb` ([[x, y, z], [x, y, z]]), where the scene is.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from lumigraph.errors import LumigraphError
from lumigraph.files import new_folder, read_json, write_json
from lumigraph.geometry.cameras import Cameras, concatenate
from lumigraph.geometry.conventions import homogeneous, opencv_to_opengl, split_similarity
from lumigraph.scenes.formats.blender import placed
from lumigraph.scenes.formats.decoding import image_size
from lumigraph.scenes.formats.fields import Fields
from lumigraph.scenes.formats.frames import (
    MAX_FRAMES,
    Frame,
    check_downscale,
    check_duplicates,
    check_enough,
    find_image,
    make_cameras,
    make_views,
    uses_alpha,
    warn_of_missing,
)
from lumigraph.scenes.formats.intrinsics import Intrinsics
from lumigraph.scenes.formats.pictures import straight
from lumigraph.scenes.scene import SPLITS, Background, Scene, SceneInfo, Views
from lumigraph.scenes.splits import SplitOptions
from lumigraph.scenes.stored_arrays import MemoryBudget, threads

log = logging.getLogger("lumigraph")

METADATA = "metadata.json"
_KEYS = ("file_path", "cam2world", "width", "height", "pix2cam", "near", "far", "label", "lossmult")
_NERFIES = "dataset.json"
"""Captures in the format of Nerfies have a `metadata.json` too, and this file."""


def is_multiscale(folder: Path) -> bool:
    """Whether the folder has the file that this reader starts from."""
    return (folder / METADATA).is_file() and not (folder / _NERFIES).is_file()


# ------------------------------------------------------------------ reading


def read(folder: Path, downscale: int, splits: SplitOptions, background: Background | None) -> Scene:
    """Reads a multi-scale scene. Scene units are the file's, except where photos show more than an object.

    Raises:
        LumigraphError: anything in the file that cannot be used; says which picture and field. Or views are to be
            divided otherwise than the file does.
    """
    path = folder / METADATA
    if splits.split not in ("auto", "files"):
        raise LumigraphError(
            f"--split {splits.split} cannot be applied to multi-scale data, which has its own splits",
            where=path,
            todo="Leave --split out",
        )
    common = Fields.of(read_json(path), str(path))
    frames, missing = {}, []
    for split in (split for split in SPLITS if split in common):
        frames[split], gone = _frames(Fields.of(common.members[split], f"{path}, {split}"), folder)
        missing += gone
    if "train" not in frames:
        raise common.wrong("train", "an object with the pictures to train on")
    frames = {split: listed for split, listed in frames.items() if listed or split == "train"}
    everything = [frame for listed in frames.values() for frame in listed]
    warn_of_missing(missing, len(missing) + len(everything), path)
    check_enough(len(frames["train"]), len(missing), path)
    check_downscale(everything, downscale)
    alpha = uses_alpha(everything, thorough=background is not None)
    place = placed(common, frames["train"], alpha)
    scale, _, _ = split_similarity(place.transform)
    views, memory, first = {}, MemoryBudget(), 0
    for split, listed in frames.items():
        cameras = _numbered(make_cameras(listed, place.near / scale, place.far / scale), first)
        cameras = cameras.transformed(place.transform)
        first = int(cameras.ids.max()) + 1
        areas = torch.tensor([frame.fields.number("lossmult", positive=True) for frame in listed])
        views[split] = make_views(listed, cameras, alpha, downscale, {}, memory, areas)
    info = SceneInfo(
        name=folder.name,
        source=str(folder),
        format="multiscale",
        downscale=downscale,
        cameras={split: part.cameras for split, part in views.items()},
        bounds=place.bounds,
        background=(background or "white") if alpha else "opaque",
        world_transform=place.transform,
        splits=splits,
    )
    return Scene(info, views, missing)


def _frames(split: Fields, folder: Path) -> tuple[list[Frame], list[str]]:
    """The pictures of a split that exist, and the names of those that do not."""
    columns = {key: split.items(key, MAX_FRAMES) for key in _KEYS}
    counts = {key: len(values) for key, values in columns.items()}
    for key, count in counts.items():
        if count != counts["file_path"]:
            raise LumigraphError(
                f"'{key}' has {count} entries, 'file_path' has {counts['file_path']}",
                where=split.where,
                todo="Give one entry for each picture in every list",
            )
    entries = [
        Fields({key: values[i] for key, values in columns.items()}, f"{split.where} picture {i}")
        for i in range(counts["file_path"])
    ]
    folders: dict[Path, frozenset[str]] = {}
    names = [entry.text("file_path") for entry in entries]
    found = [find_image(entry, folder, name, folders) for entry, name in zip(entries, names, strict=True)]
    there = [(entry, path) for entry, path in zip(entries, found, strict=True) if path is not None]
    check_duplicates(there)
    with ThreadPoolExecutor(threads()) as pool:
        headers = pool.map(image_size, [path for _, path in there])
    frames = [
        _frame(entry, path, folder, header) for (entry, path), header in zip(there, headers, strict=True)
    ]
    return frames, [name for name, path in zip(names, found, strict=True) if path is None]


def _frame(entry: Fields, path: Path, folder: Path, header: tuple[int, int, bool]) -> Frame:
    width, height, alpha = header
    declared = entry.number("width", positive=True), entry.number("height", positive=True)
    if declared != (width, height):
        raise LumigraphError(
            f"the image is {width}x{height}, but {declared[0]:g}x{declared[1]:g} is declared",
            where=entry.where,
            todo="Make the data again with `lumigraph multiscale`",
        )
    return Frame(
        fields=entry,
        name=path.relative_to(folder).as_posix(),
        path=path,
        pose=entry.pose("cam2world"),
        intrinsics=_intrinsics(entry, (width, height)),
        alpha=alpha,
    )


def _intrinsics(entry: Fields, size: tuple[int, int]) -> Intrinsics:
    """From `pix2cam` = [[1 / fx, 0, -cx / fx], [0, -1 / fy, cy / fy], [0, 0, -1]]."""
    matrix = entry.matrix("pix2cam", 3, 3)
    (a, skew, b), (turn, c, d), last = matrix.tolist()
    if not (a > 0 and c < 0 and skew == turn == 0 and np.allclose(last, (0.0, 0.0, -1.0))):
        raise entry.wrong("pix2cam", "[[1/fx, 0, -cx/fx], [0, -1/fy, cy/fy], [0, 0, -1]]")
    return Intrinsics(
        size=size,
        focal=(1 / a, -1 / c),
        principal=(-b / a, -d / c),
        distortion=(0.0,) * 6,
        fisheye=False,
    )


def _numbered(cameras: Cameras, first: int) -> Cameras:
    """The cameras with a number for each pose, from `first`: the sizes of one view are one photo."""
    known: dict[bytes, int] = {}
    poses = cameras.camera_to_world.numpy()
    ids = [known.setdefault(pose.tobytes(), first + len(known)) for pose in poses]
    return replace(cameras, ids=torch.tensor(ids))


# ------------------------------------------------------------------ writing


def write(scene: Scene, folder: Path, overwrite: bool = False) -> None:
    """Writes a scene that was read at several scales: pictures `images_SPLIT/INDEX_dLEVEL.png` and `metadata.json`,
    with the published keys and order. Colours have straight alpha. lumigraph reads equal cameras, images and areas
    back.

    The folder appears when it is complete.

    Raises:
        LumigraphError: the scene has what the format cannot hold; the folder exists (without `overwrite`); the disk
            fails.
    """
    _check_fits(scene)
    _warn_of_what_is_lost(scene)
    with new_folder(folder, overwrite) as temporary, ThreadPoolExecutor(threads()) as pool:
        data: dict[str, Any] = {}
        for split, views in scene.views.items():
            (temporary / f"images_{split}").mkdir()
            names = _file_names(split, _areas(scene, views))
            list(
                pool.map(
                    lambda i, views=views, names=names: _save(temporary / names[i], views, i),
                    range(len(views)),
                )
            )
            data[split] = _columns(
                views.cameras.transformed(scene.info.to_capture), names, _areas(scene, views)
            )
        box = scene.info.bounds
        if torch.equal(scene.info.world_transform, torch.eye(4, dtype=torch.float64)):
            data["aabb"] = [box.lower.tolist(), box.upper.tolist()]
        write_json(temporary / METADATA, data)


def _check_fits(scene: Scene) -> None:
    cameras = concatenate([views.cameras for views in scene.views.values()])
    problems = {
        "lens distortion": cameras.distorted,
        "times": cameras.times is not None,
        "attributes": cameras.attributes is not None,
        "masks": any(views.has_masks for views in scene.views.values()),
        "a background without bounds": scene.info.bounds.unbounded,
    }
    found = [name for name, there in problems.items() if there]
    if found:
        raise LumigraphError(
            f"the scene has {' and '.join(found)}, which multi-scale data cannot hold",
            where=scene.info.source,
            todo="Train on it as it is, with --scales",
        )


def _warn_of_what_is_lost(scene: Scene) -> None:
    found = {
        "depth maps": any(views.has_depths for views in scene.views.values()),
        "normal maps": any(views.has_normals for views in scene.views.values()),
    }
    lost = " and ".join(name for name, there in found.items() if there)
    if lost:
        log.warning(
            "%s: the %s are not written, for which multi-scale data has no place; train --scales may use them",
            scene.info.source,
            lost,
        )


def _areas(scene: Scene, views: Views) -> Float[Tensor, " N"]:
    if views.pixel_areas is None:
        raise LumigraphError(
            "the scene was read at one scale", where=scene.info.source, todo="Ask for 2 scales or more"
        )
    return views.pixel_areas


def _labels(areas: Float[Tensor, " N"]) -> list[int]:
    """Levels of areas that grow by four."""
    return (0.5 * areas.log2()).round().long().tolist()


def _file_names(split: str, areas: Float[Tensor, " N"]) -> list[str]:
    labels = _labels(areas)
    count = max(labels) + 1
    return [f"images_{split}/{i // count:03d}_d{label}.png" for i, label in enumerate(labels)]


def _save(path: Path, views: Views, index: int) -> None:
    Image.fromarray(straight(views.image(index).numpy())).save(path, format="PNG")


def _columns(cameras: Cameras, names: Sequence[str], areas: Float[Tensor, " N"]) -> dict[str, list[Any]]:
    poses = homogeneous(opencv_to_opengl(cameras.camera_to_world.double()))
    lenses = zip(cameras.focal.double().tolist(), cameras.principal.double().tolist(), strict=True)
    return {
        "file_path": list(names),
        "cam2world": poses.tolist(),
        "width": cameras.size[:, 0].tolist(),
        "height": cameras.size[:, 1].tolist(),
        "focal": cameras.focal[:, 0].tolist(),
        "label": _labels(areas),
        "near": cameras.near.tolist(),
        "far": cameras.far.tolist(),
        "lossmult": areas.tolist(),
        "pix2cam": [
            [[1 / fx, 0.0, -cx / fx], [0.0, -1 / fy, cy / fy], [0.0, 0.0, -1.0]]
            for (fx, fy), (cx, cy) in lenses
        ],
    }
