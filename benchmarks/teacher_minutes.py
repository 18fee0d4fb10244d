"""PSNR on the test views against minutes of training, each budget a run of its own, through the command line.

    python benchmarks/teacher_minutes.py SCENE [--downscale 4] [--minutes 1 2 5 10] [--seeds 0] [--out FILE]

The rate falls towards the end of a run's budget, so a run of ten minutes is not ahead of one of two after two minutes.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from describe import machine

from lumigraph.files import read_json, write_json

RESULTS = Path(__file__).parent / "results"


def command(*arguments: str | Path) -> int:
    """Runs a verb; returns its peak memory in kilobytes."""
    process = subprocess.Popen([sys.executable, "-m", "lumigraph", *map(str, arguments)])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"lumigraph {arguments[0]} failed with exit code {process.returncode}")
    return usage.ru_maxrss


def measure(scene: str, downscale: int, minutes: float, seed: int, options: list[str]) -> dict[str, Any]:
    """Trains, evaluates, and says what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        run, report = Path(folder) / "run", Path(folder) / "eval.json"
        start = time.perf_counter()
        peak = command(
            "train", "ngp", scene, "--run", run, "--downscale", str(downscale),
            "--max-minutes", str(minutes), "--seed", str(seed), *options,
        )  # fmt: skip
        wall = time.perf_counter() - start
        command("eval", run, "--json", report)
        result, trained = read_json(report), read_json(run / "results.json")["training"]
    return {
        "minutes": minutes,
        "seed": seed,
        "psnr": round(result["psnr"], 3),
        "ssim": round(result["ssim"], 4),
        "lpips": None if result["lpips"] is None else round(result["lpips"], 4),
        "views": result["views"],
        "seconds_per_view": round(result["seconds_per_view"], 4),
        "steps": trained["step"],
        "training_seconds": round(trained["seconds"], 1),
        "wall_seconds": round(wall, 1),
        "peak_memory_mb": round(peak / 1024),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("scene")
    parser.add_argument("--downscale", type=int, default=4)
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 2, 5, 10])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=RESULTS / "teacher_minutes.json")
    parser.add_argument("options", nargs="*", help="further options of `train ngp`, after --")
    arguments = parser.parse_args()
    rows = []
    for minutes in arguments.minutes:
        for seed in arguments.seeds:
            rows.append(measure(arguments.scene, arguments.downscale, minutes, seed, arguments.options))
            print(rows[-1], flush=True)
            scene = {"name": Path(arguments.scene).name, "downscale": arguments.downscale}
            write_json(arguments.out, {"machine": machine(), "scene": scene, "runs": rows})
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
