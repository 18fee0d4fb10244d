"""What a student is distilled from: a folder of pseudo views, published ray files, or a teacher's run."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from lumigraph.configs.registry import method_entry
from lumigraph.distillation.bake import quantise
from lumigraph.distillation.hard_rays import HardPool
from lumigraph.distillation.legacy import Layout, LegacySource, legacy_files
from lumigraph.distillation.live import LiveSource
from lumigraph.distillation.poses import Poses, sample_poses
from lumigraph.distillation.shard_source import MixedSource, ShardSource
from lumigraph.distillation.shards import Shards
from lumigraph.errors import LumigraphError
from lumigraph.files import sha256
from lumigraph.geometry.cameras import Cameras, finest_of_each
from lumigraph.rendering.renderer import Renderer
from lumigraph.scenes.scene import Scene, SceneInfo
from lumigraph.training.runs import Run
from lumigraph.training.sources import PhotoSource, RaySource
from lumigraph.training.validation import ValidationViews

log = logging.getLogger("lumigraph")

HELD_VIEWS = 8
"""Pseudo views at the end that are not learnt from but watched; a tenth where there are few."""
_WATCHED_SIDE = 200
"""Longest side, pixels, of the views that a live teacher renders to watch the student with."""

_SAME_PLACE = 1e-3
"""Cameras that are less than this apart, as a part of the scene's extent, count as one."""


@dataclass
class Origin:
    """Rays to learn from, the scene they show, views to watch training with, and words about it all; `watched` names
    the views."""

    source: RaySource
    info: SceneInfo
    validation: ValidationViews | None
    provenance: dict[str, Any]
    watched: str = "views of the teacher that were held out"


class PseudoViews:
    """Views for `fit` to watch training with."""

    def __init__(self, cameras: Cameras, images: list[Tensor]):
        self.cameras, self._images = cameras, images

    def __len__(self) -> int:
        return len(self._images)

    def image(self, index: int, /) -> UInt8[Tensor, "H W C"]:
        return self._images[index]


def from_shards(folder: Path, seed: int, hold_ratio: float = 0.0, empty_share: float = 1.0) -> Origin:
    """Rays from pseudo views, of which the last few are held out."""
    shards = Shards.open(folder)
    held = min(HELD_VIEWS, len(shards) // 10)
    shift = shards.plan.bits - 8
    images = [
        torch.from_numpy((shards.image(view) >> shift).astype("uint8"))
        for view in range(len(shards) - held, len(shards))
    ]
    validation = PseudoViews(shards.cameras[len(shards) - held :], images) if held else None
    provenance = {
        "from": "shards",
        "views": len(shards),
        "hold_ratio": hold_ratio,
        "empty_share": empty_share,
        **shards.plan.provenance,
    }
    source = ShardSource(shards, seed, hold_ratio, last=held, empty_share=empty_share)
    return Origin(source, shards.plan.info, validation, provenance)


def from_legacy(folder: Path, scene: Scene, seed: int, layout: Layout | None) -> Origin:
    """Rays from published ray files; the scene says what they show."""
    source = LegacySource(folder, scene.info, seed, layout)
    provenance = {"from": "ray files", "layout": source.layout, "files": len(legacy_files(folder))}
    return Origin(source, scene.info, scene.views.get("val"), provenance, watched="validation photos")


@dataclass(frozen=True)
class LiveOptions:
    """How a live teacher is asked; see `LiveSource`."""

    poses: Poses = "fitted"
    cameras: int = 1024
    reuse: int = 4
    ring: int = 1 << 18
    floor: float = 0.5


def from_teacher(
    folder: Path, rays: int, seed: int, live: LiveOptions, device: str, precision: str
) -> Origin:
    """Rays that the teacher in `folder` labels while the student learns. `rays`: of a step."""
    run = open_teacher(folder)
    teacher = run.load_renderer(device, precision)
    info = taught_scene(run.info, teacher)
    captured, forward = info.cameras["train"], info.forward is not None
    cameras = sample_poses(live.poses, live.cameras, seed, captured, forward=forward).to(teacher.device)
    source = LiveSource(teacher, cameras, rays, seed, reuse=live.reuse, ring=live.ring, floor=live.floor)
    teacher.warn_of_finer_pixels(cameras, run.info.cameras["train"])
    # Another seed than the pool's: these are views that the student never learns from.
    watched = _small(sample_poses(live.poses, HELD_VIEWS, seed + 1, captured, forward=forward))
    provenance = {"from": "live teacher", **vars(live), **teacher_provenance(run)}
    return Origin(source, info, rendered_views(teacher, watched), provenance)


def open_teacher(path: Path) -> Run:
    """The run to learn from. A warning says so where it is unfinished, or a student itself: distilling a smaller
    student from a larger one is sound, mistaking one for its teacher is not.

    Raises:
        LumigraphError: see `Run.open`.
    """
    run = Run.open(path)
    if method_entry(run.method).kind == "student":
        log.warning("%s: %s is a student, itself distilled; its teacher has truer colours", path, run.method)
    run.warn_if_unfinished()
    return run


def taught_scene(info: SceneInfo, teacher: Renderer) -> SceneInfo:
    """The scene as the teacher has learnt it: its cameras stand where it found them to be. Of views that were made to
    have several scales, students get the finest: they do not see cones."""
    captured = info.cameras["train"]
    refined = teacher.refined(captured)
    if refined is not captured:
        info = replace(info, cameras={**info.cameras, "train": refined.to("cpu")}, refined=True)
    if info.scales == 1:
        return info
    cameras = {split: finest_of_each(part) for split, part in info.cameras.items()}
    return replace(info, cameras=cameras, scales=1)


def teacher_provenance(run: Run) -> dict[str, Any]:
    """Which teacher, to the last bit: method, and checksums of its configuration and weights."""
    return {
        "teacher": run.method,
        "teacher_config_sha256": sha256(run.description),
        "teacher_weights_sha256": sha256(run.weights) if run.weights.is_file() else None,
    }


def _small(cameras: Cameras) -> Cameras:
    width, height = cameras.size[0].tolist()
    scale = min(1.0, _WATCHED_SIDE / max(width, height))
    return cameras.resized(max(1, round(width * scale)), max(1, round(height * scale)))


def rendered_views(teacher: Renderer, cameras: Cameras) -> PseudoViews:
    """What the teacher sees from `cameras`."""
    images = [
        torch.from_numpy(quantise(teacher.view(cameras[index]).rgb, 8)) for index in range(len(cameras))
    ]
    return PseudoViews(cameras, images)


def mixed_with_photos(origin: Origin, scene: Scene, pseudo_ratio: float, seed: int) -> Origin:
    """A part `pseudo_ratio` of every batch from `origin`, the rest from the training photos of `scene`."""
    check_same_scene(origin.info, scene.info)
    photos = PhotoSource(scene.split("train"), seed, depths=True)
    provenance = {**origin.provenance, "pseudo_ratio": pseudo_ratio}
    return replace(origin, source=MixedSource(origin.source, photos, pseudo_ratio), provenance=provenance)


def check_same_scene(student: SceneInfo, scene: SceneInfo) -> None:
    """Raises when the photos lie in another frame, or on another background, than a student has learnt, or are all
    taken from elsewhere: frames of synthetic scenes are all alike."""
    if student.background != scene.background:
        problem = f"its background is {scene.background}, the student's is {student.background}"
    elif not torch.allclose(student.world_transform, scene.world_transform, rtol=1e-5, atol=1e-6):
        problem = "it lies in another frame than the one the student has learnt"
    elif "builtin" in (student.format, scene.format) and student.source != scene.source:
        problem = f"it is {scene.source}, the student's is {student.source}"
    elif not _share_a_place(student.cameras["train"], scene.cameras["train"]):
        problem = "none of its photos was taken from where the teacher's were"
    else:
        return
    raise LumigraphError(
        f"this is not the student's scene: {problem}",
        where=scene.source,
        todo="Give the scene that the teacher was trained on, read with the same options",
    )


def _share_a_place(some: Cameras, others: Cameras) -> bool:
    centres = some.positions.double(), others.positions.double()
    return bool((torch.cdist(*centres) < _SAME_PLACE * centres[1].norm(dim=-1).amax()).any())


def with_hard_rays(source: RaySource, config: Any, seed: int) -> RaySource:
    """The source with the hard-ray pool that the config asks for."""
    if min(config.hard_ratio) == 0:
        return source
    return HardPool(source, config.rays, config.hard_ratio, config.hard_multiple, seed)
