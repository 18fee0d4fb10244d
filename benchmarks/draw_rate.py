"""What it costs to draw a training step's rays from the photos, against what making so many rays costs alone.

    python benchmarks/draw_rate.py SCENE [--downscale 4] [--rays 8192] [--out FILE]

A source has to choose pixels, make their rays and look their colours up; the second is what no source is spared.
"""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from describe import described, machine

from lumigraph.files import write_json
from lumigraph.rendering.machine import set_threads
from lumigraph.scenes.load import load_scene
from lumigraph.training.sources import PhotoSource

RESULTS = Path(__file__).parent / "results"
REPEATS = 50


def milliseconds(work: Callable[[int], object]) -> float:
    """The median time of `work`, called with the number of the step."""
    work(0)
    times = []
    for step in range(REPEATS):
        start = time.perf_counter()
        work(step)
        times.append(time.perf_counter() - start)
    return 1000 * median(times)


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("scene", help="scene folder")
    parser.add_argument("--downscale", type=int, default=4, help="reduce the photos by this factor")
    parser.add_argument("--rays", type=int, default=8192, help="rays of a step")
    parser.add_argument("--out", type=Path, default=RESULTS / "draw_rate.json", help="file for the figures")
    arguments = parser.parse_args()
    set_threads()
    views = load_scene(arguments.scene, downscale=arguments.downscale).split("train")
    source, cameras = PhotoSource(views, 0), views.cameras
    generator = torch.Generator().manual_seed(0)
    width, height = cameras.size[0].tolist()
    index, x, y = (
        torch.randint(most, (arguments.rays,), generator=generator) for most in (len(cameras), width, height)
    )
    figures = {
        "draw_milliseconds": round(milliseconds(lambda step: source.batch(step, arguments.rays)), 3),
        "rays_alone_milliseconds": round(milliseconds(lambda step: cameras.rays(index, x, y)), 3),
    }
    figures["ratio"] = round(figures["draw_milliseconds"] / figures["rays_alone_milliseconds"], 2)
    print(figures)
    about = {"scene": Path(arguments.scene).name, "downscale": arguments.downscale, "rays": arguments.rays}
    write_json(arguments.out, {"machine": machine(), **about, **figures})
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
