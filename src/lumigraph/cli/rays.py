"""`lumigraph rays SCENE --out FOLDER`: the photos of a scene as published ray files."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from lumigraph.cli.parsing import FlatOptions, Positional, headed, parse
from lumigraph.errors import LumigraphError
from lumigraph.scenes.splits import SplitOptions


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Write the photos of a scene as ray files, which the published programs of R2L and DyLiN fine-tune on: one ray per
    row, with its time where the scene moves, as `bake --legacy` writes pseudo views.

    lumigraph itself needs none of them: `finetune` takes the scene.
    """

    scene: Positional[str]
    """Scene folder, or builtin:still, builtin:moving, builtin:moving-split or builtin:attributes."""
    out: Path
    """Folder to write: train_1.npy, train_2.npy and so on, and a manifest."""
    splits: tuple[Literal["train", "val", "test"], ...] = ("train",)
    """Which views."""
    layout: Literal["r2l", "dylin", "dylin-hypernerf", "codylin"] | None = None
    """What the columns are (None: what the photos have): r2l has 9; dylin 12, with times, in the units of the capture;
    dylin-hypernerf the same with unit directions in scene units, as DyLiN learns HyperNeRF's captures; codylin has
    attributes."""
    downscale: int = 1
    """Reduce the images by this factor."""
    background: Literal["white", "black"] | None = None
    """What lies behind transparent photos (None: white)."""
    seed: int = 0
    """Seed of the order of the rays."""
    overwrite: bool = False
    """Replace ray files that are there."""
    split: Annotated[FlatOptions[SplitOptions], headed("split")] = field(default_factory=SplitOptions)


def main(argv: list[str]) -> None:
    """Parses the command line and writes."""
    arguments = parse(argv, Arguments, prog="lumigraph rays")
    if not arguments.splits or len(set(arguments.splits)) != len(arguments.splits):
        raise LumigraphError("--splits names each split once", todo="Give for example --splits train val")
    if arguments.seed < 0:
        raise LumigraphError(f"--seed must not be negative, and is {arguments.seed}")
    # Imported here: --help has to be quick, and these bring torch.
    from lumigraph.distillation.legacy_export import export_photos
    from lumigraph.scenes.load import load_scene

    scene = load_scene(
        arguments.scene,
        downscale=arguments.downscale,
        splits=arguments.split,
        background=arguments.background,
    )
    files = export_photos(
        scene,
        arguments.splits,
        arguments.out,
        seed=arguments.seed,
        overwrite=arguments.overwrite,
        layout=arguments.layout,
    )
    photos = sum(len(scene.split(split)) for split in arguments.splits)
    sys.stdout.write(f"{arguments.out}: {files:,} ray files of {photos:,} photos\n")
