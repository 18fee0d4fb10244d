"""`lumigraph distill METHOD RUN_OR_SHARDS --run RUN2`: a student from a teacher, live or through pseudo views."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from lumigraph.cli.export import check_export, export_finished
from lumigraph.cli.parsing import FlatOptions, Positional, headed, parse_method
from lumigraph.cli.train import report, warn_of_change
from lumigraph.configs.common import TrainOptions
from lumigraph.errors import LumigraphError

log = logging.getLogger("lumigraph")

if TYPE_CHECKING:
    from lumigraph.distillation.origins import Origin
    from lumigraph.scenes.scene import Scene


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train a student to agree with a teacher: through stored pseudo views, or with the teacher answering live."""

    source: Positional[Path]
    """Pseudo views (a folder of `bake`), a teacher's run (it answers live), or a folder of published ray files or
    pictures."""
    options: Annotated[FlatOptions[TrainOptions], headed("training")]
    poses: Literal["fitted", "r2l", "mobile", "between"] = "fitted"
    """Live: where cameras stand: as the captured ones do, as in R2L or MobileR2L, or between two captured ones, as
    DyLiN for HyperNeRF's captures."""
    times: Literal["fitted", "uniform", "frames"] = "fitted"
    """Live, of scenes that move: when the views are taken, between neighbouring moments of the capture, evenly from its
    first to its last, or at the moments of the training photos."""
    cameras: int = 1024
    """Live: how many cameras rays are taken from."""
    codes: Literal["zero", "mean", "nearest", "linear"] | None = None
    """Live: what the teacher's views are drawn with where it has learnt codes, as with `bake` (None: as --code-choice
    of `train` said)."""
    reuse: int = 4
    """Live: how often a label is used on average."""
    ring: int = 262_144
    """Live: labels that are kept at a time; of whole pictures, as many as make 16 steps at least."""
    floor: float = 0.5
    """Live: part of the rays that is spread evenly, not to where the student is worst; whole pictures are."""
    hold_ratio: float = 0.0
    """Pseudo views: part of them that is left out."""
    empty_share: float = 0.1
    """Pseudo views: how often a pixel of nothing but background is drawn, as a part of how often the others are; whole
    pictures are taken as they are."""
    scene: Path | None = None
    """Scene of published ray files; or whose photos are mixed in, with --pseudo-ratio."""
    downscale: int | None = None
    """Reduce the photos of --scene by this factor (None: as for the teacher)."""
    pseudo_ratio: float = 1.0
    """Part of each batch, of whole pictures part of the steps, that comes from the teacher; the rest comes from the
    photos of --scene."""
    layout: Literal["r2l", "r2l-depth", "r2l-surface", "dylin", "dylin-hypernerf", "mobile-r2l"] | None = None
    """Ray files: what their columns are, where there are more than nine and no manifest says it; mobile-r2l: pseudo
    views of MobileR2L, which are known by their folders."""
    export: Path | None = None
    """Write a bundle of the finished student to this folder, as `lumigraph export` does where nothing else is asked."""


def main(argv: list[str]) -> None:
    """Parses the command line and distils."""
    method, config, arguments = parse_method(argv, "student", Arguments, prog="lumigraph distill")
    _check(arguments)
    # Imported here: --help has to be quick, and these bring torch.
    import torch

    from lumigraph.configs.registry import load_renderer_class
    from lumigraph.distillation.origins import check_directions, check_student, with_hard_rays
    from lumigraph.rendering.machine import set_threads
    from lumigraph.training.begin import begin
    from lumigraph.training.fit import fit

    options: TrainOptions = arguments.options
    set_threads(options.devices)
    check_export(method, arguments.export, options.run, options.overwrite)
    renderer = load_renderer_class(method)
    attributes = "attributes" in (*renderer.conditions, *renderer.needs)
    origin = _origin(arguments, config, attributes, renderer.whole_views)
    check_student(origin, method, renderer, arguments.source)
    check_directions(origin, config, arguments.source)
    warn_of_change(origin.info, (*renderer.conditions, "attributes"), method)
    if "attributes" in origin.tells and not attributes:
        log.warning(
            "the colours here go by attributes that were drawn at random, of which %s knows nothing: what these move "
            "will be blurred (bake with --attributes told)",
            method,
        )
    run = begin(method, config, origin.info, options, {"distilled_from": origin.provenance})
    _same_origin(run, origin)
    torch.manual_seed(options.seed)
    result = fit(
        run.new_renderer(),
        with_hard_rays(origin.source, config, options.seed),
        run,
        options,
        validation=origin.validation,
    )
    report(run, result, origin.watched)
    export_finished(run, arguments.export, options.overwrite)


def _check(arguments: Arguments) -> None:
    for name in ("cameras", "reuse", "ring", "downscale"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise LumigraphError(f"--{name} must be at least 1, not {value}")
    for name in ("floor", "pseudo_ratio"):
        if not 0 <= getattr(arguments, name) <= 1:
            raise LumigraphError(f"--{name.replace('_', '-')} must lie in 0..1")
    if arguments.pseudo_ratio < 1 and arguments.scene is None:
        raise LumigraphError("--pseudo-ratio mixes in photos", todo="Name their scene with --scene")


def _origin(arguments: Arguments, config: Any, attributes: bool, whole_views: bool) -> "Origin":
    from lumigraph.distillation.origins import mixed_with_photos
    from lumigraph.scenes.load import load_scene_like

    origin = _pseudo(arguments, config, attributes, whole_views)
    if arguments.pseudo_ratio < 1:
        # Read as the teacher's photos were: what it held out stays held out.
        photos = load_scene_like(origin.info, str(arguments.scene), arguments.downscale)
        seed = arguments.options.seed
        origin = mixed_with_photos(origin, photos, arguments.pseudo_ratio, seed, attributes=attributes)
    return origin


def _pseudo(arguments: Arguments, config: Any, attributes: bool, whole_views: bool) -> "Origin":
    """The teacher's part, by what the folder holds. `attributes`: whether the student knows of these; `whole_views`:
    whether it learns from whole pictures."""
    from lumigraph.distillation import origins
    from lumigraph.distillation.legacy import legacy_files
    from lumigraph.distillation.legacy_pictures import is_picture_folder
    from lumigraph.training.runs import is_packed

    source, options = arguments.source, arguments.options
    if (source / "config.json").is_file() or is_packed(source):
        live = origins.LiveOptions(
            arguments.poses,
            arguments.times,
            arguments.cameras,
            arguments.reuse,
            arguments.ring,
            arguments.floor,
            arguments.codes,
        )
        per_step = config.pictures if whole_views else config.rays
        return origins.from_teacher(
            source,
            per_step,
            options.seed,
            live,
            options.device,
            options.precision,
            attributes=attributes,
            whole_views=whole_views,
        )
    if arguments.codes is not None:
        raise LumigraphError(
            "--codes is for a teacher that answers live, and these views are drawn already",
            where=source,
            todo="Leave it out, or give it to `lumigraph bake`",
        )
    if (source / "index.json").is_file() or (source / "plan.json").is_file():
        return origins.from_shards(source, options.seed, arguments.hold_ratio, arguments.empty_share)
    if is_picture_folder(source):
        if arguments.layout not in (None, "mobile-r2l"):
            raise _of_other_layout("pseudo views of MobileR2L", arguments.layout, source)
        return origins.from_legacy_pictures(source, _shown_scene(arguments), options.seed)
    if legacy_files(source):
        if arguments.layout == "mobile-r2l":
            raise _of_other_layout("ray files", arguments.layout, source)
        return origins.from_legacy(source, _shown_scene(arguments), options.seed, arguments.layout)
    raise LumigraphError(
        "there is nothing here to distil from" if source.exists() else "there is no such folder",
        where=source,
        todo="Give a teacher's run, a folder that `lumigraph bake` has written, or one of ray files",
    )


def _of_other_layout(what: str, layout: str | None, where: Path) -> LumigraphError:
    return LumigraphError(
        f"these are {what}, not of layout {layout}", where=where, todo="Leave --layout out, or name another"
    )


def _shown_scene(arguments: Arguments) -> "Scene":
    """The scene that published pseudo views show."""
    from lumigraph.scenes.load import load_scene

    if arguments.scene is None:
        raise LumigraphError(
            "published pseudo views do not say which scene they show",
            where=arguments.source,
            todo="Name it with --scene",
        )
    return load_scene(str(arguments.scene), downscale=arguments.downscale or 1)


def _same_origin(run: Any, origin: "Origin") -> None:
    """A resumed run has to go on with the labels it was begun with."""
    before = run.provenance.get("distilled_from", {})
    changed = [name for name, value in origin.provenance.items() if before.get(name) != value]
    if changed:
        raise LumigraphError(
            f"the run was begun with other pseudo views: {', '.join(changed[:4])} changed",
            where=run.path,
            todo="Resume with the same teacher and options, or start afresh with --overwrite",
        )
