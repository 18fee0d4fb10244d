"""The published pseudo views of MobileR2L (arXiv 2212.08057), read and written: a picture and a pose in each file.

    100x100_od/, opacity/                     empty, of no use
    800x800_rgb/rendered_rgb_00000.npy        float32 [H W, 3], 0 to 1, row after row
    poses/c2w_00000.npy                       [3] centre of a camera that looks at the origin, z up; or [3, 4], OpenCV
    hwf/dataset_info.json                     downscaled_height, downscaled_width, downscaled_focal, ff and others
    hwf/hwfs.npy                              the same numbers, and the cameras' distances
    vis/                                      the first pictures as PNGs

Of scenes in Blender's format (`dataset_type` nerf) the teacher's units are such that cameras which stand at 4.0311 from
the origin, as those of NeRF-Synthetic do, stand at 1.5; the students undo exactly this, and so does this reader. The
teacher puts all other captures into a frame of its own, of which nothing in the folder tells where it is: their poses
can be read where a `manifest.json` beside them says that they are in the capture's, as those that are written here.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lumigraph.distillation.ray_table import KIND, MANIFEST
from lumigraph.distillation.shard_source import draws
from lumigraph.distillation.shards import Plan, Shards
from lumigraph.errors import LumigraphError
from lumigraph.files import io_errors, new_folder, read_json, require_replaceable, write_json
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.rotations import look_at
from lumigraph.rendering.renderer import Batch, Pictures
from lumigraph.scenes.scene import SceneInfo
from lumigraph.training.sources import RaySource, chosen_views

LAYOUT = "mobile-r2l"
TEACHER_UNIT = 1.5 / 4.031128857175551
"""Units of the teacher in one of the capture, around an object."""
_INFO = "hwf/dataset_info.json"
_PICTURES = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})_rgb")
_SHOWN = 100
_AT_ORIGIN = 1e-3
"""How far, as a part of its distance, a camera may look past the origin, and be turned about its axis."""
_LOOSE = 0.01
"""How far colours may lie outside 0..1."""
_UP = torch.tensor([0.0, 0.0, 1.0])


def is_picture_folder(folder: Path) -> bool:
    """Whether this is a folder of such pseudo views."""
    return (folder / _INFO).is_file()


# ------------------------------------------------------------------ reading


class LegacyPictures(RaySource):
    """Whole views, or pixels, drawn uniformly; the draw is a function of (seed, step)."""

    def __init__(self, folder: Path, info: SceneInfo, seed: int):
        """`info`: the scene that they show.

        Raises:
            LumigraphError: files are missing or hold something else, or nothing tells where the poses lie.
        """
        self.folder, self.seed = folder, seed
        self._pictures, self.width, self.height = _picture_files(folder)
        poses = _poses(folder, [path.stem.rpartition("_")[2] for path in self._pictures])
        focal = _focal(folder, self.height)
        count, template = len(poses), info.cameras["train"][0:1]
        cameras = Cameras(
            camera_to_world=poses,
            focal=torch.full((count, 2), focal),
            principal=torch.tensor([[self.width / 2, self.height / 2]]).repeat(count, 1),
            size=torch.tensor([[self.width, self.height]]).repeat(count, 1),
            near=template.near.expand(count),
            far=template.far.expand(count),
            distortion=torch.zeros(count, template.distortion.shape[1]),
            # No captured image's: photos, which have numbers, can be mixed in.
            ids=torch.full((count,), -1),
        )
        moved = cameras.transformed(info.world_transform)
        # Near and far of the scene's cameras are in its units already.
        self.cameras = replace(moved, near=cameras.near, far=cameras.far)

    def __len__(self) -> int:
        return len(self._pictures)

    def colours(self, view: int) -> np.ndarray:
        """The picture of a view, float32 [H, W, 3].

        Raises:
            LumigraphError: the file holds no such picture.
        """
        path = self._pictures[view]
        values = _array(path, [(self.width * self.height, 3)])
        if not ((values >= -_LOOSE) & (values <= 1 + _LOOSE)).all():
            raise _damaged(path, "colours are numbers from 0 to 1")
        return values.clip(0, 1).reshape(self.height, self.width, 3)

    def pictures(self, step: int, count: int) -> Pictures:
        index = chosen_views(draws(self.seed, step), np.arange(len(self)), count)
        rgb = torch.from_numpy(np.stack([self.colours(view) for view in index.tolist()]))
        chosen = self.cameras[torch.from_numpy(index).to(self.cameras.device)]
        return Pictures(chosen, _opaque(rgb.to(self.cameras.device)))

    def batch(self, step: int, rays: int) -> Batch:
        """Pixels of a few views: a file is read as a whole."""
        generator = draws(self.seed, step)
        views = chosen_views(generator, np.arange(len(self)), min(_VIEWS_PER_BATCH, len(self)))
        place, x, y = (
            torch.from_numpy(generator.integers(0, count, size=rays))
            for count in (len(views), self.width, self.height)
        )
        rgb = torch.from_numpy(np.stack([self.colours(view) for view in views.tolist()]))[place, y, x]
        device = self.cameras.device
        seen = self.cameras.rays(torch.from_numpy(views)[place].to(device), x.to(device), y.to(device))
        return Batch(seen, _opaque(rgb.to(device)))

    @property
    def picture_pixels(self) -> int:
        return self.width * self.height

    def to(self, device: torch.device) -> "LegacyPictures":
        self.cameras = self.cameras.to(device)
        return self


_VIEWS_PER_BATCH = 16


def _opaque(rgb: Tensor) -> Tensor:
    return torch.nn.functional.pad(rgb, (0, 1), value=1.0)


def _picture_files(folder: Path) -> tuple[list[Path], int, int]:
    """The files of the pictures in the order of their numbers, and the pictures' width and height."""
    with io_errors(folder):
        named = [(path, _PICTURES.fullmatch(path.name)) for path in folder.iterdir() if path.is_dir()]
    found = [(path, match) for path, match in named if match]
    if len(found) != 1:
        raise LumigraphError(
            f"there {'is no folder' if not found else 'are several folders'} of pictures",
            where=folder,
            todo="Pseudo views of MobileR2L have one, called HEIGHTxWIDTH_rgb, such as 800x800_rgb",
        )
    place, match = found[0]
    with io_errors(place):
        files = [path for path in place.iterdir() if re.fullmatch(r"rendered_rgb_\d+\.npy", path.name)]
    if not files:
        raise LumigraphError("there are no pictures here", where=place, todo="Copy the folder again")
    return sorted(files, key=lambda path: int(path.stem.rpartition("_")[2])), int(match[2]), int(match[1])


def _poses(folder: Path, numbers: list[str]) -> Tensor:
    """Camera-to-world [N, 3, 4], OpenCV, in the units of the capture."""
    manifest = (folder / MANIFEST).is_file()
    known = manifest and _manifest(folder / MANIFEST)
    at_origin = manifest or _of_blender(folder)
    poses = []
    for number in numbers:
        path = folder / "poses" / f"c2w_{number}.npy"
        pose = torch.from_numpy(_array(path, [(3,), (3, 4)]))
        if not bool(torch.isfinite(pose).all()):
            raise _damaged(path, "a pose is finite numbers")
        if pose.ndim == 1 and not bool(pose.any()):
            raise _damaged(path, "a camera that looks at the origin does not stand in it")
        if pose.ndim == 1 and at_origin:
            pose = look_at(pose / TEACHER_UNIT, torch.zeros(3), _UP).float()
        elif not known:
            raise LumigraphError(
                "these poses lie in a frame of their teacher's, and nothing here tells where that is",
                where=path,
                todo="Bake them anew from a teacher of lumigraph's: lumigraph train, lumigraph bake",
            )
        poses.append(pose)
    return torch.stack(poses)


def _of_blender(folder: Path) -> bool:
    """Whether the teacher read its photos in Blender's format, whose frame it only scales."""
    info = read_json(folder / _INFO)
    return isinstance(info, dict) and info.get("dataset_type") == "nerf" and not info.get("ff", False)


def _manifest(path: Path) -> bool:
    data = read_json(path)
    if not isinstance(data, dict) or data.get("layout") != LAYOUT:
        raise LumigraphError(
            f"the manifest does not name the layout {LAYOUT}", where=path, todo="Remove it, or mend it"
        )
    return data.get("poses") == "units of the capture"


def _focal(folder: Path, height: int) -> float:
    """Pixels of the pictures in full size."""
    path = folder / _INFO
    info = read_json(path)
    numbers = []
    for key in ("downscaled_height", "downscaled_focal"):
        value = info.get(key) if isinstance(info, dict) else None
        if not isinstance(value, int | float) or not 0 < value < 1e9:
            raise LumigraphError(
                f"{key} should be a positive number", where=path, todo="Mend it, or copy it again"
            )
        numbers.append(float(value))
    return numbers[1] * height / numbers[0]


def _array(path: Path, shapes: list[tuple[int, ...]]) -> np.ndarray:
    """The float32 values of a file that has one of some shapes."""
    with io_errors(path):
        try:
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise _damaged(path, str(error)) from error
    if mapped.shape not in shapes or mapped.dtype not in (np.float32, np.float64):
        wanted = " or ".join(str(list(shape)) for shape in shapes)
        raise _damaged(path, f"it should be floats {wanted}, and is {list(mapped.shape)} {mapped.dtype}")
    return np.array(mapped, np.float32)


def _damaged(path: Path, reason: str) -> LumigraphError:
    return LumigraphError(
        f"the file of these pseudo views cannot be used: {reason}",
        where=path,
        todo="Remove it, or copy it again",
    )


# ------------------------------------------------------------------ writing


def check_pictures_export(plan: Plan, folder: Path, overwrite: bool, where: Path) -> None:
    """Raises what `export_pictures` would raise of the views of a plan, before they are made.

    Raises:
        LumigraphError: the folder is in use, the scene moves, focal lengths differ, or cameras around an object do not
            look at its origin, which is all that the published layout can say of them.
    """
    require_replaceable(folder, overwrite)
    with io_errors(folder):
        if folder.is_dir() and any(folder.iterdir()) and not is_picture_folder(folder):
            raise LumigraphError(
                "there is something else here", where=folder, todo="Choose another folder, or empty this one"
            )
    cameras, focal = plan.cameras, plan.cameras.focal
    if cameras.times is not None or plan.info.cameras["train"].attributes is not None:
        raise _unwritable("holds no times and no attributes", "Leave --legacy out", where)
    if float(focal.amax() / focal.amin()) > 1 + 1e-4:
        raise _unwritable("holds one focal length", "Bake with --poses mobile or fitted", where)
    if plan.info.forward is None and not _look_at_origin(_in_capture(plan)):
        raise _unwritable("holds cameras that look at the origin, upright", "Bake with --poses mobile", where)


def _unwritable(what: str, todo: str, where: Path) -> LumigraphError:
    return LumigraphError(f"layout {LAYOUT} {what}, and the views are others", where=where, todo=todo)


def _in_capture(plan: Plan) -> Cameras:
    return plan.cameras.transformed(plan.info.to_capture)


def _look_at_origin(cameras: Cameras) -> bool:
    poses = cameras.camera_to_world
    wanted = look_at(poses[:, :, 3], torch.zeros(3), _UP).float()
    return bool((poses[:, :, :3] - wanted[:, :, :3]).abs().amax() < _AT_ORIGIN)


def export_pictures(shards: Shards, folder: Path, *, overwrite: bool = False) -> int:
    """Writes pseudo views as MobileR2L's teacher does; returns how many.

    Raises:
        LumigraphError: see `check_pictures_export`.
    """
    plan = shards.plan
    check_pictures_export(plan, folder, overwrite, shards.folder)
    (width, height), inward = plan.size, plan.info.forward is None
    poses = _in_capture(plan).camera_to_world.float().numpy()
    factor = next(each for each in ((8, 4, 2, 1) if inward else (12, 8, 4, 2, 1)) if _divides(each, plan))
    with new_folder(folder, overwrite) as temporary:
        pictures = temporary / f"{height}x{width}_rgb"
        for name in (pictures.name, "poses", "hwf", "vis"):
            (temporary / name).mkdir()
        for view in range(len(shards)):
            rgb = np.asarray(shards.image(view)).astype(np.float32) / (2**plan.bits - 1)
            _save(pictures / f"rendered_rgb_{view:05d}.npy", rgb.reshape(-1, 3))
            pose = poses[view, :, 3] * np.float32(TEACHER_UNIT) if inward else poses[view]
            _save(temporary / "poses" / f"c2w_{view:05d}.npy", pose)
            if view < _SHOWN:
                with io_errors(temporary):
                    Image.fromarray((rgb * 255).round().astype(np.uint8)).save(
                        temporary / "vis" / f"{view}.png"
                    )
        _describe(temporary, plan, poses, factor, inward)
    return len(shards)


def _describe(folder: Path, plan: Plan, poses: np.ndarray, factor: int, inward: bool) -> None:
    (width, height), unit = plan.size, TEACHER_UNIT if inward else 1.0
    focal = float(plan.cameras.focal[0, 0]) / factor
    distances = unit * np.linalg.norm(poses[:, :, 3], axis=1)
    numbers: dict[str, Any] = {
        "downscaled_height": height // factor,
        "downscaled_width": width // factor,
        "downscaled_focal": focal,
        "scale": 1.0,
        "max_radius": float(distances.max()),
        "ff": not inward,
        "dataset_type": "nerf" if inward else "colmap",
    }
    write_json(folder / _INFO, numbers)
    spread = [distances.mean(), distances.min(), distances.max()]
    values = np.array([height // factor, width // factor, focal, 1.0, *spread], np.float32)
    _save(folder / "hwf" / "hwfs.npy", values)
    told = {"kind": KIND, "schema": 1, "layout": LAYOUT}
    write_json(folder / MANIFEST, {**told, "poses": "centres, look-at" if inward else "units of the capture"})


def _divides(factor: int, plan: Plan) -> bool:
    return all(side % factor == 0 for side in plan.size)


def _save(path: Path, values: np.ndarray) -> None:
    with io_errors(path), path.open("wb") as file:
        np.save(file, np.ascontiguousarray(values), allow_pickle=False)
