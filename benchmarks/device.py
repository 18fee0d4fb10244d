"""The whole path on one device, a GPU above all: how fast each stage is there, and what comes of it.

    python benchmarks/device.py [--device cuda] [--minutes 1.5] [--preset cpu] [--out FILE]

The scene is a built-in one, so that nothing but the project is needed. With the defaults all of it stays below nine
minutes. Compilation, reading and evaluation are not part of the training minutes; the teacher and each of the two
students get as many.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from describe import described, machine
from verbs import evaluated, trained, verb

from lumigraph.files import write_json
from lumigraph.rendering.machine import resolve_device

RESULTS = Path(__file__).parent / "results"
SCENE = "builtin:still:200"
VIEWS = 200
STUDENTS = ("cpu", "paper")


def training(run: Path, report: Path, device: str) -> dict[str, Any]:
    """Speed of a training and quality of what it trained."""
    figures = trained(run)
    return {
        "steps": figures["step"],
        "rays_per_second": figures["usual_rays_per_second"],
        **evaluated(run, report, device),
    }


def measure(folder: Path, device: str, minutes: float, preset: str) -> dict[str, Any]:
    """Teacher, pseudo views, students."""
    teacher, views, report = folder / "teacher", folder / "views", folder / "report.json"
    common = ("--device", device, "--max-minutes", minutes)
    verb("train", "ngp", SCENE, "--run", teacher, "--preset", preset, *common)
    figures: dict[str, Any] = {"teacher": training(teacher, report, device)}
    start = time.perf_counter()
    verb("bake", teacher, "--out", views, "--views", VIEWS, "--device", device)
    figures["bake_seconds_with_start"] = round(time.perf_counter() - start, 1)
    for student in STUDENTS:
        run = folder / student
        verb("distill", "r2l", views, "--run", run, "--preset", student, *common)
        figures[f"student {student}"] = training(run, report, device)
    return figures


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("--device", default="cuda", help="where it runs: cpu, cuda or cuda:N")
    parser.add_argument(
        "--minutes", type=float, default=1.5, help="minutes of training of the teacher and of each student"
    )
    parser.add_argument("--preset", default="cpu", help="preset of the teacher")
    parser.add_argument(
        "--out",
        type=Path,
        default=None,
        help="file for the figures (None: device_cpu.json or device_cuda.json in results/)",
    )
    arguments = parser.parse_args()
    device = resolve_device(arguments.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), arguments.device, arguments.minutes, arguments.preset)
    for stage, values in figures.items():
        print(f"{stage:24s} {values}")
    out = arguments.out or RESULTS / f"device_{device.type}.json"
    write_json(
        out,
        {"machine": machine(), "device": name, "scene": SCENE, "minutes": arguments.minutes, **figures},
    )
    print(f"written to {out}")


if __name__ == "__main__":
    main()
