"""Analytic scenes as `Scene`s: cameras around them, and pictures that are traced when they are first looked at."""

import functools
import math
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Float16, UInt8

from lumigraph.errors import LumigraphError
from lumigraph.geometry.bounds import Bounds
from lumigraph.geometry.cameras import Cameras
from lumigraph.geometry.conventions import focal_from_angle
from lumigraph.geometry.rotations import look_at
from lumigraph.scenes.procedural import stages
from lumigraph.scenes.procedural.painting import paint, surfaces, views_together
from lumigraph.scenes.procedural.tracing import AnalyticScene
from lumigraph.scenes.scene import SPLITS, Background, Scene, SceneInfo, Views
from lumigraph.scenes.stored_arrays import MemoryBudget

NAMES: dict[str, Callable[[], AnalyticScene]] = {
    "still": stages.still,
    "moving": stages.moving,
    "moving-split": lambda: stages.moving(topology_change=True),
    "attributes": stages.attributes,
}
"""The scenes by name."""

VIEWS = {"train": 60, "val": 8, "test": 8}
SIZE = 128
"""Views and image size of `builtin:NAME`; `builtin:NAME:SIZE` has another size."""
LARGEST = 2048

DISTANCE, NEAR, FAR = 4.0, 2.0, 6.0
FIELD_OF_VIEW = 0.6911112
"""Radians; that of the NeRF-synthetic scenes, like the distances."""
ELEVATIONS = (math.radians(6), math.radians(72))
_GOLDEN = math.pi * (3 - math.sqrt(5))


_Made = TypeVar("_Made")


class _Together(Generic[_Made]):
    """What is made of several neighbouring views at once, kept while they are asked for: the groups asked for last,
    since threads may be at work on two."""

    def __init__(self, make: Callable[[Cameras], _Made], cameras: Cameras, count: int) -> None:
        self._make, self._cameras, self._count = make, cameras, count
        self._kept: dict[int, _Made] = {}
        self._lock = threading.Lock()
        self._at_work = [threading.Lock() for _ in range(0, len(cameras), count)]

    def of(self, index: int) -> tuple[_Made, int]:
        """What was made of the group of view `index`, and its place in there."""
        group, place = divmod(index, self._count)
        with self._at_work[group]:
            made = self._kept.get(group)
            if made is None:
                first = group * self._count
                made = self._make(self._cameras[first : first + self._count])
                with self._lock:
                    while len(self._kept) > _GROUPS:
                        del self._kept[next(iter(self._kept))]
                    self._kept[group] = made
        return made, place


_GROUPS = 3
"""Of painted views that are kept beside the last: more than that many threads are seldom at work."""


class ProceduralViews(Views):
    """Views of an analytic scene. Each picture is traced when it, or a neighbour that is small, is first asked for, and
    then kept."""

    def __init__(
        self, stage: AnalyticScene, cameras: Cameras, names: list[str], memory: MemoryBudget | None = None
    ) -> None:
        self.stage = stage
        count = views_together(*cameras.size[0].tolist())
        self._paintings = _Together(functools.partial(paint, stage), cameras, count)
        self._surfaces = _Together(functools.partial(surfaces, stage), cameras, count)
        masks = self._attribute_masks_of if stage.attributes else None
        super().__init__(
            cameras,
            names,
            True,
            self._image,
            load_depth=self._depth,
            load_normals=self._normals_of,
            load_attribute_masks=masks,
            memory=memory,
        )

    def _attribute_masks_of(self, index: int) -> Float[np.ndarray, "H W A"]:
        painting, place = self._paintings.of(index)
        return painting.coverage[place].numpy()

    def _image(self, index: int) -> UInt8[np.ndarray, "H W 4"]:
        painting, place = self._paintings.of(index)
        return (painting.rgba[place] * 255).round().to(torch.uint8).numpy()

    def _depth(self, index: int) -> Float[np.ndarray, "H W"]:
        found, place = self._surfaces.of(index)
        return found.depth[place].numpy()

    def _normals_of(self, index: int) -> Float16[np.ndarray, "H W 3"]:
        found, place = self._surfaces.of(index)
        return found.normals[place].half().numpy()


def make_scene(
    name: str,
    views_train: int = VIEWS["train"],
    views_val: int = VIEWS["val"],
    views_test: int = VIEWS["test"],
    size: int = SIZE,
    seed: int = 0,
    background: Background | None = None,
) -> Scene:
    """The scene `name` with so many views of size x size pixels; a split of no views is left out.

    The same arguments give the same scene, and no view is traced before it is used. Training views spread evenly over
    the upper hemisphere, the others are random on it.

    Raises:
        LumigraphError: there is no such scene, or it would have no training views or no pixels.
    """
    stage = _stage(name)
    if views_train < 1 or views_val < 0 or views_test < 0 or not 1 <= size <= LARGEST:
        raise LumigraphError(
            f"a scene of {views_train}, {views_val} and {views_test} views of {size} pixels cannot be made",
            todo=f"Ask for at least one training view and for a size of 1 to {LARGEST}",
        )
    counts = dict(zip(SPLITS, (views_train, views_val, views_test), strict=True))
    views, first, memory = {}, 0, MemoryBudget()
    for number, (split, count) in enumerate(counts.items()):
        if count:
            generator = np.random.Generator(np.random.Philox(key=[seed, number]))
            cameras = _cameras(stage, count, size, generator, spread=split == "train", first_id=first)
            names = [f"{split}/r_{index:03d}.png" for index in range(count)]
            views[split] = ProceduralViews(stage, cameras, names, memory)
            first += count
    corner = torch.full((3,), stages.EXTENT)
    info = SceneInfo(
        name=name,
        source=f"builtin:{name}",
        format="builtin",
        downscale=1,
        cameras={split: part.cameras for split, part in views.items()},
        bounds=Bounds(-corner, corner),
        background=background or "white",
        world_transform=torch.eye(4, dtype=torch.float64),
        attributes=stage.attribute_names,
    )
    return Scene(info, views)


def load_builtin(name: str, downscale: int = 1, background: Background | None = None) -> Scene:
    """What `builtin:NAME` or `builtin:NAME:SIZE` means. Opened twice in one process, its views are traced once.
    `downscale` is at least 1.

    Raises:
        LumigraphError: there is no such scene, or the size makes no sense.
    """
    base, colon, text = name.partition(":")
    _stage(base)
    size = int(text) if text.isdecimal() and len(text) < 6 else SIZE if not colon else 0
    if not 8 <= size <= LARGEST:
        raise LumigraphError(
            f"builtin:{name} has no usable size",
            todo=f"Give 8 to {LARGEST} pixels, as in builtin:{base}:{SIZE}",
        )
    if downscale > size:
        raise LumigraphError(
            f"--downscale {downscale} cannot be applied to {size}x{size} pixels", todo=f"Choose 1 to {size}"
        )
    made = _traced_once(base, size // downscale)
    info = SceneInfo(
        name=base,
        source=f"builtin:{name}",
        format="builtin",
        downscale=downscale,
        cameras=made.info.cameras,
        bounds=made.info.bounds,
        background=background or "white",
        world_transform=made.info.world_transform,
        attributes=made.info.attributes,
    )
    return Scene(info, dict(made.views))


@functools.lru_cache(maxsize=4)
def _traced_once(name: str, size: int) -> Scene:
    return make_scene(name, size=size)


def _stage(name: str) -> AnalyticScene:
    if name not in NAMES:
        raise LumigraphError(
            f"there is no built-in scene {name!r}",
            todo=f"There are {', '.join(f'builtin:{other}' for other in NAMES)}",
        )
    return NAMES[name]()


def _cameras(
    stage: AnalyticScene,
    count: int,
    size: int,
    generator: np.random.Generator,
    *,
    spread: bool,
    first_id: int,
) -> Cameras:
    """Cameras on the upper hemisphere looking at the origin, with times and attributes where the scene has them."""
    turn = generator.random()
    if spread:
        height = (np.arange(count) + 0.5) / count
        azimuth = _GOLDEN * np.arange(count) + 2 * math.pi * turn
    else:
        height, azimuth = generator.random(count), 2 * math.pi * generator.random(count)
    sines = np.sin(ELEVATIONS[0]) + (np.sin(ELEVATIONS[1]) - np.sin(ELEVATIONS[0])) * height
    level = np.sqrt(1 - sines**2)
    eyes = (
        DISTANCE
        * torch.from_numpy(np.stack([level * np.cos(azimuth), level * np.sin(azimuth), sines], 1)).float()
    )
    poses = look_at(eyes, torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]))
    times = torch.from_numpy(_spread_times(count, generator)).float() if stage.moving else None
    values = generator.uniform(-1, 1, (count, stage.attributes))
    return Cameras(
        camera_to_world=poses,
        focal=torch.full((count, 2), focal_from_angle(FIELD_OF_VIEW, size)),
        principal=torch.full((count, 2), 0.5 * size),
        size=torch.full((count, 2), size),
        near=torch.full((count,), NEAR),
        far=torch.full((count,), FAR),
        distortion=torch.zeros(count, 6),
        ids=torch.arange(first_id, first_id + count),
        times=times,
        attributes=torch.from_numpy(values).float() if stage.attributes else None,
    )


def _spread_times(count: int, generator: np.random.Generator) -> np.ndarray:
    """`count` times evenly from 0 to 1 in random order; the first is 0, as D-NeRF's readers want it."""
    times = np.linspace(0, 1, count)
    times[1:] = generator.permutation(times[1:])
    return times
