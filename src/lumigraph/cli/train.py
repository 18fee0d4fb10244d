"""`lumigraph train METHOD SCENE --run RUN`: a teacher from photos."""

import logging
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

from lumigraph.cli.parsing import FlatOptions, Positional, headed, parse_method
from lumigraph.configs.checks import as_option, chosen
from lumigraph.configs.common import TrainOptions
from lumigraph.configs.depth import DepthSource, depth_loss_of, options_without_effect
from lumigraph.configs.registry import load_presets
from lumigraph.errors import LumigraphError
from lumigraph.scenes.depth_reading import DepthReading
from lumigraph.scenes.facing import FacingOptions
from lumigraph.scenes.splits import SplitOptions

if TYPE_CHECKING:
    from lumigraph.scenes.scene import SceneInfo
    from lumigraph.training.fit import TrainResult
    from lumigraph.training.runs import Run

log = logging.getLogger("lumigraph")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train a teacher on the photos of a scene.

    Known depth is used by methods that have the option --depth-loss, and where it is given; docs/depth.md tells how.
    """

    scene: Positional[str]
    """Scene folder, or builtin:still, builtin:moving, builtin:moving-split or builtin:attributes."""
    downscale: int = 1
    """Reduce the images by this factor."""
    scales: int = 1
    """Train on the photos at so many sizes, each half of the one before: Mip-NeRF's multi-scale data."""
    background: Literal["white", "black", "random"] | None = None
    """What lies behind transparent photos (None: white); random: another colour for each ray of training."""
    keep_best: int | None = None
    """Measure PSNR on fixed pixels of the validation views every so many steps, and end with the weights that were best
    at that (None: with the last ones). Where a scene has no validation or no test views, every tenth training photo is
    held out for it."""
    patience: int | None = None
    """With --keep-best: stop after so many of these looks without gain."""
    splits: Annotated[FlatOptions[SplitOptions], headed("split")] = field(default_factory=SplitOptions)
    facing: Annotated[FlatOptions[FacingOptions], headed("facing")] = field(default_factory=FacingOptions)
    depths: Annotated[FlatOptions[DepthReading], headed("depth maps")] = field(default_factory=DepthReading)
    depth_from: Annotated[FlatOptions[DepthSource], headed("depth source")] = field(
        default_factory=DepthSource
    )
    options: Annotated[FlatOptions[TrainOptions], headed("training")]


def main(argv: list[str]) -> None:
    """Parses the command line and trains."""
    method, config, arguments = parse_method(argv, "teacher", Arguments, prog="lumigraph train")
    # Imported here: --help has to be quick, and these bring torch.
    import torch

    from lumigraph.configs.registry import load_renderer_class
    from lumigraph.rendering.machine import set_threads
    from lumigraph.scenes.depth import check_depths, with_depth_source
    from lumigraph.scenes.load import load_scene, with_scales
    from lumigraph.scenes.normals import check_normals
    from lumigraph.training.begin import begin
    from lumigraph.training.fit import EarlyStopping, fit
    from lumigraph.training.sources import PhotoSource
    from lumigraph.training.validation import training_and_validation

    options: TrainOptions = arguments.options
    _check_depth_options(method, config, arguments.depth_from)
    _check_idle_options(method, config)
    _check_looks(arguments)
    set_threads(options.devices)
    scene = load_scene(
        arguments.scene,
        downscale=arguments.downscale,
        splits=arguments.splits,
        background=arguments.background,
        facing=arguments.facing,
        depths=arguments.depths,
    )
    depth = depth_loss_of(config)
    if depth.needs_depth:
        scene = with_depth_source(scene, arguments.depth_from)
        check_depths(scene)
    if getattr(config, "wants_normals", False):
        check_normals(scene)
    # After depth has come to its views: what a network or COLMAP knows is of the photos, not of smaller copies.
    scene = with_scales(scene, arguments.scales)
    if depth.depth_sky_weight and scene.info.background == "opaque":
        raise LumigraphError(
            "--depth-sky-weight has no effect: the photos are opaque",
            where=scene.info.source,
            todo="Leave it out",
        )
    photos, watched, held = scene.split("train"), scene.views.get("val"), False
    if arguments.keep_best is not None:
        photos, watched, held = training_and_validation(scene)
    warn_of_change(scene.info, load_renderer_class(method).conditions, method)
    told: dict[str, Any] = {"looks": {"keep_best": arguments.keep_best, "patience": arguments.patience}}
    if depth.needs_depth:
        told["depth_source"] = arguments.depth_from.to_json()
    if held:
        told["validation_held_from_training"] = True
    run = begin(method, config, scene.info, options, told)
    torch.manual_seed(options.seed)
    renderer = run.new_renderer()
    renderer.read_for_training(scene.info)
    result = fit(
        renderer,
        PhotoSource(
            photos,
            options.seed,
            depths=depth.needs_depth,
            keep_depth=depth.keep_depth,
            depth_share=depth.depth_share,
            sampling=renderer.pixel_sampling(),
            attribute_masks=renderer.wants_attribute_masks,
            normals=renderer.wants_normals,
        ),
        run,
        options,
        # Without validation views training is watched with its own photos, which shows collapse and gives pictures.
        validation=watched or photos,
        held_out=watched is not None,
        early_stopping=None
        if arguments.keep_best is None
        else EarlyStopping(every=arguments.keep_best, patience=arguments.patience, min_gain=0.0),
    )
    report(run, result, "validation photos" if result.held_out else "training photos")
    if result.best_step is not None:
        sys.stdout.write(
            f"kept are the weights of step {result.best_step:,}, the best on the validation photos"
            f"{', held out of the training photos' if held else ''}\n"
        )


def _check_looks(arguments: Arguments) -> None:
    """Raises LumigraphError for numbers of looks at the validation views that mean nothing."""
    for name in ("keep_best", "patience"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise LumigraphError(f"--{name.replace('_', '-')} must be positive, not {value}")
    if arguments.patience is not None and arguments.keep_best is None:
        raise LumigraphError(
            "--patience has no effect without --keep-best",
            todo="Say how often to look at the validation views, such as --keep-best 500",
        )


def _check_depth_options(method: str, config: Any, source: DepthSource) -> None:
    """Raises LumigraphError where depth is spoken of and not used."""
    depth = depth_loss_of(config)
    if not depth.needs_depth and source != DepthSource():
        raise LumigraphError(
            "options say where depth comes from, and training does not use it",
            todo="Add --depth-loss, of a method that knows it, or leave these options out",
        )
    idle = options_without_effect(config, load_presets(method).values())
    if idle:
        raise LumigraphError(
            f"no effect with --depth-loss {depth.depth_loss}: {', '.join(idle)}",
            todo="Choose another --depth-loss, or leave these options out",
        )


def _check_idle_options(method: str, config: Any) -> None:
    """Raises LumigraphError where options were chosen that mean nothing beside the others, of methods whose config
    tells such (`idle`)."""
    usual = [type(config)(), *load_presets(method).values()]
    for name, missing in getattr(config, "idle", {}).items():
        if chosen(config, usual, name):
            raise LumigraphError(
                f"{as_option(name)} has no effect without {missing}", todo="Add that, or leave it out"
            )


def warn_of_change(info: "SceneInfo", conditions: tuple[str, ...], method: str) -> None:
    """Says so where the scene moves, or is changed by attributes, and the method does not know of it. Attributes of
    photos that have times are those of a moment, so that a method which knows times has nothing to miss."""
    cameras = info.cameras["train"]
    if "times" in conditions and cameras.times is not None:
        conditions = (*conditions, "attributes")
    for name, of_cameras in (("times", cameras.times), ("attributes", cameras.attributes)):
        if name in conditions or of_cameras is None:
            continue
        different = len(of_cameras.unique(dim=0))
        if different > 1:
            log.warning(
                "the photos show the scene at %d different %s, and %s learns a still one: what changes will be blurred",
                different,
                name,
                method,
            )


_FEW_STEPS = 100
"""Of which no method learns anything."""


def report(run: "Run", result: "TrainResult", watched: str | None) -> None:
    """Prints where the run is, or after an interruption how to go on, with exit code 130. `watched`: what training was
    watched with, in words; None where what was seen is told otherwise."""
    from lumigraph.training.interrupts import EXIT_CODE
    from lumigraph.training.progress import clock_time

    if result.interrupted:
        stop(f"stopped at step {result.step:,}; the same command with --resume goes on", EXIT_CODE)
    if result.reason == "time" and result.step < _FEW_STEPS:
        log.warning(
            "only %d steps fitted into the time, from which nothing is learnt: give it more minutes, or choose smaller "
            "photos (--downscale), another preset or a faster method",
            result.step,
        )
    told = result.val_psnr is not None and watched is not None
    psnr = f", {result.val_psnr:.2f} dB on pixels of {watched}" if told else ""
    sys.stdout.write(f"{run.path}: {result.step:,} steps in {clock_time(result.seconds)}{psnr}\n")


def stop(message: str, code: int) -> NoReturn:
    """Ends the command with a message and an exit code."""
    sys.stderr.write(f"lumigraph: {message}\n")
    raise SystemExit(code)
