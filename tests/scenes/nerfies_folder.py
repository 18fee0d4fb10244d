"""Cameras and pictures as a folder in Nerfies' format, to read back."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lumigraph.geometry.cameras import Cameras
from lumigraph.scenes.procedural import make_scene

SCALE, CENTRE = 0.25, [0.5, -1.0, 2.0]


def camera_json(cameras: Cameras, index: int) -> dict[str, Any]:
    pose, focal = cameras.camera_to_world[index].double(), cameras.focal[index].tolist()
    k1, k2, k3, _, p1, p2 = cameras.distortion[index].tolist()
    return {
        "orientation": pose[:, :3].T.tolist(),
        "position": pose[:, 3].tolist(),
        "focal_length": focal[0],
        "principal_point": cameras.principal[index].tolist(),
        "skew": 0.0,
        "pixel_aspect_ratio": focal[1] / focal[0],
        "radial_distortion": [k1, k2, k3],
        "tangential_distortion": [p1, p2],
        "image_size": cameras.size[index].tolist(),
    }


def write(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))


def write_nerfies(folder: Path, cameras: Cameras, images: list[np.ndarray]) -> Path:
    """Frames 000000, 000001, ... in the order of the cameras, whose times are multiples of 1 / (N - 1); every fifth
    from the second on is for validation. The photos are at full size in rgb/1x and averaged in rgb/2x."""
    names = [f"{number:06d}" for number in range(len(cameras))]
    val = names[1::5]
    write(folder / "scene.json", {"scale": SCALE, "center": CENTRE, "near": 0.1, "far": 2.0})
    write(
        folder / "dataset.json",
        {
            "count": len(names),
            "num_exemplars": len(names) - len(val),
            "ids": names,
            "train_ids": [name for name in names if name not in val],
            "val_ids": val,
        },
    )
    times = torch.arange(len(cameras)) / (len(cameras) - 1) if cameras.times is None else cameras.times
    moments = (times * (len(names) - 1)).round().int().tolist()
    metadata = {
        name: {"warp_id": moment, "appearance_id": number, "camera_id": 0}
        for number, (name, moment) in enumerate(zip(names, moments, strict=True))
    }
    write(folder / "metadata.json", metadata)
    for number, (name, image) in enumerate(zip(names, images, strict=True)):
        write(folder / "camera" / f"{name}.json", camera_json(cameras, number))
        for factor in (1, 2):
            small = image.reshape(image.shape[0] // factor, factor, image.shape[1] // factor, factor, 3)
            path = folder / "rgb" / f"{factor}x" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(small.mean((1, 3)).round().astype(np.uint8)).save(path)
        write(folder / "camera-paths" / "orbit" / f"{number}.json", camera_json(cameras, number))
    return folder


def capture_of(name: str, folder: Path, count: int = 11, size: int = 24) -> tuple[Path, Cameras]:
    """Cameras of the procedural scene `name` in such a folder, with pictures of nothing (tracing them would take
    long), and these cameras."""
    cameras = make_scene(name, count, 0, 0, size=size).info.cameras["train"]
    return write_nerfies(folder, cameras, [picture(number, size) for number in range(count)]), cameras


def picture(number: int, size: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)


def annotate(folder: Path) -> None:
    """Two attributes, said of frames 2 and 8, and outlined in frame 2: the head in the left half of the photo."""
    (folder / "mapping.yml").write_text("0: head\n1: left arm\n")
    (folder / "annotations.yml").write_text(
        "- class: 0\n  frame: 2\n  value: -1\n- {class: 1, frame: 2, value: 0.5}\n"
        "- class: 1 # the arm\n  frame: 000008\n  value: 1\n"
    )
    corners = [[0, 0], [12, 0], [12, 24], [0, 24]]
    shapes = [{"label": "head", "points": corners, "shape_type": "polygon"}]
    write(folder / "annotations" / "000002.json", {"imageWidth": 24, "imageHeight": 24, "shapes": shapes})


def write_model(folder: Path, focal: tuple[float, float], size: tuple[int, int]) -> None:
    """A COLMAP model with one lens, three points and no photos."""
    folder.mkdir(parents=True)
    (folder / "cameras.txt").write_text(
        f"# lenses\n1 PINHOLE {size[0]} {size[1]} {focal[0]} {focal[1]} {size[0] / 2} {size[1] / 2}\n"
    )
    rows = [(f"{n} {n}.0 2.0 3.0 0 0 0 0.5 " + "1 1 " * seen).strip() for n, seen in ((1, 5), (2, 4), (3, 6))]
    (folder / "points3D.txt").write_text("\n".join(rows) + "\n")
