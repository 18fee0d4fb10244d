"""`lumigraph import CHECKPOINT SCENE --run RUN --format nerf_pl|nerf-pytorch`: a published NeRF as a run."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from lumigraph.cli.parsing import FlatOptions, Positional, headed, parse
from lumigraph.configs.common import TrainOptions
from lumigraph.errors import LumigraphError
from lumigraph.scenes.splits import SplitOptions


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Make a run of a checkpoint that nerf_pl (.ckpt) or nerf-pytorch (.tar) has written.

    The scene says where cameras are, how near and far to look and what lies behind; how many samples a ray gets, the
    checkpoint does not say. Nothing that a checkpoint holds is run.
    """

    checkpoint: Positional[Path]
    """Checkpoint file; of nerf_pl also one with weights only."""
    scene: Positional[str]
    """Scene folder that it was trained on."""
    run: Path
    """Run folder to write."""
    format: Literal["nerf_pl", "nerf-pytorch"]
    """Program that has written the checkpoint."""
    samples: int = 64
    """Evenly spread samples along a ray."""
    importance: int | None = None
    """Samples of the fine network beside them (None: 128, or 0 where the checkpoint has no fine network)."""
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
    overwrite: bool = False
    """Replace a finished run."""


def main(argv: list[str]) -> None:
    """Import one checkpoint and print what it was."""
    arguments = parse(argv, Arguments, prog="lumigraph import")
    from lumigraph.configs.registry import load_renderer_class
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
    )
    options = TrainOptions(run=arguments.run, overwrite=arguments.overwrite)
    config = _config(arguments, published)
    provenance = {
        "imported_from": arguments.format,
        "checkpoint": arguments.checkpoint.name,
        "checkpoint_sha256": sha256(arguments.checkpoint),
    }
    renderer = load_renderer_class("nerf").from_scene(config, scene.info)
    load_weights(renderer, published.tensors, where=arguments.checkpoint)
    run = Run.create(arguments.run, "nerf", config, scene.info, options, provenance)
    run.save_weights(renderer, published.step)
    run.update_results("training", {"finished": True, "step": published.step, "reason": "imported"})
    shape = published.architecture
    count = sum(parameter.numel() for parameter in renderer.parameters())
    networks = "coarse and fine" if published.fine else "one network"
    sys.stdout.write(f"{run.path}: {networks}, {shape.depth} x {shape.width}, {count:,} parameters\n")


def _config(arguments: Arguments, published):
    from lumigraph.configs.nerf import PRESETS

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
    values = {
        **vars(PRESETS["paper"]),
        **vars(published.architecture),
        **theirs,
        "samples": arguments.samples,
        "importance": importance,
        "disparity": arguments.disparity,
        "ndc": arguments.ndc,
        "pixel_corner": True,
    }
    try:
        return type(PRESETS["paper"])(**values)
    except ValueError as error:
        raise LumigraphError(str(error), where=arguments.checkpoint, todo="Change the options") from error
