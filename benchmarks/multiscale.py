"""What it is worth to see cones: Mip-NeRF on views of several scales, against the same method that looks at points.

    python benchmarks/multiscale.py SCENE [--downscale 4] [--scales 4] [--minutes 3] [--seed 0] [--runs FOLDER]
        [--variants cones points by-area points-by-area alike points-alike nerf ngp ngp-cones] [--out FILE]
        [-- OPTIONS OF train mipnerf]

All train for as long, on the same views; figures are those of the test views, scale by scale. `cones` is the method as
it is, in whose loss a pixel counts by its side, `points` the same without integration. In `by-area` a pixel counts by
its area, as published, in `alike` all count alike; `points-alike` is NeRF with the samples and the grid of `cones`, and
so of its speed. `nerf` and `ngp` are the methods of those names, which look at points, `ngp-cones` the latter with
cones.
"""

import contextlib
import tempfile
from pathlib import Path
from typing import Any

from describe import described, machine, parsed
from verbs import trained, verb

from lumigraph.files import read_json, write_json

RESULTS = Path(__file__).parent / "results"
VARIANTS = {
    "cones": ("mipnerf", []),
    "points": ("mipnerf", ["--no-integrate"]),
    "by-area": ("mipnerf", ["--area-power", "1"]),
    "points-by-area": ("mipnerf", ["--no-integrate", "--area-power", "1"]),
    "alike": ("mipnerf", ["--area-power", "0"]),
    "points-alike": ("mipnerf", ["--no-integrate", "--area-power", "0"]),
    "nerf": ("nerf", []),
    "ngp": ("ngp", []),
    "ngp-cones": ("ngp", ["--cones"]),
}
"""Method and its own options."""


def measure(name: str, run: Path, arguments: Any) -> dict[str, Any]:
    """Trains one variant in the folder `run`, evaluates, and says what came of it."""
    method, own = VARIANTS[name]
    peak = verb(
        "train", method, arguments.scene, "--run", run, "--downscale", arguments.downscale,
        "--scales", arguments.scales, "--max-minutes", arguments.minutes, "--seed", arguments.seed,
        *own, *(arguments.options if method == "mipnerf" else []),
    )  # fmt: skip
    verb("eval", run, "--json", run / "eval.json")
    result, training = read_json(run / "eval.json"), trained(run)
    keys = ("psnr", "ssim", "lpips", "average_error", "average_error_without_lpips")
    return {
        "variant": name,
        "options": own,
        **{key: result[key] for key in keys},
        "scales": [{key: row[key] for key in ("scale", "views", *keys)} for row in result["scales"]],
        "steps": training["step"],
        "rays_per_second": training["usual_rays_per_second"],
        "training_seconds": round(training["seconds"], 1),
        "seconds_per_view": result["seconds_per_view"],
        "peak_memory_mb": peak,
    }


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("scene", help="scene folder")
    parser.add_argument("--downscale", type=int, default=4, help="reduce the photos by this factor first")
    parser.add_argument("--scales", type=int, default=4, help="number of sizes, each half of the one before")
    parser.add_argument("--minutes", type=float, default=3, help="minutes of each training")
    parser.add_argument("--seed", type=int, default=0, help="seed of the trainings")
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=VARIANTS,
        default=["cones", "points"],
        help="variants of the method to compare",
    )
    parser.add_argument("--runs", type=Path, help="folder in which to keep the runs")
    parser.add_argument("--out", type=Path, default=RESULTS / "multiscale.json", help="file for the table")
    arguments = parsed(parser)
    scene = {"name": Path(arguments.scene).name, "downscale": arguments.downscale, "scales": arguments.scales}
    rows = []
    with contextlib.ExitStack() as stack:
        folder = arguments.runs or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name in arguments.variants:
            rows.append(measure(name, folder / f"{scene['name']}-{name}", arguments))
            print(
                name,
                *(f"1/{1 / row['scale']:g} {row['psnr']:.2f} dB" for row in rows[-1]["scales"]),
                flush=True,
            )
            about = {"minutes": arguments.minutes, "seed": arguments.seed, "options": arguments.options}
            write_json(arguments.out, {"machine": machine(), "scene": scene, **about, "runs": rows})
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
