"""LLFF's format: `poses_bounds.npy` beside `images/` and reduced copies of it, `images_K/` (Mildenhall et al. 2019).

Each of the N rows of the array is an image's 3x5 matrix, row by row, and the nearest and farthest depth of what was
reconstructed in it. The matrix is the camera-to-world pose, with axes down, right, back, and a column of height, width
and focal length in pixels of the full image. Rows follow the images as they are sorted by code points.

Forward-facing scenes are put in the frame of the average camera (axes right, up, back) and scaled so that the nearest
depth is 4/3: the near plane of their normalised device coordinates is at 1 (NeRF's and nerf_pl's readers). Others are
placed like captures in any format, or on demand as published: in that same frame (nerf_pl's `--spheric_poses`), or
centred on the point nearest to all optical axes, with the root mean square of the camera distances 1, and up along the
mean of their offsets (nerf-pytorch's `spherify_poses`).
"""

import logging
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lumigraph.errors import LumigraphError
from lumigraph.files import io_errors
from lumigraph.geometry.bounds import Bounds
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.conventions import llff_to_opencv, opencv_to_opengl, similarity
from lumigraph.geometry.fitting import average_pose, fit_focus, nearest_to_axes
from lumigraph.geometry.ndc import ForwardFrame, is_ahead
from lumigraph.geometry.rotations import perpendicular, unit
from lumigraph.scenes.facing import Facing, FacingOptions
from lumigraph.scenes.formats.decoding import image_size, read_matrix
from lumigraph.scenes.formats.fields import Fields
from lumigraph.scenes.formats.frames import (
    EXTENSIONS,
    MAX_FRAMES,
    Frame,
    check_downscale,
    check_enough,
    listing,
    make_cameras,
    make_views,
    uses_alpha,
)
from lumigraph.scenes.formats.intrinsics import Intrinsics, scaled
from lumigraph.scenes.placing import unit_transform
from lumigraph.scenes.scene import Background, Scene, SceneInfo
from lumigraph.scenes.splits import SplitOptions, divide
from lumigraph.scenes.stored_arrays import MemoryBudget, threads

log = logging.getLogger("lumigraph")

NAME = "poses_bounds.npy"
_COLUMNS = 17
_LENS = tuple(
    f"{what} (row {row}, column 4 of the matrix)"
    for row, what in enumerate(("height", "width", "focal length"))
)
"""What the fifth column of a pose's 3x5 matrix holds, in the words of messages."""
NEAREST = 4.0 / 3.0
"""Nearest depth of a scene after scaling: the published factor is 0.75."""
_SMALLEST_DEPTH = 1e-6
_LEAST_COSINE = 0.5
"""Between the axes of a forward-facing capture and their mean: 60 degrees."""
_NEAR_ROOM = 0.9
"""Rays begin before the nearest depth that was reconstructed, by this factor (nerf-pytorch without NDC)."""
_ROUND_UP = (0.1, 0.2, 0.3)
"""The direction from which nerf-pytorch takes the horizontal axes of a spherified scene."""


@dataclass(frozen=True)
class _Place:
    """Where a capture goes: how its cameras stand, the similarity from file to scene units, its box, and the average
    camera if it faces forward."""

    kind: Facing
    transform: Float[Tensor, "4 4"]
    bounds: Bounds
    forward: ForwardFrame | None = None


def is_llff(folder: Path) -> bool:
    """Whether the folder has the file that this reader starts from."""
    return (folder / NAME).is_file()


def read(
    folder: Path, downscale: int, splits: SplitOptions, background: Background | None, facing: FacingOptions
) -> Scene:
    """Reads a capture in LLFF's format.

    With `downscale` K, `images_K` is used where it is there, else the largest folder from which K is reached by
    averaging blocks of pixels.

    Raises:
        LumigraphError: anything in the files that cannot be used; says which file and row.
    """
    path = folder / NAME
    rows = _read_rows(path)
    chosen, reduced = _image_folder(folder, downscale)
    images = [chosen / name for name in sorted(listing(chosen)) if _is_image(name)]
    if len(images) != len(rows):
        raise LumigraphError(
            f"{len(rows)} rows of poses and {len(images)} images in {chosen.name} do not belong together",
            where=path,
            todo="Remove the images that COLMAP could not place, or write the file again for those that are there",
        )
    left = downscale // reduced
    log.info("%d images of %s/, averaged over blocks of %dx%d pixels", len(images), chosen.name, left, left)
    check_enough(len(images), 0, path)
    with ThreadPoolExecutor(threads()) as pool:
        headers = list(pool.map(image_size, images))
    names = _photo_names(folder, images)
    frames = [
        _frame(row, number, names[number], image, header)
        for number, (row, image, header) in enumerate(zip(rows, images, headers, strict=True))
    ]
    check_downscale(frames, left)
    alpha = uses_alpha(frames, thorough=background is not None)
    captured = make_cameras(frames, 0.0, 1.0)  # each frame has its own near and far
    place = _place(captured, facing, path)
    cameras = _with_planes(captured.transformed(place.transform), place.kind, facing.far_factor)
    cameras.check(str(path))
    divided = divide(names, splits, None, str(path), captured.positions.tolist())
    views, memory = {}, MemoryBudget()
    for split, places in divided.items():
        kept = [frames[i] for i in places]
        views[split] = make_views(kept, cameras[torch.tensor(places)], alpha, left, {}, memory)
    info = SceneInfo(
        name=folder.name,
        source=str(folder),
        format="llff",
        downscale=downscale,
        cameras={split: part.cameras for split, part in views.items()},
        bounds=place.bounds,
        background=(background or "white") if alpha else "opaque",
        world_transform=place.transform,
        splits=splits,
        facing=facing,
        forward=place.forward,
    )
    return Scene(info, views, folders=[chosen.name])


# ---------------------------------------------------------------------------------------------- files


def _read_rows(path: Path) -> Float[np.ndarray, "N 17"]:
    rows = read_matrix(path, np.float64, most=MAX_FRAMES * _COLUMNS)
    if rows.shape[1] != _COLUMNS:
        raise LumigraphError(
            f"the array is {rows.shape[0]}x{rows.shape[1]}: a row must hold {_COLUMNS} numbers",
            where=path,
            todo="Write it again with LLFF's imgs2poses.py",
        )
    return rows


def _image_folder(folder: Path, downscale: int) -> tuple[Path, int]:
    """The folder of images from which `downscale` is reached with least work, and by how much they are reduced."""
    sizes = _image_folders(folder)
    usable = [size for size in sizes if downscale >= size and downscale % size == 0]
    if usable:
        return sizes[max(usable)], max(usable)
    if not sizes:
        raise LumigraphError(
            "there is no folder of images",
            where=folder,
            todo="Put them beside the file, in images or images_8",
        )
    raise LumigraphError(
        f"there are no images for --downscale {downscale}, only {', '.join(path.name for path in sizes.values())}",
        where=folder,
        todo=f"Pass --downscale {min(sizes)}",
    )


def _image_folders(folder: Path) -> dict[int, Path]:
    """Folders of images by how much they are reduced, the least first: images is 1, images_8 is 8."""
    found: dict[int, Path] = {}
    with io_errors(folder):
        for entry in sorted(folder.iterdir()):
            match = re.fullmatch(r"images(?:_([1-9]\d{0,3}))?", entry.name)
            if match and entry.is_dir():
                found.setdefault(int(match[1] or 1), entry)
    return dict(sorted(found.items()))


def _photo_names(folder: Path, images: Sequence[Path]) -> list[str]:
    """What the photos are called whatever copies of them are read: as in the least reduced folder that has them all.

    Published captures name reduced copies anew, in the same order.
    """
    for place in _image_folders(folder).values():
        names = [name for name in sorted(listing(place)) if _is_image(name)]
        if len(names) == len(images):
            return names
    return [image.name for image in images]


def _is_image(name: str) -> bool:
    return name.endswith(EXTENSIONS) and not name.startswith(".")


def _frame(
    row: Float[np.ndarray, "17"], number: int, name: str, image: Path, header: tuple[int, int, bool]
) -> Frame:
    """One image with what its row says; the row's numbers get names, for messages."""
    matrix = row[:15].reshape(3, 5)
    # Frames hold poses as the JSON formats have them, with OpenGL axes.
    pose = opencv_to_opengl(llff_to_opencv(torch.tensor(matrix[:, :4]))).numpy()
    members = dict(zip((*_LENS, "near", "far"), [*matrix[:, 4], *row[15:]], strict=True))
    fields = Fields(
        {name: float(value) for name, value in members.items()} | {"pose": pose.tolist()},
        f"{image.parent.with_name(NAME)}, row {number}, {image.name}",
    )
    if fields.number("near", positive=True) < _SMALLEST_DEPTH:
        raise fields.wrong("near", f"a depth of {_SMALLEST_DEPTH:g} or more")
    height, width, focal = (fields.number(name, positive=True) for name in _LENS)
    size = round(width), round(height)
    declared = Intrinsics(
        size=(max(1, size[0]), max(1, size[1])),
        focal=(focal, focal),
        principal=(size[0] / 2, size[1] / 2),
        distortion=(0.0,) * 6,
        fisheye=False,
    )
    wide, high, alpha = header
    return Frame(
        fields=fields,
        name=name,
        path=image,
        pose=fields.pose("pose"),
        intrinsics=scaled(declared, (wide, high), fields.where, "Give the images that the file was made for"),
        alpha=alpha,
    )


# ---------------------------------------------------------------------------------------------- places


def _place(cameras: Cameras, facing: FacingOptions, path: Path) -> _Place:
    """Puts a capture as its options say. `cameras`: in file units, near and far as in the file."""
    centred = _centred(cameras)
    moved = cameras.transformed(centred)
    kind = facing.facing
    unit_box = Bounds(-torch.ones(3), torch.ones(3), unbounded=True)
    if kind == "auto" and (fit_focus(moved)[1] or not _all_ahead(moved)):
        return _Place(kind, unit_transform(cameras), unit_box)
    if kind in ("auto", "forward"):
        return _forward_place(moved, centred, path)
    focus = nearest_to_axes(moved)
    if focus is None:
        raise LumigraphError(
            "the cameras look the same way, at no one point",
            where=path,
            todo="Such captures are read with --facing forward",
        )
    if kind == "inward":
        reach = max(float((moved.positions.double() - focus).norm(dim=1).median()), 1e-6)
        corner = torch.full((3,), reach)
        centre = focus.float()
        return _Place(kind, centred, Bounds(centre - corner, centre + corner, unbounded=True))
    return _Place(kind, _spherify(moved, focus, path) @ centred, unit_box)


def _centred(cameras: Cameras) -> Float[Tensor, "4 4"]:
    """To the frame of the average camera, axes right, up, back, with the nearest depth at 4/3."""
    pose = average_pose(cameras)
    rotation = (pose[:, :3] * pose.new_tensor([1.0, -1.0, -1.0])).T
    scale = NEAREST / float(cameras.near.double().min())
    return similarity(scale, rotation, -scale * (rotation @ pose[:, 3]))


def _average_camera(cameras: Cameras) -> ForwardFrame:
    """The average camera of a centred capture, which sees as wide as the widest."""
    turn = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0]])
    tangents = (cameras.size.double() / (2.0 * cameras.focal.double())).amax(0)
    return ForwardFrame(turn, (float(tangents[0]), float(tangents[1])), 1.0)


def _all_ahead(cameras: Cameras) -> bool:
    """Whether all that a centred capture shows is ahead of the average camera, and its cameras look about as that does
    and stand before the near plane."""
    if float((-cameras.forwards[:, 2]).min()) < _LEAST_COSINE:
        return False
    numbers = torch.arange(len(cameras))[:, None]
    right, bottom = (cameras.size - 1).T[..., None]
    corners = torch.tensor([[0, 1, 0, 1], [0, 0, 1, 1]])
    return is_ahead(_average_camera(cameras), cameras.rays(numbers, corners[0] * right, corners[1] * bottom))


def _forward_place(cameras: Cameras, transform: Tensor, path: Path) -> _Place:
    """The box of a forward-facing scene begins at the cameras and reaches to twice the middle depth: the middle in
    disparity, where most of what was reconstructed lies."""
    if not _all_ahead(cameras):
        raise LumigraphError(
            "not all cameras look ahead from before the near plane: this is no forward-facing capture",
            where=path,
            todo="Leave --facing out",
        )
    near, far = float(cameras.near.min()), float(cameras.far.max())
    middle = 1.0 / (0.25 / near + 0.75 / far)
    centre = torch.tensor([0.0, 0.0, -middle])
    box = Bounds(centre - middle, centre + middle, unbounded=True)
    return _Place("forward", transform, box, _average_camera(cameras))


def _spherify(cameras: Cameras, focus: Float[Tensor, "3"], path: Path) -> Float[Tensor, "4 4"]:
    """Centred on the point that the cameras look at, up along the mean of their offsets from it, and scaled so that
    their root mean square distance is 1."""
    offsets = cameras.positions.double() - focus
    distance = float(offsets.square().sum(1).mean().sqrt())
    if not distance > 1e-6:
        raise LumigraphError(
            "all cameras stand in one point", where=path, todo="Such captures are read with --facing forward"
        )
    up = unit(offsets.mean(0), cameras.ups[0].double())
    first = unit(torch.linalg.cross(torch.tensor(_ROUND_UP, dtype=torch.float64), up), perpendicular(up))
    rotation = torch.stack([first, torch.linalg.cross(up, first), up])
    return similarity(1.0 / distance, rotation, -(rotation @ focus) / distance)


def _with_planes(cameras: Cameras, kind: Facing, far_factor: float) -> Cameras:
    """Near and far, scene units, from the depths that were reconstructed, which `cameras` has.

    Inward: from the nearest of all to at most `far_factor` times that (nerf_pl). Spherified: from a little before the
    nearest of all to the end of what all see (nerf-pytorch). Else from a little before what a camera sees to that end.
    """
    nearest, far = torch.full_like(cameras.near, float(cameras.near.min())), cameras.far.max()
    if kind == "inward":
        return replace(cameras, near=nearest, far=torch.minimum(far_factor * nearest, far))
    near = nearest if kind == "spherify" else cameras.near
    return replace(cameras, near=_NEAR_ROOM * near, far=far.expand(len(cameras)).contiguous())
