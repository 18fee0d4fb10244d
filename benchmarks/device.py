"""The whole path on one device, a GPU above all: how fast each stage is there, and what comes of it.

    python benchmarks/device.py [--device cuda] [--scene builtin:still:200] [--downscale 1] [--teacher ngp]
        [--preset cpu] [--student r2l] [--student-presets cpu paper] [--minutes 1.5] [--views 200] [--out FILE]

The default is a built-in scene, so that nothing but the project is needed. With the defaults all of it stays below nine
minutes. Compilation, reading and evaluation are not part of the training minutes; the teacher and each student get as
many. A scene that moves, one of D-NeRF at 400x400:

    python benchmarks/device.py --scene SCENE --downscale 1 --teacher dynamic-ngp --preset gpu --student dylin
        --student-presets paper --minutes 2.5 --out benchmarks/results/device_moving.json
"""

import argparse
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


def training(run: Path, report: Path, device: str) -> dict[str, Any]:
    """Speed of a training and quality of what it trained."""
    figures = trained(run)
    return {
        "steps": figures["step"],
        "rays_per_second": figures["usual_rays_per_second"],
        **evaluated(run, report, device),
    }


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Teacher, pseudo views, students."""
    teacher, views, report = folder / "teacher", folder / "views", folder / "report.json"
    device, scene = arguments.device, arguments.scene
    common = ("--device", device, "--max-minutes", arguments.minutes)
    verb(
        "train", arguments.teacher, scene, "--downscale", arguments.downscale,
        "--run", teacher, "--preset", arguments.preset, *common,
    )  # fmt: skip
    figures: dict[str, Any] = {"teacher": training(teacher, report, device)}
    start = time.perf_counter()
    verb("bake", teacher, "--out", views, "--views", arguments.views, "--device", device)
    figures["bake_seconds_with_start"] = round(time.perf_counter() - start, 1)
    for preset in arguments.student_presets:
        run = folder / preset
        verb("distill", arguments.student, views, "--run", run, "--preset", preset, *common)
        figures[f"student {preset}"] = training(run, report, device)
    return figures


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("--device", default="cuda", help="where it runs: cpu, cuda or cuda:N")
    parser.add_argument(
        "--minutes", type=float, default=1.5, help="minutes of training of the teacher and of each student"
    )
    parser.add_argument("--scene", default="builtin:still:200", help="scene folder, or a built-in one")
    parser.add_argument("--downscale", type=int, default=1, help="reduce the photos by this factor")
    parser.add_argument("--teacher", default="ngp", help="method of the teacher")
    parser.add_argument("--preset", default="cpu", help="preset of the teacher")
    parser.add_argument("--student", default="r2l", help="method of the students")
    parser.add_argument(
        "--student-presets", nargs="+", default=["cpu", "paper"], help="a student of each of these presets"
    )
    parser.add_argument("--views", type=int, default=200, help="pseudo views to bake")
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
        figures = measure(Path(folder), arguments)
    for stage, values in figures.items():
        print(f"{stage:24s} {values}")
    out = arguments.out or RESULTS / f"device_{device.type}.json"
    chosen = {
        name: getattr(arguments, name)
        for name in ("downscale", "teacher", "preset", "student", "views", "minutes")
    }
    scene = arguments.scene if arguments.scene.startswith("builtin:") else Path(arguments.scene).name
    write_json(out, {"machine": machine(), "device": name, "scene": scene, **chosen, **figures})
    print(f"written to {out}")


if __name__ == "__main__":
    main()
