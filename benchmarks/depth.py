"""What known depth is worth: PSNR and depth error on held-out views for each depth loss, through the command line.

    python benchmarks/depth.py SCENE [--views 3 6 100] [--losses none l2 urf dsnerf swb] [--keep 1.0 0.3]
        [--downscale 1] [--select farthest] [--method ngp] [--steps 2000] [--seeds 0] [--depth-from RUN]
        [--colmap FOLDER] [--out FILE] [-- OPTIONS]

SCENE needs depth maps, or `--colmap` a COLMAP model of it, whose key points are the depth. For a scene without both,
`--depth-from RUN` takes them from a teacher that was trained on it: its images, reduced as the run was, and the depth
it renders where it sees something opaque become a folder in Blender's format, on which everything is measured.
`--views 0` means all. `--keep` tells only a part of the depth pixels; it does not concern the loss `none`.
"""

import contextlib
import itertools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from describe import described, machine, parsed
from verbs import evaluated, trained, verb

from lumigraph.files import read_json, write_json

RESULTS = Path(__file__).parent / "results"
METHODS = ("ngp", "mipnerf360")
LOSSES = ("none", "l2", "urf", "dsnerf", "swb")
_OPAQUE = 0.95
"""Opacity from which a teacher's depth is that of a surface."""


def with_rendered_depth(run: Path, folder: Path) -> None:
    """Writes the scene of a run as a Blender folder with the depth that the run renders."""
    from lumigraph.cli.eval import load_trained_scene
    from lumigraph.cli.opening import open_renderer
    from lumigraph.scenes.procedural.writing import write_blender
    from lumigraph.scenes.scene import Scene

    renderer, info = open_renderer(run, "auto")
    scene = load_trained_scene(run, info, None)
    views = {}
    for split, part in scene.views.items():
        maps = []
        for index in range(len(part)):
            seen = renderer.view(part.cameras[index])
            assert seen.opacity is not None
            opaque = (seen.opacity > _OPAQUE) & (part.image(index)[..., -1].to(seen.opacity.device) == 255)
            # The median, as a sensor sees it: at an edge the expected depth lies between the two surfaces.
            depth = seen.extras["depth_median"]
            maps.append(np.where(opaque.cpu(), depth.cpu(), np.nan).astype(np.float32))
        views[split] = part.with_depths(maps)
    write_blender(Scene(scene.info, views), folder)


def measure(
    method: str, scene: str, run: Path, downscale: int, loss: str, options: list[str | float]
) -> dict[str, Any]:
    """Trains in the folder `run`, evaluates, and says what came of it."""
    verb("train", method, scene, "--run", run, "--downscale", downscale, "--depth-loss", loss, *options)
    figures, training = evaluated(run, run / "eval.json"), trained(run)
    error = read_json(run / "eval.json")["depth_error"]
    return {
        "psnr": figures["psnr"],
        "ssim": figures["ssim"],
        "depth_error": None if error is None else {k: round(error[k], 5) for k in ("median", "mean", "rms")},
        "steps": training["step"],
        "seconds": round(training["seconds"], 1),
    }


def _downscale(arguments: Any) -> int:
    """By how much the photos were reduced that all is measured on."""
    if arguments.depth_from is None:
        return arguments.downscale
    from lumigraph.training.runs import Run

    return Run.open(arguments.depth_from).info.downscale


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("scene", help="scene folder")
    parser.add_argument(
        "--views",
        type=int,
        nargs="+",
        default=[3, 6, 100],
        help="numbers of training photos to try; 0 is all",
    )
    parser.add_argument(
        "--losses", nargs="+", choices=LOSSES, default=list(LOSSES), help="depth losses to try"
    )
    parser.add_argument(
        "--keep",
        type=float,
        nargs="+",
        default=[1.0],
        help="parts of the known depth that training is told, to try",
    )
    parser.add_argument("--downscale", type=int, default=1, help="reduce the photos by this factor")
    parser.add_argument(
        "--select", default="farthest", help="which photos are taken, as in `lumigraph train --select`"
    )
    parser.add_argument("--method", choices=METHODS, default="ngp", help="teacher to train")
    parser.add_argument("--steps", type=int, default=2000, help="steps of each training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds of training to try")
    parser.add_argument("--depth-from", type=Path, help="a run whose rendered depth is taken")
    parser.add_argument("--colmap", type=Path, help="COLMAP model whose key points are taken as depth")
    parser.add_argument("--runs", type=Path, help="folder in which to keep the runs")
    parser.add_argument("--out", type=Path, default=RESULTS / "depth.json", help="file for the table")
    arguments = parsed(parser)
    rows = []
    with contextlib.ExitStack() as stack:
        folder = arguments.runs or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        scene, downscale = arguments.scene, arguments.downscale
        if arguments.depth_from is not None:
            scene, downscale = folder / Path(scene).name, 1
            with_rendered_depth(arguments.depth_from, scene)
        about = {
            "name": Path(arguments.scene).name,
            "downscale": _downscale(arguments),
            "method": arguments.method,
            "select": arguments.select,
            "key_points": arguments.colmap is not None,
            "depth_from": None if arguments.depth_from is None else arguments.depth_from.name,
            "options": arguments.options,
        }
        source = ["--depth-source", "colmap", "--colmap", arguments.colmap] if arguments.colmap else []
        tried = itertools.product(arguments.views, arguments.losses, arguments.keep, arguments.seeds)
        for views, loss, keep, seed in tried:
            if loss == "none" and keep != arguments.keep[0]:
                continue
            few = ["--views", views, "--select", arguments.select] if views else []
            steps = ["--max-steps", arguments.steps, "--training-steps", arguments.steps]
            told = [] if loss == "none" else ["--keep-depth", keep, *source]
            run = folder / f"run-{views}-{loss}-{keep:g}-{seed}"
            options = [*few, *steps, *told, "--seed", seed, *arguments.options]
            figures = measure(arguments.method, str(scene), run, downscale, loss, options)
            told_of = None if loss == "none" else keep
            rows.append(
                {"views": views or "all", "loss": loss, "keep_depth": told_of, "seed": seed, **figures}
            )
            print(rows[-1], flush=True)
            write_json(arguments.out, {"machine": machine(), "scene": about, "runs": rows})
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
