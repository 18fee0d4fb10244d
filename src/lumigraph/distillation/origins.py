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
from lumigraph.distillation.legacy import LegacySource, legacy_files
from lumigraph.distillation.legacy_pictures import LegacyPictures
from lumigraph.distillation.live import LivePictures, LiveSource
from lumigraph.distillation.poses import Poses, sample_poses
from lumigraph.distillation.ray_table import Layout
from lumigraph.distillation.shard_source import MixedSource, ShardSource
from lumigraph.distillation.shards import Shards
from lumigraph.errors import LumigraphError
from lumigraph.fields.camera_codes import CodeChoice
from lumigraph.fields.time_codes import TimeCodeChoice
from lumigraph.files import sha256
from lumigraph.geometry.cameras import Cameras, finest_of_each
from lumigraph.geometry.moments import Times
from lumigraph.rendering.conditions import sampling_of
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

_KEPT_BATCHES = 16
"""Of a live teacher's pictures as many are kept as make so many steps, where that is more than the ring holds: a few
would be learnt by heart."""

_SAME_PLACE = 1e-3
"""Cameras that are less than this apart, as a part of the scene's extent, count as one."""


CHANGES = ("times", "attributes")
"""What of a ray says how the scene stands; see `Renderer.conditions`."""


@dataclass
class Origin:
    """Rays to learn from, the scene they show, views to watch training with, and words about it all; `watched` names
    the views. `tells`: those of `CHANGES` that the colours of the rays go by. `unit_directions`: whether the directions
    of the rays have lost their length."""

    source: RaySource
    info: SceneInfo
    validation: ValidationViews | None
    provenance: dict[str, Any]
    watched: str = "views of the teacher that were held out"
    tells: tuple[str, ...] = ()
    unit_directions: bool = False


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
    # Attributes that all views were asked with alike are none of the scene's.
    tells = told_by(shards.plan.info.cameras["train"])
    source.cameras = without_unknown(source.cameras, tells)
    return Origin(source, shards.plan.info, validation, provenance, tells=tells)


def from_legacy(folder: Path, scene: Scene, seed: int, layout: Layout | None) -> Origin:
    """Rays from published ray files; the scene says what they show."""
    source = LegacySource(folder, scene.info, seed, layout)
    table = source.table
    provenance = {"from": "ray files", "layout": table.layout, "files": len(legacy_files(folder))}
    watched = scene.views.get("val")
    return Origin(
        source, scene.info, watched, provenance, "validation photos", table.tells, table.unit_directions
    )


def from_legacy_pictures(folder: Path, scene: Scene, seed: int) -> Origin:
    """Pictures, or rays of them, from a folder of MobileR2L's pseudo views; the scene says what they show."""
    source = LegacyPictures(folder, scene.info, seed)
    provenance = {"from": "legacy pictures", "views": len(source)}
    return Origin(source, scene.info, scene.views.get("val"), provenance, "validation photos")


@dataclass(frozen=True)
class LiveOptions:
    """How a live teacher is asked; see `LiveSource`."""

    poses: Poses = "fitted"
    times: Times = "fitted"
    cameras: int = 1024
    reuse: int = 4
    ring: int = 1 << 18
    floor: float = 0.5
    codes: CodeChoice | TimeCodeChoice | None = None
    """What is drawn with where the teacher has learnt codes; None: as it was trained to."""


def from_teacher(
    folder: Path,
    per_step: int,
    seed: int,
    live: LiveOptions,
    device: str,
    precision: str,
    *,
    attributes: bool = True,
    whole_views: bool = False,
) -> Origin:
    """Rays that the teacher in `folder` labels while the student learns, or pictures for one with `whole_views`.
    `per_step`: how many; `attributes`: whether the student knows of these.

    Raises:
        LumigraphError: the teacher answers for whole pictures only, and rays are wanted; or it has not learnt the codes
            that are chosen.
    """
    run = open_teacher(folder)
    teacher = run.load_renderer(device, precision)
    if live.codes is not None:
        teacher.choose_codes(live.codes)
    if teacher.whole_views and not whole_views:
        raise LumigraphError(
            f"{run.method} answers for whole pictures, and this student wants single rays",
            where=folder,
            todo="Distil from its pseudo views: lumigraph bake RUN --out VIEWS",
        )
    info = taught_scene(run.info, teacher, attributes=attributes)
    captured, forward = info.cameras["train"], info.forward is not None
    cameras = sample_poses(live.poses, live.cameras, seed, captured, forward=forward, times=live.times)
    cameras = cameras.to(teacher.device)
    asked = asked_of(teacher, run.info, cameras)
    source: RaySource
    if whole_views:
        kept = max(live.ring // int(cameras.size[0].prod()), _KEPT_BATCHES * per_step)
        source = LivePictures(teacher, cameras, seed, reuse=live.reuse, kept=kept, asked=asked)
    else:
        options = {"reuse": live.reuse, "ring": live.ring, "floor": live.floor}
        source = LiveSource(teacher, cameras, per_step, seed, asked=asked, **options)
    teacher.warn_of_other_pixels(cameras, run.info.cameras["train"])
    # Another seed than the pool's: these are views that the student never learns from.
    watched = sample_poses(live.poses, HELD_VIEWS, seed + 1, captured, forward=forward, times=live.times)
    watched = asked_of(teacher, run.info, watched)
    views = rendered_views(teacher, watched if whole_views else _small(watched))
    provenance = {"from": "live teacher", **vars(live), **teacher_provenance(run)}
    if "attributes" in teacher.conditions and not attributes:
        provenance["attributes"] = "told"
    return Origin(source, info, views, provenance, tells=told_by(captured))


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


def asked_of(teacher: Renderer, info: SceneInfo, cameras: Cameras) -> Cameras:
    """Cameras as a teacher trained on `info` can be asked for them: where it needs attributes that neither they nor the
    time tell, with 0 for each, as `render` draws what nobody has said."""
    values = info.cameras["train"].attributes
    if values is None or cameras.attributes is not None or teacher.tells_attributes:
        return cameras
    if "attributes" not in teacher.conditions:
        return cameras
    middle = torch.zeros(len(cameras), values.shape[1], device=cameras.device)
    return replace(cameras, attributes=middle)


def taught_scene(info: SceneInfo, teacher: Renderer, *, attributes: bool = True) -> SceneInfo:
    """The scene as the teacher has learnt it: its cameras stand where it found them to be, and times and attributes of
    which it knows nothing are gone: its colours do not go by them. Without `attributes` these are gone as well: for
    students that know nothing of them, which see the scene as it was at each moment. Of views that were made to have
    several scales, students get the finest: they do not see cones."""
    captured = info.cameras["train"]
    refined = teacher.refined(captured)
    if refined is not captured:
        info = replace(info, cameras={**info.cameras, "train": refined.to("cpu")}, refined=True)
    known = tuple(name for name in teacher.conditions if attributes or name != "attributes")
    cameras = {split: without_unknown(part, known) for split, part in info.cameras.items()}
    names = info.attributes if "attributes" in known else ()
    info = replace(info, cameras=cameras, attributes=names)
    if info.scales == 1:
        return info
    cameras = {split: finest_of_each(part) for split, part in info.cameras.items()}
    return replace(info, cameras=cameras, scales=1)


def told_by(cameras: Cameras) -> tuple[str, ...]:
    """Which of `CHANGES` cameras say."""
    return tuple(name for name in CHANGES if getattr(cameras, name) is not None)


def without_unknown(cameras: Cameras, known: tuple[str, ...]) -> Cameras:
    """The cameras without those of `CHANGES` that are not `known`."""
    gone = [name for name in told_by(cameras) if name not in known]
    return replace(cameras, **dict.fromkeys(gone)) if gone else cameras


def check_student(origin: Origin, method: str, student: type[Renderer], where: Path) -> None:
    """Raises LumigraphError where a student would learn how a scene changes from what does not tell it: not what it
    `needs`, or none of its `conditions`."""
    check_tells(origin, method, student.needs, where)
    if student.conditions and not set(student.conditions) & set(origin.tells):
        raise _untold(method, " or ".join(student.conditions), where)


def check_tells(origin: Origin, method: str, needs: tuple[str, ...], where: Path) -> None:
    """Raises LumigraphError where the colours do not go by one of `needs`, times and attributes."""
    for name in needs:
        if name not in origin.tells:
            raise _untold(method, name, where)


def _untold(method: str, name: str, where: Path) -> LumigraphError:
    return LumigraphError(
        f"{method} learns how a scene changes with its {name}, and the colours here do not go by {name}",
        where=where,
        todo=f"Distil from a teacher that knows {name}, or from what it has baked; or choose another student",
    )


def needed_by(student: type[Renderer], info: SceneInfo) -> tuple[str, ...]:
    """Which of `CHANGES` further views have to say that a student goes on learning from which was distilled on
    `info`."""
    told = told_by(info.cameras["train"])
    return tuple(
        name for name in CHANGES if name in student.needs or (name in student.conditions and name in told)
    )


def check_directions(origin: Origin, config: Any, where: Path) -> None:
    """Raises LumigraphError where directions of length 1 would be learnt from and others be asked for."""
    if origin.unit_directions:
        require_unit_directions(getattr(config, "unit_directions", False), where)


def require_unit_directions(made: bool, where: Path) -> None:
    """Raises LumigraphError where rays have directions of length 1 and a student does not make all of them such
    (`made`)."""
    if not made:
        raise LumigraphError(
            "the directions of these rays all have length 1, those of cameras have not",
            where=where,
            todo="Add --unit-directions to make all rays such",
        )


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


def mixed_with_photos(
    origin: Origin, scene: Scene, pseudo_ratio: float, seed: int, *, attributes: bool = False
) -> Origin:
    """A part `pseudo_ratio` of every batch from `origin`, the rest from the training photos of `scene`; for a student
    that goes by `attributes`, from those of which all are known."""
    check_same_scene(origin.info, scene.info)
    sampling = sampling_of(int(attributes and "attributes" in origin.tells))
    photos = PhotoSource(scene.split("train"), seed, depths=True, sampling=sampling)
    photos.cameras = without_unknown(photos.cameras, origin.tells)
    provenance = {**origin.provenance, "pseudo_ratio": pseudo_ratio}
    return replace(origin, source=MixedSource(origin.source, photos, pseudo_ratio), provenance=provenance)


def check_same_scene(student: SceneInfo, scene: SceneInfo, needs: tuple[str, ...] = ()) -> None:
    """Raises when the photos lie in another frame, or on another background, than a student has learnt, lack what it
    `needs` of times and attributes, or are all taken from elsewhere: frames of synthetic scenes are all alike."""
    if student.background != scene.background:
        problem = f"its background is {scene.background}, the student's is {student.background}"
    elif not torch.allclose(student.world_transform, scene.world_transform, rtol=1e-5, atol=1e-6):
        problem = "it lies in another frame than the one the student has learnt"
    elif "builtin" in (student.format, scene.format) and student.source != scene.source:
        problem = f"it is {scene.source}, the student's is {student.source}"
    elif missing := [name for name in needs if getattr(scene.cameras["train"], name) is None]:
        problem = f"its photos have no {missing[0]}, by which the student's colours go"
    elif not share_a_place(student.cameras["train"], scene.cameras["train"]):
        problem = "none of its photos was taken from where the teacher's were"
    else:
        return
    raise LumigraphError(
        f"this is not the student's scene: {problem}",
        where=scene.source,
        todo="Give the scene that the teacher was trained on, read with the same options",
    )


def share_a_place(some: Cameras, others: Cameras) -> bool:
    """Whether any of the others was taken from where one of some was."""
    centres = some.positions.double(), others.positions.double()
    return bool((torch.cdist(*centres) < _SAME_PLACE * centres[1].norm(dim=-1).amax()).any())


def with_hard_rays(source: RaySource, config: Any, seed: int) -> RaySource:
    """The source with the hard-ray pool that the config asks for; students of whole pictures know none."""
    if min(getattr(config, "hard_ratio", (0,))) == 0:
        return source
    return HardPool(source, config.rays, config.hard_ratio, config.hard_multiple, seed)
