"""`lumigraph import CHECKPOINT SCENE --run RUN --format nerf_pl|nerf-pytorch|dnerf`: a published NeRF as a run."""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from lumigraph.cli.parsing import FlatOptions, Positional, headed, parse
from lumigraph.configs.common import TrainOptions
from lumigraph.configs.registry import load_renderer_class, preset
from lumigraph.errors import LumigraphError
from lumigraph.scenes.facing import FacingOptions
from lumigraph.scenes.splits import SplitOptions

if TYPE_CHECKING:
    from lumigraph.fields.nerf_checkpoints import Published
    from lumigraph.scenes.scene import SceneInfo

_INWARD = {"nerf_pl": ("inward", "--spheric_poses"), "nerf-pytorch": ("spherify", "--spherify")}
"""How each program places captures in LLFF's format that do not face forward, and its option for it."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Make a run of a checkpoint that nerf_pl (.ckpt), nerf-pytorch or D-NeRF (.tar) has written.

    The scene says where cameras are, how near and far to look and what lies behind; how many samples a ray gets, the
    checkpoint does not say. Nothing that a checkpoint holds is run.
    """

    checkpoint: Positional[Path]
    """Checkpoint file; of nerf_pl also one with weights only."""
    scene: Positional[str]
    """Scene folder that it was trained on."""
    run: Path
    """Run folder to write."""
    format: Literal["nerf_pl", "nerf-pytorch", "dnerf"]
    """Program that has written the checkpoint."""
    samples: int = 64
    """Evenly spread samples along a ray."""
    importance: int | None = None
    """Samples of the fine network beside them (None: 128, or 0 where the checkpoint has no fine network; D-NeRF's one
    network is asked for both)."""
    disparity: bool = False
    """Spread the even samples evenly in inverse depth."""
    ndc: Literal["auto", "on", "off"] = "auto"
    """Sample in normalised device coordinates; auto: where the scene is a forward-facing one."""
    prefixes_to_ignore: tuple[str, ...] = ()
    """Leave out weights whose names begin so; with nerf_fine, the coarse network stands alone."""
    downscale: int = 1
    """Reduce the images by this factor."""
    background: Literal["white", "black"] | None = None
    """What lies behind transparent photos (None: white)."""
    splits: Annotated[FlatOptions[SplitOptions], headed("split")] = field(default_factory=SplitOptions)
    facing: Annotated[FlatOptions[FacingOptions], headed("facing")] = field(default_factory=FacingOptions)
    overwrite: bool = False
    """Replace a finished run."""


def main(argv: list[str]) -> None:
    """Import one checkpoint and print what it was."""
    arguments = parse(argv, Arguments, prog="lumigraph import")
    from lumigraph.fields.nerf_checkpoints import read_published
    from lumigraph.files import sha256
    from lumigraph.scenes.load import load_scene
    from lumigraph.training.runs import Run, load_weights

    published = read_published(arguments.checkpoint, arguments.format, arguments.prefixes_to_ignore)
    scene = load_scene(
        arguments.scene,
        downscale=arguments.downscale,
        splits=arguments.splits,
        background=arguments.background,
        facing=arguments.facing,
    )
    _check_frame(arguments.format, scene.info)
    options = TrainOptions(run=arguments.run, overwrite=arguments.overwrite)
    method, config = _config(arguments, published)
    provenance = {
        "imported_from": arguments.format,
        "checkpoint": arguments.checkpoint.name,
        "checkpoint_sha256": sha256(arguments.checkpoint),
    }
    renderer = load_renderer_class(method).from_scene(config, scene.info)
    load_weights(renderer, published.tensors, where=arguments.checkpoint)
    run = Run.create(arguments.run, method, config, scene.info, options, provenance)
    run.save_weights(renderer, published.step)
    run.update_results("training", {"finished": True, "step": published.step, "reason": "imported"})
    shape = published.architecture
    count = sum(parameter.numel() for parameter in renderer.parameters())
    networks = "coarse and fine" if published.fine else "one network"
    sys.stdout.write(f"{run.path}: {networks}, {shape.depth} x {shape.width}, {count:,} parameters\n")


def _check_frame(program: str, info: "SceneInfo") -> None:
    """Raises LumigraphError where cameras do not stand, or look as far, as the program that wrote the checkpoint had
    them."""
    if info.format in ("blender", "multiscale") and info.bounds.unbounded:
        raise LumigraphError(
            f"these opaque photos are read as an unbounded scene in other units than those of {program}",
            where=info.source,
            todo="Write the box of the scene into its transforms files: 'aabb': [[x, y, z], [x, y, z]]",
        )
    if program == "dnerf":
        _check_moving_frame(info)
        return
    if info.format not in ("blender", "multiscale", "builtin", "llff"):
        raise LumigraphError(
            f"{program} does not read scenes in this format ({info.format}), so a checkpoint has another frame",
            where=info.source,
            todo="Give the scene that it was trained on, in Blender's or in LLFF's format",
        )
    facing, option = _INWARD[program]
    if info.format == "llff" and info.forward is None and info.facing.facing != facing:
        raise LumigraphError(
            f"the capture is not read as a forward-facing one, and {program} places others as --facing {facing} does",
            where=info.source,
            todo=f"Pass --facing {facing}, if the checkpoint was trained with {option}",
        )


def _check_moving_frame(info: "SceneInfo") -> None:
    if info.format not in ("blender", "builtin"):
        raise LumigraphError(
            f"D-NeRF does not read scenes in this format ({info.format}), so a checkpoint has another frame",
            where=info.source,
            todo="Give the scene that it was trained on, in Blender's format with times",
        )


def _config(arguments: Arguments, published: "Published") -> tuple[str, Any]:
    """The method that a checkpoint is one of, and its config."""
    method = "dnerf" if arguments.format == "dnerf" else "nerf"
    values = (
        _moving_values(arguments, published) if method == "dnerf" else _still_values(arguments, published)
    )
    paper = preset(method, "paper")
    try:
        return method, replace(
            paper, **vars(published.architecture), samples=arguments.samples, pixel_corner=True, **values
        )
    except ValueError as error:
        raise LumigraphError(str(error), where=arguments.checkpoint, todo="Change the options") from error


def _still_values(arguments: Arguments, published: "Published") -> dict[str, Any]:
    importance = arguments.importance
    if importance is None:
        importance = 128 if published.fine else 0
    if (importance > 0) != published.fine:
        raise LumigraphError(
            f"--importance {importance} does not fit: the checkpoint has "
            + ("a fine network" if published.fine else "no fine network"),
            where=arguments.checkpoint,
            todo="Leave it out, or leave the fine network out with --prefixes-to-ignore",
        )
    # nerf_pl's rays have unit length, and what it encodes of them in NDC is their direction there.
    theirs = {"ray_length": "distance", "view_frame": "ndc"} if arguments.format == "nerf_pl" else {}
    return {
        **theirs,
        "importance": importance,
        "disparity": arguments.disparity,
        "ndc": arguments.ndc,
    }


def _moving_values(arguments: Arguments, published: "Published") -> dict[str, Any]:
    if arguments.disparity or arguments.ndc == "on":
        raise LumigraphError(
            "--disparity and --ndc on have no meaning for D-NeRF, which samples evenly in depth",
            where=arguments.checkpoint,
            todo="Leave them out",
        )
    motion = {"motion": "none"} if published.deformation is None else vars(published.deformation)
    return {
        **motion,
        "importance": 128 if arguments.importance is None else arguments.importance,
        "two_networks": published.fine,
    }
