"""Whether the depth maps of a scene can be trained on."""

import logging

import torch

from lumigraph.errors import LumigraphError
from lumigraph.geometry.conventions import split_similarity
from lumigraph.scenes.scene import Scene, Views

log = logging.getLogger("lumigraph")

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
            "NAME_depth.npy beside NAME.png in Blender's format, or NAME.depth.png in a folder of RGB-D frames",
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
