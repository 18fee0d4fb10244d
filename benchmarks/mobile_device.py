"""A phone's student at full size from a live teacher on one GPU, a sitting at a time, each going on from the last.

    python benchmarks/mobile_device.py --out FOLDER [--state FOLDER] [--device cuda] [--scene builtin:still:800]
        [--student mobile-r2l] [--preset paper] [--teacher-minutes 1] [--minutes 6] [--test-views 10]

The first sitting trains a teacher, Instant-NGP, for a minute; every sitting then distils for so many minutes and
measures PSNR on test views. With the defaults a sitting stays below nine minutes. `--out` gets sittings.json, the
figures of all sittings, and the state to go on from, `state.000` and so on: an archive in parts of at most 15 MiB,
since some machines give back only small files. Pass that folder as --state of the next sitting.
"""

import argparse
import io
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import torch
from describe import described, machine
from verbs import evaluated, trained, verb

from lumigraph.files import read_json, write_json
from lumigraph.rendering.machine import resolve_device
from lumigraph.training.checkpoints import list_checkpoints

PART = 15 << 20
SITTINGS = "sittings.json"


def unpack(state: Path, folder: Path) -> None:
    """Puts what a sitting has left into `folder`."""
    parts = sorted(state.glob("state.*"))
    if not parts:
        raise SystemExit(f"{state}: there is no state.000 here: this is not what a sitting has left")
    with tarfile.open(fileobj=io.BytesIO(b"".join(part.read_bytes() for part in parts))) as archive:
        archive.extractall(folder, filter="data")
    shutil.copyfile(state / SITTINGS, folder / SITTINGS)


def pack(folder: Path, out: Path) -> None:
    """The teacher, and of the student what training goes on from: its description and its newest checkpoint."""
    student = folder / "student"
    newest = list_checkpoints(student / "checkpoints")[0]
    kept = [folder / "teacher.safetensors", folder / "teacher.json", newest]
    kept += [student / name for name in ("config.json", "scene.json", "results.json")]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for path in kept:
            archive.add(path, path.relative_to(folder).as_posix())
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("state.*"):
        old.unlink()
    data = buffer.getbuffer()
    for number, first in enumerate(range(0, len(data), PART)):
        (out / f"state.{number:03d}").write_bytes(data[first : first + PART])
    shutil.copyfile(folder / SITTINGS, out / SITTINGS)


def sitting(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains the teacher if there is none, then the student, and measures."""
    device, report, teacher = arguments.device, folder / "report.json", folder / "teacher.safetensors"
    views = arguments.test_views
    row: dict[str, Any] = {}
    if not teacher.is_file():
        run = folder / "teacher"
        verb(
            "train", "ngp", arguments.scene, "--run", run,
            "--max-minutes", arguments.teacher_minutes, "--device", device,
        )  # fmt: skip
        verb("pack", run, "--out", teacher)
        row["teacher"] = evaluated(run, report, device, views)
    student = folder / "student"
    before = trained(student)["step"] if student.is_dir() else 0
    number = len(read_json(folder / SITTINGS)["sittings"]) if (folder / SITTINGS).is_file() else 0
    verb(
        "distill", arguments.student, teacher, "--run", student, "--preset", arguments.preset,
        "--max-minutes", arguments.minutes * (number + 1), "--device", device, *["--resume"][: bool(before)],
    )  # fmt: skip
    step = trained(student)["step"]
    return row | {"steps": step - before, "all_steps": step, **evaluated(student, report, device, views)}


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the figures and the state")
    parser.add_argument("--state", type=Path, default=None, help="--out of the last sitting")
    parser.add_argument("--device", default="cuda", help="where it runs: cpu, cuda or cuda:N")
    parser.add_argument("--scene", default="builtin:still:800", help="scene folder, or a built-in one")
    parser.add_argument("--student", default="mobile-r2l", help="method of the student")
    parser.add_argument("--preset", default="paper", help="preset of the student")
    parser.add_argument("--teacher-minutes", type=float, default=1, help="minutes of the teacher")
    parser.add_argument("--minutes", type=float, default=6, help="minutes of distillation in each sitting")
    parser.add_argument("--test-views", type=int, default=10, help="test views to measure on")
    arguments = parser.parse_args()
    device = resolve_device(arguments.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if arguments.state is not None:
            unpack(arguments.state, folder)
        row = sitting(folder, arguments)
        before = read_json(folder / SITTINGS)["sittings"] if (folder / SITTINGS).is_file() else []
        chosen = {key: getattr(arguments, key) for key in ("scene", "student", "preset", "minutes")}
        figures = {"machine": machine(), "device": name, **chosen, "sittings": [*before, row]}
        write_json(folder / SITTINGS, figures)
        pack(folder, arguments.out)
    for number, values in enumerate(figures["sittings"]):
        print(f"sitting {number + 1}: {values}")
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
