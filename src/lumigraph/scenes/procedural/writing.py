"""A scene as a folder in Blender's format, which every NeRF program reads."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lumigraph.errors import LumigraphError
from lumigraph.files import io_errors, new_folder, require_replaceable, write_json
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.conventions import angle_from_focal, homogeneous, opencv_to_opengl
from lumigraph.scenes.formats.pictures import straight
from lumigraph.scenes.scene import Scene, SceneInfo, Views


def write_blender(scene: Scene, folder: str | Path, overwrite: bool = False) -> None:
    """Writes a scene as `transforms_{split}.json` beside RGBA images, z-depths NAME_depth.npy (float32, NaN where there
    is nothing), normals NAME_normal.npy and, for attributes, NAME_attribute_K.png (the share of a pixel that attribute
    K moves, 255 for all of it). lumigraph reads equal cameras, images, depths, times and attributes back, normals
    nearly so, and the masks as they were rounded.

    The folder appears when it is complete. Raises LumigraphError when it exists (without `overwrite`) or the disk
    fails.
    """
    check_replaceable(Path(folder), overwrite)
    with new_folder(folder, overwrite) as temporary:
        for split, views in scene.views.items():
            (temporary / split).mkdir()
            frames = [
                _write_frame(temporary / split, f"{split}/r_{i:03d}", views, i) for i in range(len(views))
            ]
            write_json(
                temporary / f"transforms_{split}.json",
                {**_common(scene.info, views.cameras), "frames": frames},
            )


def check_replaceable(folder: Path, overwrite: bool) -> None:
    """Raises LumigraphError where a scene may not be written: the folder exists and nobody said to overwrite it, or
    what it holds is no scene of this format."""
    require_replaceable(folder, overwrite)
    with io_errors(folder):
        filled = folder.is_dir() and any(folder.iterdir())
    if filled and not (folder / "transforms_train.json").is_file():
        raise LumigraphError(
            "there is something here that is not a scene in Blender's format, and is not replaced",
            where=folder,
            todo="Choose another folder, or remove this one yourself",
        )


def _common(info: SceneInfo, cameras: Cameras) -> dict[str, Any]:
    (focal_x, focal_y), (width, height) = cameras.focal[0].tolist(), cameras.size[0].tolist()
    principal_x, principal_y = cameras.principal[0].tolist()
    return {
        "camera_angle_x": angle_from_focal(focal_x, width),
        "fl_x": focal_x,
        "fl_y": focal_y,
        "cx": principal_x,
        "cy": principal_y,
        "w": width,
        "h": height,
        "near": float(cameras.near[0]),
        "far": float(cameras.far[0]),
        "aabb": [info.bounds.lower.tolist(), info.bounds.upper.tolist()],
        **({"attribute_names": list(info.attributes)} if info.attributes else {}),
    }


def _write_frame(folder: Path, name: str, views: Views, index: int) -> dict[str, Any]:
    stem, cameras = Path(name).name, views.cameras
    Image.fromarray(straight(views.image(index).numpy())).save(folder / f"{stem}.png")
    depth = views.depth(index)
    if depth is not None:
        np.save(folder / f"{stem}_depth.npy", depth.numpy())
    normals = views.normals(index)
    if normals is not None:
        np.save(folder / f"{stem}_normal.npy", normals.numpy())
    masks = views.attribute_masks(index)
    for number, share in enumerate(() if masks is None else masks.unbind(-1)):
        if bool(share.isfinite().all()):
            Image.fromarray((share * 255).round().byte().numpy()).save(
                folder / f"{stem}_attribute_{number}.png"
            )
    frame: dict[str, Any] = {
        "file_path": f"./{name}",
        "transform_matrix": homogeneous(opencv_to_opengl(cameras.camera_to_world[index])).tolist(),
    }
    if cameras.times is not None:
        frame["time"] = float(cameras.times[index])
    if cameras.attributes is not None:
        known = cameras.attributes[index].tolist()
        frame["attributes"] = [None if math.isnan(value) else value for value in known]
    return frame
