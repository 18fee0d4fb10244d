"""`lumigraph depth SCENE --model FOLDER --out FOLDER`: monocular depth of a scene's photos."""

import sys
from dataclasses import dataclass
from pathlib import Path

from lumigraph.cli.parsing import Positional, parse


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Let a network say how deep each photo is, for `train --depth-source mono` or composite.

    It knows depth up to a scale and a shift; training finds them. Some networks give inverse depth: pass --mono-inverse
    in training.
    """

    scene: Positional[str]
    """Scene folder, or builtin:still, builtin:moving, builtin:moving-split or builtin:attributes."""
    model: Path
    """Folder with a depth estimation model of the Hugging Face hub. Nothing is downloaded."""
    out: Path
    """Folder for the maps: NAME.npy for each photo."""
    downscale: int = 1
    """Reduce the photos by this factor."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    overwrite: bool = False
    """Replace the folder."""


def main(argv: list[str]) -> None:
    """Parses the command line, predicts, and says where the maps are."""
    arguments = parse(argv, Arguments, prog="lumigraph depth")
    # Imported here: --help has to be quick, and these bring torch.
    from lumigraph.files import require_replaceable
    from lumigraph.rendering.machine import resolve_device, set_threads
    from lumigraph.scenes.load import load_scene
    from lumigraph.scenes.monocular import load_predictor, predict_depths
    from lumigraph.training.progress import counting

    set_threads()
    require_replaceable(arguments.out, arguments.overwrite)
    scene = load_scene(arguments.scene, downscale=arguments.downscale)
    predict = load_predictor(arguments.model, resolve_device(arguments.device))
    with counting("photos", sum(map(len, scene.views.values()))) as advance:
        count = predict_depths(scene, predict, arguments.out, arguments.overwrite, advance)
    sys.stdout.write(f"{arguments.out}: depth of {count} photos\n")
