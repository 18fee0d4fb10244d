"""What a student reaches in minutes: from stored pseudo views or from a live teacher, before and after fine-tuning.

    python benchmarks/student_minutes.py RUN SCENE [--ways shards live] [--minutes 17] [--finetune-minutes 3]
        [--views 1000] [--method r2l] [--out FILE] [-- OPTIONS]

RUN is a teacher's; PSNR is that of the test photos of SCENE, at the size the teacher was trained at. Baking is
measured beside: its minutes are not part of the student's.
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


def distilled(source: Path, run: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """A student, then the same fine-tuned on the photos."""
    tuned, report = run.with_name(f"{run.name}-tuned"), run.with_suffix(".json")
    peak = verb(
        "distill", arguments.method, source, "--run", run,
        "--max-minutes", arguments.minutes, *arguments.options,
    )  # fmt: skip
    training = trained(run)
    row = {
        "minutes": arguments.minutes,
        "steps": training["step"],
        "rays_per_second": training["usual_rays_per_second"],
        "peak_memory_mb": peak,
        "student": evaluated(run, report),
        "history": [(entry["seconds"], entry["val_psnr"]) for entry in training["history"]],
    }
    if arguments.finetune_minutes > 0:
        verb("finetune", run, arguments.scene, "--run", tuned, "--max-minutes", arguments.finetune_minutes)
        row |= {"finetune_minutes": arguments.finetune_minutes, "fine_tuned": evaluated(tuned, report)}
        row["fine_tuning_gave"] = round(row["fine_tuned"]["psnr"] - row["student"]["psnr"], 3)
    return row


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("run", type=Path, help="run folder of the teacher")
    parser.add_argument("scene", help="folder of the scene that it was trained on")
    parser.add_argument("--method", default="r2l", help="method of the student")
    parser.add_argument(
        "--ways",
        nargs="+",
        choices=("shards", "live"),
        default=["shards"],
        help="where labels come from: stored pseudo views, or the teacher live",
    )
    parser.add_argument("--minutes", type=float, default=17, help="minutes of distillation")
    parser.add_argument(
        "--finetune-minutes",
        type=float,
        default=3,
        help="minutes of fine-tuning on the photos; 0 leaves it out",
    )
    parser.add_argument("--views", type=int, default=1000, help="pseudo views to bake")
    parser.add_argument(
        "--out", type=Path, default=RESULTS / "student_minutes.json", help="file for the table"
    )
    arguments = parsed(parser)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures: dict[str, Any] = {
            "teacher": evaluated(arguments.run, folder / "teacher.json"),
            "method": arguments.method,
            "options": arguments.options,
            "scene": Run.open(arguments.run).info.name,
        }
        if "shards" in arguments.ways:
            start = time.perf_counter()
            verb("bake", arguments.run, "--out", folder / "views", "--views", arguments.views)
            figures |= {"views": arguments.views, "bake_seconds": round(time.perf_counter() - start, 1)}
        for way in arguments.ways:
            source = folder / "views" if way == "shards" else arguments.run
            figures[way] = distilled(source, folder / way, arguments)
            below = (
                figures["teacher"]["psnr"] - figures[way].get("fine_tuned", figures[way]["student"])["psnr"]
            )
            figures[way]["below_teacher"] = round(below, 3)
            print({key: value for key, value in figures[way].items() if key != "history"}, flush=True)
            write_json(arguments.out, {"machine": machine(), **figures})
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
