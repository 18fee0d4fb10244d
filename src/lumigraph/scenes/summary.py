"""What was read from a scene, as plain data for a table or a JSON file."""

from collections.abc import Sequence
from math import prod
from pathlib import PurePosixPath
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lumigraph.geometry.conventions import split_similarity
from lumigraph.geometry.fitting import fit_focus
from lumigraph.scenes.scene import Scene, SceneInfo, Views


def summarise(scene: Scene) -> dict[str, Any]:
    """The figures of a scene: splits, sizes, lenses, bounds, background, missing images, memory. Decodes nothing."""
    info = scene.info
    scale, _, _ = split_similarity(info.world_transform)
    focus, inward = fit_focus(info.cameras["train"])
    return {
        "name": info.name,
        "source": info.source,
        "format": info.format,
        "downscale": info.downscale,
        "background": info.background,
        "bounds": info.bounds.to_json(),
        "scene_units_per_capture_unit": scale,
        "cameras_look": _facing(scene.info, inward),
        "focus": [round(value, 4) + 0.0 for value in focus.tolist()],
        "folders": scene.folders
        or sorted(
            {str(PurePosixPath(name).parent) for views in scene.views.values() for name in views.names}
        ),
        "missing_images": len(scene.missing),
        "attributes": list(info.attributes),
        "bytes": sum(views.nbytes for views in scene.views.values()),
        "splits": {split: _summarise_views(views) for split, views in scene.views.items()},
    }


def _summarise_attributes(values: Float[Tensor, "N A"]) -> list[dict[str, Any]]:
    """Of each attribute: of how many views its value is known, and the smallest and the largest, None if of none."""
    columns = [column[column.isfinite()] for column in values.unbind(1)]
    return [
        {
            "known": len(column),
            "range": [float(value) for value in column.aminmax()] if len(column) else None,
        }
        for column in columns
    ]


def _facing(info: SceneInfo, inward: bool) -> str:
    if info.forward is not None:
        return "forward, from a near plane to infinity"
    return "inward" if inward else "forward or outward"


def sizes_in_words(sizes: Sequence[Sequence[int]]) -> str:
    """Widths and heights of pictures, the largest first; of more than four the first ones and how many follow."""
    words = [f"{width}x{height}" for width, height in sorted(sizes, key=prod, reverse=True)]
    return ", ".join(words[:4]) + (f" and {len(words) - 4} more" if len(words) > 4 else "")


def _summarise_views(views: Views) -> dict[str, Any]:
    cameras = views.cameras
    lens = "fisheye" if cameras.fisheye else "perspective"
    return {
        "views": len(views),
        "bytes": views.nbytes,
        "sizes": torch.unique(cameras.size, dim=0).tolist(),
        "focal": [cameras.focal.amin(0).tolist(), cameras.focal.amax(0).tolist()],
        "degrees_across": [float(degrees) for degrees in cameras.degrees_across.aminmax()],
        "lens": lens,
        "distortion": cameras.distortion.abs().amax(0).tolist() if cameras.distorted else None,
        "near": float(cameras.near.min()),
        "far": float(cameras.far.max()),
        "camera_distance": [float(d) for d in cameras.positions.norm(dim=1).aminmax()],
        "times": None if cameras.times is None else [float(time) for time in cameras.times.aminmax()],
        "attributes": None if cameras.attributes is None else _summarise_attributes(cameras.attributes),
        "attribute_masks": views.has_attribute_masks,
        "alpha": views.has_alpha,
        "masks": views.has_masks,
        "depth_maps": views.has_depths,
        "normal_maps": views.has_normals,
    }
