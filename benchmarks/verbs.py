"""Shared by the benchmarks, no program: runs the command line's verbs, as a user does, and says what a run cost."""

import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from lumigraph.files import read_json


def verb(*arguments: str | Path | float) -> int:
    """Runs `lumigraph ARGUMENTS`; returns its peak memory in MiB. A verb that fails ends the benchmark."""
    process = subprocess.Popen([sys.executable, "-m", "lumigraph", *map(str, arguments)])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"lumigraph {arguments[0]} failed with exit code {process.returncode}")
    return round(usage.ru_maxrss / 1024)


def trained(run: Path) -> dict[str, Any]:
    """What the run folder says of its training; `usual_rays_per_second` is the median of the last half."""
    training = read_json(run / "results.json")["training"]
    history = training["history"]
    rates = [entry["rays_per_second"] for entry in history[len(history) // 2 :]]
    return {**training, "usual_rays_per_second": round(median(rates)) if rates else None}


def evaluated(renderer: Path, report: Path, device: str = "auto", views: int | None = None) -> dict[str, Any]:
    """The figures of `eval` on the test views, or on `views` of them evenly spread, rounded for a table."""
    some = [] if views is None else ["--views", views]
    verb("eval", renderer, "--json", report, "--device", device, *some)
    result = read_json(report)
    return {
        "psnr": round(result["psnr"], 3),
        "ssim": round(result["ssim"], 4),
        "lpips": None if result["lpips"] is None else round(result["lpips"], 4),
        "views": result["views"],
        "seconds_per_view": round(result["seconds_per_view"], 4),
    }
