"""PSNR on the test views against minutes of training, each budget a run of its own, through the command line.

    python benchmarks/teacher_minutes.py SCENE [--methods ngp] [--downscale 4] [--minutes 1 2 5 10] [--seeds 0]
        [--vary OPTION VALUE [VALUE ...]] [--test-views N] [--runs FOLDER] [--out FILE] [-- OPTIONS]

The rate falls towards the end of a run's budget, so a run of ten minutes is not ahead of one of two after two minutes.
With --vary each method is trained with each value of an option: `--vary motion factors warp`.
"""

import contextlib
import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

from describe import described, machine, parsed
from verbs import evaluated, trained, verb

from lumigraph.files import write_json

RESULTS = Path(__file__).parent / "results"


def measure(
    label: str,
    method: str,
    scene: str,
    downscale: int,
    minutes: float,
    seed: int,
    options: list[str],
    run: Path,
    views: int | None,
) -> dict[str, Any]:
    """Trains in the folder `run`, evaluates, and says what came of it under the name `label`."""
    start = time.perf_counter()
    peak = verb(
        "train", method, scene, "--run", run, "--downscale", downscale,
        "--max-minutes", minutes, "--seed", seed, *options,
    )  # fmt: skip
    wall = time.perf_counter() - start
    figures, training = evaluated(run, run / "eval.json", views=views), trained(run)
    return {
        "method": label,
        "minutes": minutes,
        "seed": seed,
        **figures,
        "steps": training["step"],
        "rays_per_second": training["usual_rays_per_second"],
        "training_seconds": round(training["seconds"], 1),
        "wall_seconds": round(wall, 1),
        "peak_memory_mb": peak,
    }


def varied(vary: list[str] | None) -> list[list[str]]:
    """`["motion", "factors", "warp"]` as the options of each run: `--motion factors` and `--motion warp`."""
    option, *values = vary or [""]
    return [[f"--{option}", value] for value in values] if values else [[]]


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("scene", help="scene folder")
    parser.add_argument("--methods", nargs="+", default=["ngp"], help="teachers to train")
    parser.add_argument("--downscale", type=int, default=4, help="reduce the photos by this factor")
    parser.add_argument(
        "--minutes",
        type=float,
        nargs="+",
        default=[1, 2, 5, 10],
        help="budgets in minutes, each a run of its own",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds, each a run of its own")
    parser.add_argument(
        "--vary", nargs="+", metavar="OPTION VALUE", help="an option of the methods and its values"
    )
    parser.add_argument("--test-views", type=int, help="measure on so many of the test views (None: all)")
    parser.add_argument("--runs", type=Path, help="folder in which to keep the runs")
    parser.add_argument(
        "--out", type=Path, default=RESULTS / "teacher_minutes.json", help="file for the table"
    )
    arguments = parsed(parser)
    rows = []
    with contextlib.ExitStack() as stack:
        folder = arguments.runs or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        name, downscale, options = Path(arguments.scene).name, arguments.downscale, arguments.options
        several = arguments.methods, varied(arguments.vary), arguments.minutes, arguments.seeds
        for method, variant, minutes, seed in itertools.product(*several):
            label = " ".join([method, *variant[1:]])
            run = folder / f"{name}-{label.replace(' ', '-')}-{minutes:g}-minutes-seed-{seed}"
            of_run = [*variant, *options]
            views = arguments.test_views
            rows.append(measure(label, method, arguments.scene, downscale, minutes, seed, of_run, run, views))
            print(rows[-1], flush=True)
            scene = {"name": name, "downscale": downscale, "options": options}
            write_json(arguments.out, {"machine": machine(), "scene": scene, "runs": rows})
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
