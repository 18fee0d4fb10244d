"""A training step of NeRF at nerf_pl's setting, in time and memory, beside the figures that nerf_pl publishes.

    python benchmarks/nerf_step.py [--device auto] [--presets cpu nerf_pl-blender paper] [--steps 20] [--out FILE]

Photos are those of a built-in scene at 400x400. nerf_pl prints 0.120 s a step and 3.2 GB for batches of 1024 rays with
64 + 64 samples on an RTX 2080 Ti. Each step is timed by itself, after `--warm-up` of them; the median counts. Memory on
a CPU is that of the process, which only grows: small presets come first.
"""

import argparse
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from describe import described, machine

from lumigraph.configs.registry import preset
from lumigraph.files import write_json
from lumigraph.rendering.machine import resolve_device, set_threads
from lumigraph.scenes.load import load_scene
from lumigraph.teachers.nerf import NeRF
from lumigraph.training.sources import PhotoSource

RESULTS = Path(__file__).parent / "results"
PUBLISHED = {"seconds_per_step": 0.120, "memory_mb": 3200, "device": "RTX 2080 Ti"}


def peak_memory(device: torch.device) -> int:
    """Megabytes at the peak: of the device where it counts its own, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def measure(name: str, precision: str, device: torch.device, arguments: argparse.Namespace) -> dict[str, Any]:
    """Some steps of one preset."""
    scene = load_scene(arguments.scene)
    torch.manual_seed(0)
    renderer = NeRF.from_scene(preset("nerf", name), scene.info).to(device)
    renderer.set_precision(precision)
    source = PhotoSource(scene.split("train"), 0, sampling=renderer.pixel_sampling()).to(device)
    optimiser = renderer.make_optimiser()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for step in range(arguments.warm_up + arguments.steps):
        start = time.perf_counter()
        source.begin_step(float(step))
        losses = renderer.losses(source.batch(step, renderer.rays_per_step), step, 0)
        optimiser.zero_grad(set_to_none=True)
        torch.stack(list(losses.terms.values())).sum().backward()
        optimiser.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds[arguments.warm_up :])
    return {
        "preset": name,
        "precision": precision,
        "rays_per_step": renderer.rays_per_step,
        "seconds_per_step": round(median, 4),
        "rays_per_second": round(renderer.rays_per_step / median),
        "peak_memory_mb": peak_memory(device),
    }


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("--device", default="auto", help="where it runs: auto, cpu, cuda or cuda:N")
    parser.add_argument("--scene", default="builtin:still:400", help="scene whose photos are learnt from")
    parser.add_argument(
        "--presets", nargs="+", default=["cpu", "nerf_pl-blender", "paper"], help="presets of nerf to measure"
    )
    parser.add_argument(
        "--precisions", nargs="+", default=["float32", "bfloat16"], help="arithmetic to measure"
    )
    parser.add_argument("--steps", type=int, default=20, help="steps that are timed")
    parser.add_argument("--warm-up", type=int, default=3, help="steps before them that are not")
    parser.add_argument(
        "--out",
        type=Path,
        default=None,
        help="file for the table (None: nerf_step_cpu.json or nerf_step_cuda.json in results/)",
    )
    arguments = parser.parse_args()
    set_threads()
    device = resolve_device(arguments.device)
    rows = []
    for name in arguments.presets:
        for precision in arguments.precisions:
            rows.append(measure(name, precision, device, arguments))
            print(rows[-1], flush=True)
    out = arguments.out or RESULTS / f"nerf_step_{device.type}.json"
    write_json(out, {"machine": machine(), "device": str(device), "published": PUBLISHED, "runs": rows})
    print(f"written to {out}")


if __name__ == "__main__":
    main()
