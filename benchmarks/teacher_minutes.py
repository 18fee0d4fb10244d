"""PSNR on the test views against minutes of training, each budget a run of its own, through the command line.

    python benchmarks/teacher_minutes.py SCENE [--methods ngp] [--downscale 4] [--minutes 1 2 5 10 | --steps N [N ...]]
        [--seeds 0] [--vary OPTION VALUE [VALUE ...]] [--test-views N] [--runs FOLDER] [--out FILE] [-- OPTIONS]

The rate falls towards the end of a run's budget, so a run of ten minutes is not ahead of one of two after two minutes.
With --steps budgets are steps, which other programs beside it do not change. With --vary each method is trained with
each value of an option: `--vary motion factors warp`.
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
    budget: tuple[str, float],
    seed: int,
    options: list[str],
    run: Path,
    views: int | None,
) -> dict[str, Any]:
    """Trains in the folder `run`, evaluates, and says what came of it under the name `label`."""
    start = time.perf_counter()
    peak = verb(
        "train", method, scene, "--run", run, "--downscale", downscale,
        *spending(budget), "--seed", seed, *options,
    )  # fmt: skip
    wall = time.perf_counter() - start
    figures, training = evaluated(run, run / "eval.json", views=views), trained(run)
    return {
        "method": label,
        budget[0]: budget[1],
        "seed": seed,
        **figures,
        "steps": training["step"],
        "rays_per_second": training["usual_rays_per_second"],
        "training_seconds": round(training["seconds"], 1),
        "wall_seconds": round(wall, 1),
        "peak_memory_mb": peak,
    }


def spending(budget: tuple[str, float]) -> list[str | float]:
    """`("minutes", 5)` or `("steps", 1000)` as options of `train`."""
    kind, amount = budget
    return (
        ["--max-minutes", amount]
        if kind == "minutes"
        else ["--max-steps", amount, "--training-steps", amount]
    )


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
    parser.add_argument("--steps", type=int, nargs="+", default=[], help="budgets in steps instead")
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
        minutes, steps = arguments.minutes, arguments.steps
        budgets = [("steps", n) for n in steps] or [("minutes", n) for n in minutes]
        several = arguments.methods, varied(arguments.vary), budgets, arguments.seeds
        for method, variant, budget, seed in itertools.product(*several):
            label = " ".join([method, *variant[1:]])
            run = folder / f"{name}-{label.replace(' ', '-')}-{budget[1]:g}-{budget[0]}-seed-{seed}"
            of_run = [*variant, *options]
            views = arguments.test_views
            rows.append(measure(label, method, arguments.scene, downscale, budget, seed, of_run, run, views))
            print(rows[-1], flush=True)
            scene = {"name": name, "downscale": downscale, "options": options}
            write_json(arguments.out, {"machine": machine(), "scene": scene, "runs": rows})
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
