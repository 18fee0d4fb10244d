"""How fast a teacher bakes pseudo views: rays per second, all in (rendering, rounding, writing, checksums).

    python benchmarks/bake_rate.py RUN [--views 64] [--width W] [--devices 1] [--out FILE]

The published generator was measured at 389 rays/s on two cores (64 + 64 samples of its NeRF).
"""

import tempfile
import time
from pathlib import Path
from typing import Any

from describe import described, machine

from lumigraph.distillation.bake import bake, prepare
from lumigraph.distillation.origins import teacher_provenance
from lumigraph.distillation.poses import sample_poses
from lumigraph.distillation.shards import Plan
from lumigraph.files import write_json
from lumigraph.rendering.machine import set_threads
from lumigraph.training.runs import Run

RESULTS = Path(__file__).parent / "results"
PUBLISHED = 389


def measure(run: Run, views: int, width: int | None, devices: int) -> dict[str, Any]:
    """Bakes into a temporary folder: once a few views, which compiles kernels, then `views`."""
    cameras = sample_poses("fitted", views, 0, run.info.cameras["train"])
    if width is not None:
        full_width, full_height = cameras.size[0].tolist()
        cameras = cameras.resized(width, max(1, round(full_height * width / full_width)))
    with tempfile.TemporaryDirectory() as folder:
        for name, chosen in (("warm", cameras[:2]), ("measured", cameras)):
            plan = Plan(chosen, run.info, rows=8, provenance=teacher_provenance(run))
            out = Path(folder) / name
            prepare(out, plan, resume=False, overwrite=False)
            start = time.perf_counter()
            done = bake(run.path, out, plan, devices=devices if name == "measured" else 1)
            seconds = time.perf_counter() - start
    rate = done.rays / seconds
    return {
        "teacher": run.method,
        "scene": run.info.name,
        "views": views,
        "width": plan.size[0],
        "height": plan.size[1],
        "processes": devices,
        "seconds": round(seconds, 3),
        "rays_per_second": round(rate),
        "rays_per_second_rendering": round(done.rays_per_second),
        "times_published_generator": round(rate / PUBLISHED, 1),
    }


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("run", type=Path, help="run folder of the teacher")
    parser.add_argument("--views", type=int, default=64, help="views to bake")
    parser.add_argument(
        "--width", type=int, default=None, help="width of the views in pixels (None: as the teacher's photos)"
    )
    parser.add_argument("--devices", type=int, default=1, help="how many processes render together")
    parser.add_argument("--out", type=Path, default=RESULTS / "bake_rate.json", help="file for the figures")
    arguments = parser.parse_args()
    set_threads(arguments.devices)
    figures = measure(Run.open(arguments.run), arguments.views, arguments.width, arguments.devices)
    for name, value in figures.items():
        print(f"{name:26s} {value}")
    write_json(arguments.out, {"machine": machine(), "figures": figures})
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
