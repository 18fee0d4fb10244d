"""The paths of `render`: where its cameras stand, and what time and attributes they see."""

import contextlib
import difflib
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from lumigraph.cli.eval import scene_source
from lumigraph.cli.render import DEFAULT_FRAMES
from lumigraph.cli.states import Sweep, require_known
from lumigraph.errors import LumigraphError
from lumigraph.geometry import trajectories
from lumigraph.geometry.cameras import Cameras, finest_of_each
from lumigraph.rendering.renderer import Renderer
from lumigraph.scenes.formats import blender, nerfies
from lumigraph.scenes.scene import SceneInfo

PATHS = (
    "orbit", "orbit-time", "time", "view", "spiral", "spiral-flat", "spiral-nerf_pl", "spherical", "ellipse",
    "train", "heldout",
)  # fmt: skip
"""Those that any scene has; one in a format of `RECORDING` may come with recorded ones."""
RECORDING = {"nerfies": nerfies.path_names, "blender": blender.path_names}
"""By the format of a scene, what finds the names of the paths in its folder."""
CAPTURED = ("train", "heldout")
"""Paths through captured cameras: each sees its own time and attributes."""
STANDING = ("time", "view")
"""Paths of one camera that stands still."""
PASSING = ("time", "orbit-time")
"""Paths along which the time of the capture passes once."""


def check_path(name: str, view: int | None, time: Sweep | None) -> None:
    """Raises LumigraphError for options that have no effect on a path."""
    if view is not None and name not in STANDING:
        raise LumigraphError(
            f"--view chooses where one camera stands, and --path {name} has others",
            todo=f"Leave --view out, or choose --path {' or '.join(STANDING)}",
        )
    if time is not None and time.first != time.last and name == "view":
        raise LumigraphError(
            "--path view shows one moment, and --time holds two", todo="Give one, or choose --path time"
        )
    if time is not None and time.first == time.last and name in PASSING:
        raise LumigraphError(
            f"--time holds a moment, and along --path {name} time passes",
            todo="Leave --time out, or choose another path, such as orbit",
        )


def path_cameras(
    info: SceneInfo, name: str, count: int | None, view: int | None = None, folder: Path | None = None
) -> Cameras:
    """The cameras of a path around the captured ones, `count` of them or as many as the path has of itself. No images
    are needed; for a path that was recorded, the `folder` of the capture is.

    Raises:
        LumigraphError: there is no such path, no camera number `view`, or the scene is not one for this path.
    """
    if name not in PATHS:
        return _through(_recorded(info, name, folder), count)
    captured, frames = finest_of_each(info.cameras["train"]), count or DEFAULT_FRAMES
    if name == "train":
        return _through(captured, count)
    if name == "heldout":
        return _through(held_out(info), count)
    if name in STANDING:
        return _standing(held_out(info), view or 0, frames)
    if name.startswith("spiral"):
        return _spiral(info, captured, name, count)
    if name in ("orbit", "orbit-time"):
        return trajectories.orbit(captured, frames)
    if name == "ellipse":
        return trajectories.ellipse(captured, frames)
    if info.forward is not None:
        raise LumigraphError(
            "--path spherical goes around what was captured from all sides, and this scene faces one way",
            where=info.source,
            todo="Choose --path spiral or orbit",
        )
    return trajectories.nerf_pl_spherical(captured, frames)


def _through(cameras: Cameras, count: int | None) -> Cameras:
    """These cameras, or so many on a smooth path through them; one is the first of them."""
    if count == 1:
        return cameras[:1]
    return cameras if count is None else trajectories.cameras_path(cameras, count)


def capture_folder(renderer: Path, info: SceneInfo) -> Path | None:
    """The folder of a scene whose format may hold recorded paths; None for others, and where it is no longer there."""
    if info.format not in RECORDING:
        return None
    with contextlib.suppress(LumigraphError):
        return Path(scene_source(renderer, info))
    return None


def _recorded(info: SceneInfo, name: str, folder: Path | None) -> Cameras:
    recorded = [] if folder is None else RECORDING[info.format](folder)
    if folder is not None and name in recorded:
        if info.format == "nerfies":
            return nerfies.recorded_path(folder, name, info.downscale)
        return blender.recorded_path(folder, name, info)
    known = (*PATHS, *recorded)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {close[0]}? " if close else ""
    gone = info.format in RECORDING and folder is None
    where = "; the scene's folder, which may hold recorded ones, is no longer there" if gone else ""
    raise LumigraphError(f"there is no path {name!r}", todo=f"{hint}The paths are {', '.join(known)}{where}")


def captured_split(info: SceneInfo, name: str) -> str:
    """The split that a path of `CAPTURED` goes through; of held-out views test, else validation views, else those
    trained on."""
    splits = ("train",) if name == "train" else ("test", "val", "train")
    return next(split for split in splits if len(info.cameras.get(split, ())))


def held_out(info: SceneInfo) -> Cameras:
    """The held-out cameras, at their finest."""
    return finest_of_each(info.cameras[captured_split(info, "heldout")])


def _standing(views: Cameras, view: int, frames: int) -> Cameras:
    if not 0 <= view < len(views):
        raise LumigraphError(
            f"--view {view} is no held-out view", todo=f"Choose 0 to {len(views) - 1}, in the order of eval"
        )
    return views[torch.full((frames,), view)]


def _spiral(info: SceneInfo, captured: Cameras, name: str, count: int | None) -> Cameras:
    frames = count or DEFAULT_FRAMES
    if name == "spiral":
        make = trajectories.spiral if info.forward is None else trajectories.llff_spiral
        return make(captured, frames)
    if name == "spiral-flat":
        # As published: one turn, in half the frames.
        return trajectories.llff_spiral(captured, count or DEFAULT_FRAMES // 2, turns=1, flat=True)
    if info.forward is None:
        raise LumigraphError(
            f"--path {name} is for forward-facing scenes in LLFF's format",
            where=info.source,
            todo="Choose --path spiral",
        )
    return trajectories.nerf_pl_spiral(captured, info.forward, frames)


# ------------------------------------------------------------------------------- time and attributes


def with_states(
    cameras: Cameras,
    path: str,
    renderer: Renderer,
    info: SceneInfo,
    time: Sweep | None,
    attributes: Mapping[str, Sweep],
) -> Cameras:
    """The cameras of a path with the time and the attributes that the renderer is to show.

    The time is `time`; without it, it passes from 0 to 1 along `PASSING` paths, is that of the photos along `CAPTURED`
    ones and that which was recorded along recorded ones that have times, and stays 0 on all others. Attributes that
    are not named are those of the photos along `CAPTURED` paths; on all others they are left to a renderer that knows
    the time (NaN), and 0 for one that does not. Of what a renderer does not know, cameras keep what they have: it has
    no effect.

    Raises:
        LumigraphError: a time is asked of a renderer that shows none, or an attribute that it does not know.
    """
    if "times" in renderer.conditions:
        cameras = replace(cameras, times=_times(cameras, path, time))
    elif time is not None or path in PASSING:
        asked = f"--path {path}" if time is None else "--time"
        raise LumigraphError(
            f"{asked} is for scenes that move, and this renderer shows a still one",
            todo=f"Leave {asked} out, or train a method that learns motion",
        )
    if "attributes" in renderer.conditions:
        require_known(attributes, info.attributes)
        unsaid = math.nan if "times" in renderer.conditions else 0.0
        return replace(cameras, attributes=_attributes(cameras, path, info.attributes, attributes, unsaid))
    if attributes:
        raise LumigraphError(
            "--attribute is for scenes with attributes, and this renderer knows none",
            todo="Leave --attribute out, or train a method that learns attributes on a scene that has them",
        )
    return cameras


def _times(cameras: Cameras, path: str, time: Sweep | None) -> Tensor | None:
    own = path in CAPTURED or (path not in PATHS and cameras.times is not None)
    if time is None and own:
        return cameras.times
    time = time or (Sweep(0.0, 1.0) if path in PASSING else Sweep(0.0, 0.0))
    return torch.tensor(time.values(len(cameras)), device=cameras.device)


def _attributes(
    cameras: Cameras, path: str, names: tuple[str, ...], sweeps: Mapping[str, Sweep], unsaid: float
) -> Tensor | None:
    count, device = len(cameras), cameras.device
    free = torch.full((count, len(names)), unsaid, device=device)
    values = cameras.attributes if path in CAPTURED else free
    if values is None or not sweeps:
        return values
    columns = dict(zip(names, values.unbind(1), strict=True))
    columns |= {name: torch.tensor(sweep.values(count), device=device) for name, sweep in sweeps.items()}
    return torch.stack([columns[name] for name in names], 1)


def describe_states(cameras: Cameras, renderer: Renderer, info: SceneInfo) -> str:
    """In words what time and attributes the frames of a movie show, such as "time 0 to 1, head 0.5"; empty for a still
    renderer."""
    shown: dict[str, Tensor] = {}
    if "times" in renderer.conditions and cameras.times is not None:
        shown["time"] = cameras.times
    if "attributes" in renderer.conditions and cameras.attributes is not None:
        shown |= dict(zip(info.attributes, cameras.attributes.unbind(1), strict=True))
    return ", ".join(f"{name} {_range(values)}" for name, values in shown.items())


def _range(values: Tensor) -> str:
    """The first and the last, or where they come in no order the least and the largest."""
    known = values[torch.isfinite(values)]
    if not len(known):
        return "not set"
    steps = known.diff()
    ends = known[[0, -1]] if bool((steps >= 0).all() | (steps <= 0).all()) else known.aminmax()
    return str(Sweep(*map(float, ends)))
