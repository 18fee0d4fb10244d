"""Open a scene by its folder or its built-in name, whatever its format."""

import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lumigraph.errors import LumigraphError
from lumigraph.files import io_errors
from lumigraph.scenes.depth_reading import DepthReading
from lumigraph.scenes.facing import FacingOptions
from lumigraph.scenes.formats import blender, llff, multiscale, nerfies, rgbd, transforms
from lumigraph.scenes.scene import Background, Scene, SceneInfo
from lumigraph.scenes.splits import SplitOptions, few
from lumigraph.scenes.stored_arrays import MemoryBudget

log = logging.getLogger("lumigraph")

BUILTIN = "builtin:"
WIDEST_LENS = 140.0
"""Degrees across."""
_NAMES = (llff.NAME, multiscale.METADATA, nerfies.SCENE, nerfies.DATASET)
"""Files that a user may name instead of their folder, beside transforms*.json."""
_PHOTOS = {".jpg", ".jpeg", ".png", ".heic", ".mp4", ".mov"}
_FORMATS = (
    "a transforms_train.json (Blender), a transforms.json (instant-ngp, nerfstudio), a poses_bounds.npy (LLFF), a "
    "dataset.json with camera/ (Nerfies, HyperNeRF), a metadata.json (Mip-NeRF's multi-scale data), or frames "
    "NAME.color.png with NAME.pose.txt (RGB-D)"
)


def load_scene(
    source: str | os.PathLike[str],
    *,
    downscale: int = 1,
    splits: SplitOptions | None = None,
    background: Background | None = None,
    scales: int = 1,
    facing: FacingOptions | None = None,
    depths: DepthReading | None = None,
) -> Scene:
    """Reads a scene. Images are decoded later, when they are used.

    Args:
        source: a folder with `transforms_train.json` (Blender), `transforms.json` (instant-ngp, nerfstudio) or
            `poses_bounds.npy` (LLFF) or `dataset.json` beside `camera/` (Nerfies) or `metadata.json` (Mip-NeRF's
            multi-scale data), or that file itself, or a folder of RGB-D frames, or `builtin:NAME` for a scene made of
            formulas.
        downscale: reduce images by this factor, averaging blocks of pixels.
        splits: which views train and which are held out; by default as the files say, else every 8th is a test view.
        background: what lies behind transparent images: "white" (the default), "black" or "random". Where it is given,
            every image is looked at for transparency, instead of a few.
        scales: give every view at so many sizes, each half of the one before.
        facing: how the cameras of a capture in LLFF's format stand; by default as they tell.
        depths: what the numbers in depth maps mean; by default as their files say.

    Raises:
        LumigraphError: the scene cannot be read; says what is wrong, in which file, frame and field. Or a background is
            given for photos without transparency, or how to read depth maps for a scene that has none.
    """
    if background == "opaque":
        raise LumigraphError("the background 'opaque' is for images without alpha and is chosen by itself")
    asked = _Asked(
        downscale, splits or SplitOptions(), background, facing or FacingOptions(), depths or DepthReading()
    )
    scene = _read(source, asked)
    _warn_of_wide_lenses(scene.info)
    # Not where a scene is read as another was, for which they were chosen.
    if scene.info.format == "builtin" or not any(views.has_depths for views in scene.views.values()):
        asked.depths.refuse(os.fspath(source))
    if background is not None and scene.info.background == "opaque":
        raise LumigraphError(
            f"the photos are opaque: --background {background} has no effect here",
            where=source,
            todo="Leave --background out",
        )
    return with_scales(scene, scales)


def _warn_of_wide_lenses(info: SceneInfo) -> None:
    """Says so where the focal length of photos is one that lenses hardly have which keep lines straight."""
    cameras = info.cameras["train"]
    widest = float(cameras.degrees_across.max())
    if widest > WIDEST_LENS and not cameras.distorted:
        log.warning(
            "%s: the cameras would see %.0f degrees across, which lenses hardly do that keep lines straight: is their "
            "focal length right (pixels), or the angle (radians)?",
            info.source,
            widest,
        )


def with_scales(scene: Scene, scales: int) -> Scene:
    """The scene with every view at `scales` sizes; pictures, masks and depth maps are reduced.

    Raises:
        LumigraphError: it has several already, or its images are too small.
    """
    if scales == 1:
        return scene
    if scales < 1:
        raise LumigraphError(f"--scales {scales} makes no sense", todo="Choose 1 or more, for example 4")
    if any(views.pixel_areas is not None for views in scene.views.values()):
        raise LumigraphError(
            f"the scene has views of several scales already: --scales {scales} cannot be applied",
            where=scene.info.source,
            todo="Leave --scales out",
        )
    smallest = min(int(views.cameras.size.min()) for views in scene.views.values())
    if 2 ** (scales - 1) > smallest:
        raise LumigraphError(
            f"--scales {scales} would leave nothing of images of {smallest} pixels",
            where=scene.info.source,
            todo=f"Choose at most {smallest.bit_length()}",
        )
    memory = MemoryBudget()
    views = {split: part.with_scales(scales, memory) for split, part in scene.views.items()}
    cameras = {split: part.cameras for split, part in views.items()}
    return replace(scene, info=replace(scene.info, cameras=cameras, scales=scales), views=views)


@dataclass(frozen=True)
class _Asked:
    """How a scene is to be read."""

    downscale: int
    splits: SplitOptions
    background: Background | None
    facing: FacingOptions
    depths: DepthReading

    def check(self) -> None:
        """Raises LumigraphError when a value is out of its range."""
        if self.downscale < 1:
            raise LumigraphError(f"--downscale {self.downscale} makes no pictures", todo="Choose 1 or more")
        self.splits.check()
        self.facing.check()
        self.depths.check()


def _read(source: str | os.PathLike[str], asked: _Asked) -> Scene:
    asked.check()
    scene = _read_all(source, asked)
    return scene if asked.splits.views is None else _with_few(scene, asked.splits, asked.splits.views)


def _with_few(scene: Scene, splits: SplitOptions, count: int) -> Scene:
    """The scene with `count` of its training photos, each at all the sizes that it has."""
    train = scene.views["train"]
    ids = train.cameras.ids.tolist()
    first = {number: ids.index(number) for number in dict.fromkeys(ids)}
    positions = train.cameras.positions[list(first.values())].tolist()
    photos = [list(first)[place] for place in few(positions, count, splits.select, scene.info.source)]
    kept = [place for place, number in enumerate(ids) if number in photos]
    views = {**scene.views, "train": train.subset(kept)}
    cameras = {split: part.cameras for split, part in views.items()}
    return replace(scene, info=replace(scene.info, cameras=cameras, splits=splits), views=views)


def _read_all(source: str | os.PathLike[str], asked: _Asked) -> Scene:
    downscale, splits, background, facing = asked.downscale, asked.splits, asked.background, asked.facing
    name = os.fspath(source)
    if name.startswith(BUILTIN):
        from lumigraph.scenes.procedural import load_builtin

        if splits.split not in ("auto", "files"):
            raise LumigraphError(
                f"--split {splits.split} cannot be applied to a built-in scene, which has its own splits",
                where=name,
                todo="Leave --split out",
            )
        facing.refuse(name)
        return load_builtin(name.removeprefix(BUILTIN), downscale=downscale, background=background)
    folder = _folder(Path(name))
    if llff.is_llff(folder) and not (blender.is_blender(folder) or transforms.is_transforms(folder)):
        return llff.read(folder, downscale, splits, background, facing)
    facing.refuse(name)
    if blender.is_blender(folder):
        return blender.read(folder, downscale, splits, background, asked.depths)
    if transforms.is_transforms(folder):
        return transforms.read(folder, downscale, splits, background, asked.depths)
    if nerfies.is_nerfies(folder):
        return nerfies.read(folder, downscale, splits, background)
    if multiscale.is_multiscale(folder):
        return multiscale.read(folder, downscale, splits, background)
    if rgbd.is_rgbd(folder):
        return rgbd.read(folder, downscale, splits, background, asked.depths)
    raise _unknown(folder)


def is_scene(folder: Path) -> bool:
    """Whether a folder has the file that one of the readers starts from."""
    readers = (
        llff.is_llff,
        blender.is_blender,
        transforms.is_transforms,
        nerfies.is_nerfies,
        multiscale.is_multiscale,
        rgbd.is_rgbd,
    )
    return any(starts(folder) for starts in readers)


def load_scene_like(info: SceneInfo, source: str | os.PathLike[str], downscale: int | None = None) -> Scene:
    """Reads a scene as that of `info` was read: reduced (unless `downscale` says otherwise), divided and backed alike,
    and with the cameras that a teacher has corrected.

    Raises:
        LumigraphError: as `load_scene`.
    """
    # Only "opaque" is a property of the images; the others say what is put behind transparent ones.
    background = None if info.background == "opaque" else info.background
    # Not `load_scene`: it refuses a background for opaque photos, which nobody asked for here.
    asked = _Asked(downscale or info.downscale, info.splits, background, info.facing, info.depths)
    scene = with_scales(_read(source, asked), info.scales)
    return _with_refined_cameras(scene, info) if info.refined else scene


def _with_refined_cameras(scene: Scene, info: SceneInfo) -> Scene:
    """The scene with its training cameras where a teacher found them to be (`info`)."""
    cameras, refined = scene.info.cameras["train"], info.cameras["train"]
    if len(cameras) != len(refined) or not torch.equal(cameras.ids, refined.ids):
        raise LumigraphError(
            f"the teacher has corrected the cameras of {len(refined)} photos, and here are {len(cameras)}",
            where=scene.info.source,
            todo="Give the scene that the teacher was trained on, with the photos it had then",
        )
    cameras = replace(cameras, camera_to_world=refined.camera_to_world)
    scene.views["train"].cameras = cameras
    known = {**scene.info.cameras, "train": cameras}
    return replace(scene, info=replace(scene.info, cameras=known, refined=True))


def _folder(path: Path) -> Path:
    with io_errors(path):
        described = path.name.startswith("transforms") and path.suffix == ".json"
        if path.is_file() and (described or path.name in _NAMES):
            path = path.parent
        if not path.exists():
            raise LumigraphError(
                "there is no such scene folder", where=path, todo="Check the spelling of the path"
            )
        if not path.is_dir():
            raise LumigraphError(
                "this is a file, not a scene folder", where=path, todo="Name the folder it is in"
            )
        return path.resolve()


def _unknown(folder: Path) -> LumigraphError:
    with io_errors(folder):
        entries = {entry.name for entry in folder.iterdir()}
    if "transforms_test.json" in entries or "transforms_val.json" in entries:
        return LumigraphError(
            "transforms_train.json is missing", where=folder, todo="Add the file of the training views"
        )
    if any(Path(entry).suffix.lower() in _PHOTOS or entry.startswith("images") for entry in entries):
        return LumigraphError(
            "there are images but no camera poses",
            where=folder,
            todo=f"Add their poses: {_FORMATS}. Poses that COLMAP finds are converted by other programs: to "
            "transforms.json by nerfstudio's ns-process-data and instant-ngp's colmap2nerf.py, to poses_bounds.npy by "
            "LLFF's imgs2poses.py",
        )
    return LumigraphError(
        "this folder is not a scene of a known format", where=folder, todo=f"A scene has {_FORMATS}"
    )
