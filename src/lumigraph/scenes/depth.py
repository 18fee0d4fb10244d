"""The depth a teacher is trained with: whether a scene's own will do, and monocular depth beside it or in its place.

Monocular depth is aligned to what is known of each picture (`geometry/depth_alignment.py`).
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from lumigraph.configs.depth import DepthSource
from lumigraph.errors import LumigraphError
from lumigraph.files import inside
from lumigraph.geometry.conventions import split_similarity
from lumigraph.geometry.depth_alignment import (
    ScaleShift,
    composite_depth,
    fit_scale_shift,
    keypoint_weights,
)
from lumigraph.scenes.formats.decoding import decode_values
from lumigraph.scenes.formats.maps import ray_lengths
from lumigraph.scenes.formats.pictures import resampled
from lumigraph.scenes.keypoints import KeyPoints, capture_scale, pair_photos, read_keypoints
from lumigraph.scenes.scene import Scene, Views

log = logging.getLogger("lumigraph")

_SENSOR_ERROR = 0.01
"""Standard deviation of a sensor's depth, as a part of it."""
_SAME_SHAPE = 0.02
"""By how much the ratio of the sides of two pictures may differ that show the same."""
_LOOKED_AT = 4
_SUSPICIOUS = 10.0
"""Ratio of the depths to the distance of the scene's middle from which a wrong unit is likelier than an odd scene."""


def check_depths(scene: Scene) -> None:
    """Warns where the unit of the depth maps seems wrong: their median is ten times off the distance from the cameras
    to the middle of the scene.

    Raises:
        LumigraphError: the training views have no depth maps, or none of the maps knows any depth.
    """
    views = scene.split("train")
    if not views.has_depths:
        raise LumigraphError(
            "training with depth is asked for (--depth-loss), and the training views of this scene have no depth maps",
            where=scene.info.source,
            todo="Leave --depth-loss out, or add depth maps: 16-bit PNG named by 'depth_file_path' in transforms.json, "
            "NAME_depth.npy or NAME_depth_0001.exr beside NAME.png in Blender's format, target_depth/NAME.png beside "
            "rgb/NAME.png, or NAME.depth.png in a folder of RGB-D frames; without any, --depth-source colmap takes "
            "COLMAP's key points, mono what a network says",
        )
    if not any(_known(views, index) for index in range(len(views))):
        raise LumigraphError(
            "none of the depth maps of the training views knows any depth: all pixels are zero, 65535 or not finite",
            where=scene.info.source,
            todo="Check how they were written, or leave --depth-loss out",
        )
    seen, expected = _medians(scene, views)
    if seen is not None and not 1 / _SUSPICIOUS <= seen / expected <= _SUSPICIOUS:
        scale, _, _ = split_similarity(scene.info.to_capture)
        log.warning(
            "the depth maps have a median of %.3g and the scene lies about %.3g away from its cameras, in units of the "
            "capture: is the unit of the depth maps right? (in %s)",
            seen * scale,
            expected * scale,
            scene.info.source,
        )


def _known(views: Views, index: int) -> bool:
    depth = views.depth(index)
    return depth is not None and bool(torch.isfinite(depth).any())


def _medians(scene: Scene, views: Views) -> tuple[float | None, float]:
    """The median depth of a few maps, None where they know none, and the distance from the cameras to the middle of the
    scene; scene units."""
    step = max(1, len(views) // _LOOKED_AT)
    maps = [views.depth(index) for index in range(0, len(views), step)[:_LOOKED_AT]]
    known = torch.cat([depth[torch.isfinite(depth)] for depth in maps if depth is not None])
    away = (views.cameras.positions - scene.info.bounds.centre).norm(dim=1).median()
    return (float(known.median()) if len(known) else None), max(float(away), 1e-9)


# ------------------------------------------------------------------ depth from elsewhere


def with_depth_source(scene: Scene, options: DepthSource) -> Scene:
    """The scene with the depth that `options` asks for in its training views. A view whose monocular depth cannot be
    aligned goes without it, and one warning counts them.

    Raises:
        LumigraphError: a map is missing or of another shape than its photo, or no map can be aligned.
    """
    if options.depth_source == "sensor" and options.depth_sigma is None:
        return scene
    views = scene.split("train")
    unit, _, _ = split_similarity(scene.info.world_transform)
    anchors = _anchors(scene, views, options)
    if options.depth_source == "colmap":
        maps = [_points_only(views, index, anchor, options, unit) for index, anchor in enumerate(anchors)]
        return _with_maps(scene, views, maps)
    fits = _fits(scene, views, options, anchors)
    pairs = [_depth_of(views, index, options, fits[index], unit) for index in range(len(views))]
    return _with_maps(scene, views, pairs)


_Map = tuple[np.ndarray | None, np.ndarray | None]
"""Depth and its standard deviation of one view, scene units; None where there is nothing."""


def _with_maps(scene: Scene, views: Views, maps: Sequence[_Map]) -> Scene:
    changed = views.with_depths([depth for depth, _ in maps], [sigma for _, sigma in maps])
    return replace(scene, views={**scene.views, "train": changed})


def _points_only(
    views: Views, index: int, anchor: "_Anchor | None", options: DepthSource, unit: float
) -> _Map:
    """The depth of a view's key points, each in its pixel, the nearest where several share one."""
    if anchor is None:
        return None, None
    rows, columns, depth, weights = anchor
    # Reprojection errors over their mean, from the trust that follows from them.
    errors = np.sqrt(np.maximum(-np.log(np.maximum(weights / 2, 1e-12)), 0))
    sigma = np.maximum(options.depth_sigma or 0.0, _SENSOR_ERROR * depth * errors)
    width, height = views.cameras.size[index].tolist()
    known, spread = np.full((height, width), np.nan), np.full((height, width), np.nan)
    order = np.argsort(-depth)
    place = rows[order], columns[order]
    known[place], spread[place] = depth[order], sigma[order]
    return _in_scene_units(known, spread, unit)


_Anchor = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Row and column of pixels of known depth, the depths in units of the capture, and the trust in them."""


def _anchors(scene: Scene, views: Views, options: DepthSource) -> list[_Anchor | None]:
    """What the monocular depth of each view is aligned to; None where there is nothing."""
    if options.depth_source == "sensor" or (options.colmap is None and options.depth_align == "none"):
        return [None] * len(views)
    unit, _, _ = split_similarity(scene.info.world_transform)
    if options.colmap is None:
        return [_sensor_anchor(views, index, unit) for index in range(len(views))]
    keypoints = read_keypoints(options.colmap)
    names = _model_names(scene, views, list(keypoints))
    positions = views.cameras.transformed(scene.info.to_capture).positions.double().numpy()
    scale = capture_scale(keypoints, names, positions)
    factor = scene.info.downscale
    return [
        None if name is None else _keypoint_anchor(keypoints[name], views, index, scale, factor)
        for index, name in enumerate(names)
    ]


def _model_names(scene: Scene, views: Views, known: list[str]) -> list[str | None]:
    """What a COLMAP model that knows these names calls each photo.

    The reduced copies of published captures in LLFF's format have names of their own. As rows of poses do, they follow
    the model's names in their order, and photos are numbered so.
    """
    names, numbers = pair_photos(known, views.names), views.cameras.ids.tolist()
    if scene.info.format == "llff" and not any(names) and max(numbers) < len(known):
        return [sorted(known)[number] for number in numbers]
    return names


def _sensor_anchor(views: Views, index: int, unit: float) -> _Anchor | None:
    depth = views.depth(index)
    if depth is None:
        return None
    known = depth.numpy() / unit
    rows, columns = np.nonzero(np.isfinite(known))
    return rows, columns, known[rows, columns], np.ones(len(rows))


def _keypoint_anchor(points: KeyPoints, views: Views, index: int, scale: float, factor: int) -> _Anchor:
    width, height = views.cameras.size[index].tolist()
    factors = _reduction(points, (width, height), factor, views.names[index])
    columns, rows = (points.places / factors).astype(np.int64).T
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    weights = keypoint_weights(points.errors)
    return rows[inside], columns[inside], scale * points.depths[inside], weights[inside]


def _reduction(points: KeyPoints, size: tuple[int, int], downscale: int, name: str) -> Float[np.ndarray, "2"]:
    """How many pixels of the picture that COLMAP saw a pixel of a photo of this size is wide and high."""
    seen, ours = np.array(points.size), np.array(size)
    # Reduced by whole factors, a photo loses what is left at its borders.
    if ((seen >= downscale * ours) & (seen < downscale * (ours + 1))).all():
        return np.full(2, float(downscale))
    factors = seen / ours
    if abs(factors[0] / factors[1] - 1) > _SAME_SHAPE + (1 / ours).max():
        raise LumigraphError(
            f"COLMAP saw {name} with {seen[0]}x{seen[1]} pixels, which is another shape than {ours[0]}x{ours[1]}",
            todo="Give the model that was made of these photos, upright and not cropped",
        )
    return factors


def _depth_of(views: Views, index: int, options: DepthSource, fit: ScaleShift | None, unit: float) -> _Map:
    """Depth and its standard deviation of one view, scene units."""
    least, known = options.depth_sigma or 0.0, views.depth(index)
    sensor = None if known is None else known.numpy() / unit
    sensor_sigma = None if sensor is None else np.maximum(least, _SENSOR_ERROR * sensor)
    if options.depth_source == "mono":
        sensor = sensor_sigma = None
    if fit is None:
        return _in_scene_units(sensor, sensor_sigma, unit)
    monocular = fit(_monocular(views, index, options)[0]) / _lengths(views, index, options)
    sigma = np.full_like(monocular, max(least, fit.residual))
    if sensor is None or sensor_sigma is None:
        return _in_scene_units(monocular, sigma, unit)
    depth, filled = composite_depth(sensor, monocular)
    return _in_scene_units(depth, np.where(filled, sigma, sensor_sigma), unit)


def _in_scene_units(depth: np.ndarray | None, sigma: np.ndarray | None, unit: float) -> _Map:
    if depth is None or sigma is None:
        return None, None
    return (unit * depth).astype(np.float32), np.nan_to_num(unit * sigma).astype(np.float32)


def _fits(
    scene: Scene, views: Views, options: DepthSource, anchors: Sequence[_Anchor | None]
) -> list[ScaleShift | None]:
    """What makes the monocular depth of each view depth in units of the capture; None where nothing does."""
    if options.depth_source == "sensor":
        return [None] * len(views)
    fits, failures = [], []
    for index, anchor in enumerate(anchors):
        try:
            fits.append(_fit(views, index, options, anchor))
        except _NotAlignedError as error:
            fits.append(None)
            failures.append(error)
    if failures:
        if len(failures) == len(views):
            raise failures[0]
        log.warning(
            "the monocular depth of %d of %d training views is left out, first %s: %s (in %s)",
            len(failures),
            len(views),
            views.names[fits.index(None)],
            failures[0].what,
            scene.info.source,
        )
    return fits


class _NotAlignedError(LumigraphError):
    """Monocular depth and what is known of depth do not come together."""


def _fit(views: Views, index: int, options: DepthSource, anchor: _Anchor | None) -> ScaleShift:
    """The scale and shift of one view's monocular depth."""
    monocular, path = _monocular(views, index, options)
    if options.depth_align == "none":
        return ScaleShift(1.0, 0.0, options.mono_inverse, 0.0, 1.0)
    if anchor is None:
        raise _NotAlignedError(
            f"nothing is known that the monocular depth of {views.names[index]} could be aligned to",
            where=path,
            todo="Choose another --depth-align",
        )
    rows, columns, depth, weights = anchor
    depth = depth * _lengths(views, index, options)[rows, columns]
    try:
        fit = fit_scale_shift(monocular[rows, columns], depth, weights, inverse=options.mono_inverse)
    except LumigraphError as error:
        raise _NotAlignedError(error.what, where=path, todo=error.todo) from error
    log.info(
        "%s: monocular depth times %.4g plus %.4g; %.0f %% of the known depths agree, spread %.4g",
        views.names[index],
        fit.scale,
        fit.shift,
        100 * fit.inliers,
        fit.residual,
    )
    return fit


def _lengths(views: Views, index: int, options: DepthSource) -> np.ndarray:
    """What the network tells of along each ray of a view for one unit of depth."""
    if options.mono_kind == "euclidean":
        return ray_lengths(views.cameras, index)
    width, height = views.cameras.size[index].tolist()
    return np.ones((height, width))


def _monocular_file(folder: Path, photo: Path) -> Path:
    """Where what a network says of a photo is: NAME.npy for NAME.png, or where there is none, NAME_depth.npy in `omni`
    beside `rgb` (rooms as MonoSDF and depth-supervised Mip-NeRF lay them out)."""
    path = inside(folder, photo.with_suffix(".npy").as_posix())
    if photo.parent.name == "rgb" and not path.is_file():
        omni = inside(folder, (photo.parent.with_name("omni") / f"{photo.stem}_depth.npy").as_posix())
        return omni if omni.is_file() else path
    return path


def _monocular(views: Views, index: int, options: DepthSource) -> tuple[np.ndarray, Path]:
    """What the network says of a view, at the size of its picture; NaN where nothing."""
    assert options.mono_depth is not None
    path = _monocular_file(options.mono_depth, Path(views.names[index]))
    if not path.is_file():
        raise LumigraphError(
            f"there is no monocular depth of {views.names[index]}",
            where=path,
            todo="Write it, as `lumigraph depth` does (--split all: of every photo), or choose --depth-source sensor",
        )
    width, height = views.cameras.size[index].tolist()
    return resampled(decode_values(path), (width, height), path).astype(np.float64), path
