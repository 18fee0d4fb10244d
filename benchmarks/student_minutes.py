"""What students reach in minutes: from stored pseudo views or from a live teacher, before and after fine-tuning.

    python benchmarks/student_minutes.py RUN SCENE [--methods r2l] [--ways shards live] [--minutes 17]
        [--finetune-minutes 3] [--views 1000] [--test-views N] [--runs FOLDER] [--out FILE] [-- OPTIONS]

RUN is a teacher's; PSNR is that of the test photos of SCENE, at the size the teacher was trained at. A method may have
a preset, `mobile-r2l:web`. Each budget is a run of its own, the longest is fine-tuned. Baking is measured beside: its
minutes are not part of the students'. `plot.py` draws the file.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from describe import described, machine, parsed
from verbs import evaluated, trained, verb

from lumigraph.files import write_json
from lumigraph.training.runs import Run

RESULTS = Path(__file__).parent / "results"


def distilled(
    method: str, way: str, minutes: float, folder: Path, arguments: argparse.Namespace
) -> dict[str, Any]:
    """A student, and after the longest budget the same fine-tuned on the photos."""
    name, _, preset = method.partition(":")
    run = folder / f"{method.replace(':', '-')}-{way}-{minutes:g}-minutes"
    chosen = ["--preset", preset] if preset else []
    source = folder / "views" if way == "shards" else arguments.run
    peak = verb(
        "distill", name, source, "--run", run, "--max-minutes", minutes, *chosen, *arguments.options
    )  # fmt: skip
    training, report = trained(run), run / "eval.json"
    row = {
        "method": method,
        "way": way,
        "minutes": minutes,
        "steps": training["step"],
        "rays_per_second": training["usual_rays_per_second"],
        "peak_memory_mb": peak,
        **evaluated(run, report, views=arguments.test_views),
        "history": [(entry["seconds"], entry["val_psnr"]) for entry in training["history"]],
    }
    if arguments.finetune_minutes > 0 and minutes == max(arguments.minutes):
        tuned = run.with_name(f"{run.name}-tuned")
        verb("finetune", run, arguments.scene, "--run", tuned, "--max-minutes", arguments.finetune_minutes)
        row["finetune_minutes"] = arguments.finetune_minutes
        row["fine_tuned"] = evaluated(tuned, report, views=arguments.test_views)
    return row


def told(row: dict[str, Any], teacher: float) -> str:
    """A row of the table for the terminal."""
    tuned = f", {row['fine_tuned']['psnr']:.2f} dB fine-tuned" if "fine_tuned" in row else ""
    return (
        f"{row['method']:20s} {row['way']:6s} {row['minutes']:5g} min  {row['psnr']:.2f} dB{tuned} "
        f"(teacher {teacher:.2f}), {row['seconds_per_view']:.3f} s a view"
    )


def measure(folder: Path, arguments: argparse.Namespace) -> None:
    """Bakes once, trains all, and writes the table after each row."""
    info = Run.open(arguments.run).info
    teacher = evaluated(arguments.run, folder / "teacher.json", views=arguments.test_views)
    figures: dict[str, Any] = {
        "machine": machine(),
        "scene": {"name": info.name, "downscale": info.downscale},
        "options": arguments.options,
        "teacher": teacher,
    }
    if "shards" in arguments.ways:
        start = time.perf_counter()
        verb("bake", arguments.run, "--out", folder / "views", "--views", arguments.views)
        figures |= {"views": arguments.views, "bake_seconds": round(time.perf_counter() - start, 1)}
    figures["runs"] = []
    for method in arguments.methods:
        for way in arguments.ways:
            for minutes in arguments.minutes:
                row = distilled(method, way, minutes, folder, arguments)
                figures["runs"].append(row)
                print(told(row, teacher["psnr"]), flush=True)
                write_json(arguments.out, figures)


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("run", type=Path, help="run folder of the teacher")
    parser.add_argument("scene", help="folder of the scene that it was trained on")
    parser.add_argument("--methods", nargs="+", default=["r2l"], help="students, as METHOD or METHOD:PRESET")
    parser.add_argument(
        "--ways",
        nargs="+",
        choices=("shards", "live"),
        default=["shards"],
        help="where labels come from: stored pseudo views, or the teacher live",
    )
    parser.add_argument("--minutes", nargs="+", type=float, default=[17], help="budgets of distillation")
    parser.add_argument(
        "--finetune-minutes",
        type=float,
        default=3,
        help="minutes of fine-tuning on the photos; 0 leaves it out",
    )
    parser.add_argument("--views", type=int, default=1000, help="pseudo views to bake")
    parser.add_argument(
        "--test-views", type=int, default=None, help="measure on so many of the test views (None: all)"
    )
    parser.add_argument("--runs", type=Path, default=None, help="folder in which to keep views and runs")
    parser.add_argument(
        "--out", type=Path, default=RESULTS / "student_minutes.json", help="file for the table"
    )
    arguments = parsed(parser)
    if arguments.runs is None:
        with tempfile.TemporaryDirectory() as name:
            measure(Path(name), arguments)
    else:
        arguments.runs.mkdir(parents=True, exist_ok=True)
        measure(arguments.runs, arguments)
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
