"""`lumigraph multiscale SCENE --out FOLDER`: Mip-NeRF's multi-scale data from scenes."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from lumigraph.cli.parsing import FlatOptions, Positional, headed, parse
from lumigraph.errors import LumigraphError
from lumigraph.scenes.splits import SplitOptions


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Write every view of a scene at several sizes, each half of the one before: the data of Mip-NeRF, which `train`
    and other programs read.

    `train --scales` makes the same in memory. A folder of scenes becomes a folder of such data.
    """

    scene: Positional[str]
    """Scene folder, folder of scene folders, or builtin:still, builtin:moving, builtin:moving-split or
    builtin:attributes."""
    out: Path
    """Folder to write."""
    scales: int = 4
    """Number of sizes."""
    scenes: tuple[str, ...] = ()
    """Of a folder of scenes, the names of those to convert (default: all)."""
    downscale: int = 1
    """Reduce the images by this factor first."""
    background: Literal["white", "black", "random"] | None = None
    """Where it is given, every image is looked at for transparency, instead of a few."""
    resume: bool = False
    """Of a folder of scenes, leave out those that were written."""
    overwrite: bool = False
    """Replace what is there."""
    splits: Annotated[FlatOptions[SplitOptions], headed("split")] = field(default_factory=SplitOptions)


def main(argv: list[str]) -> None:
    """Parses the command line and converts."""
    arguments = parse(argv, Arguments, prog="lumigraph multiscale")
    if arguments.scales < 2:
        raise LumigraphError(
            f"--scales {arguments.scales} makes no multi-scale data", todo="Choose 2 or more"
        )
    # Imported here: --help has to be quick, and these bring torch.
    from lumigraph.files import require_replaceable
    from lumigraph.scenes.formats.multiscale import METADATA

    work = _work(arguments)
    if arguments.resume:
        work = {source: out for source, out in work.items() if not (out / METADATA).is_file()}
    for out in work.values():
        require_replaceable(out, arguments.overwrite)
    for source, out in work.items():
        convert(source, out, arguments)
    if not work:
        sys.stdout.write(f"{arguments.out}: nothing left to do\n")


def convert(source: str, out: Path, arguments: Arguments) -> None:
    """Converts one scene and says what came of it."""
    from lumigraph.scenes.formats.multiscale import write
    from lumigraph.scenes.load import load_scene

    scene = load_scene(
        source,
        downscale=arguments.downscale,
        splits=arguments.splits,
        background=arguments.background,
        scales=arguments.scales,
    )
    write(scene, out, arguments.overwrite)
    cameras = scene.info.cameras["train"]
    sizes = [f"{width}x{height}" for width, height in cameras.size[: arguments.scales].tolist()]
    pictures = sum(len(views) for views in scene.views.values())
    sys.stdout.write(f"{out}: {pictures:,} pictures, of {', '.join(sizes)} pixels\n")


def _work(arguments: Arguments) -> dict[str, Path]:
    """Where each scene goes."""
    from lumigraph.scenes.load import is_scene

    folder = Path(arguments.scene)
    if arguments.scene.startswith("builtin:") or not folder.is_dir() or is_scene(folder):
        if arguments.scenes:
            raise LumigraphError(
                "--scenes is for a folder of scenes",
                where=arguments.scene,
                todo="Leave it out, or name that folder",
            )
        return {arguments.scene: arguments.out}
    there = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and is_scene(entry))
    if not there:
        # Reading it says what is missing.
        return {arguments.scene: arguments.out}
    unknown = [name for name in arguments.scenes if name not in there]
    if unknown:
        raise LumigraphError(
            f"there is no scene {unknown[0]!r}", where=folder, todo=f"Choose among: {', '.join(there)}"
        )
    return {str(folder / name): arguments.out / name for name in arguments.scenes or there}
