"""What an exported student weighs and costs to run: size of the image graph, milliseconds per frame in onnxruntime and
in Chromium's WebAssembly, PSNR against the student in torch and against its teacher, in float32, float16 and int8.

    python benchmarks/export_forms.py RUN [RUN ...] [--teacher RUN] [--browser] [--precisions float32 float16 int8]
        [--frames 20] [--views 3] [--out FILE]

RUN is a student's; several are the rungs of a ladder. A frame has the size of the student's pictures. A precision that
is refused because the student does not stand it is listed with the reason. The browser needs `make player` and a
Chromium on the PATH; time there is that which the page reads out, from the pose to pixels. Nothing else should run
beside it. `plot.py FILE --x browser_ms_per_frame --y psnr_to_teacher --curve precision` draws the file.
"""

import argparse
import json
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from describe import described, machine, parsed

from lumigraph.errors import LumigraphError
from lumigraph.export.bundle import Shape, evenly_spread, write_bundle
from lumigraph.export.bundle_renderer import BundleRenderer
from lumigraph.files import write_json
from lumigraph.rendering.machine import available_cores, set_threads
from lumigraph.rendering.renderer import Renderer
from lumigraph.training.runs import Run
from lumigraph.viewers.player import site_of
from lumigraph.viewers.server import serving

WEB = Path(__file__).parents[1] / "web"

RESULTS = Path(__file__).parent / "results"
PRECISIONS = ("float32", "float16", "int8")


def frame_times(bundle: BundleRenderer, frames: int) -> list[float]:
    """Milliseconds of each frame, from cameras in turn, after two that do not count."""
    cameras = bundle.info.cameras.get("test", bundle.info.cameras["train"])
    size = [bundle.manifest["camera"][side] for side in ("width", "height")]
    found = []
    for frame in range(frames + 2):
        camera = cameras[frame % len(cameras)].resized(*size)
        start = time.perf_counter()
        bundle.view(camera)
        found.append(1000 * (time.perf_counter() - start))
    return found[2:]


def browser_times(bundle: Path, frames: int) -> list[float]:
    """Milliseconds of each frame in headless Chromium on all cores, as the camera goes round, after two that do not
    count."""
    turned = [{"do": "key", "name": "ArrowRight"}, {"do": "settle"}, {"do": "look", "on": "#readout"}]
    steps = [{"do": "size", "cores": available_cores()}, {"do": "settle"}, *turned * (frames + 2)]
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with serving(site_of([bundle])) as address:
        command = ["node", "browser/drive.mjs", chromium, f"{address}?backend=wasm", json.dumps(steps)]
        done = subprocess.run(command, cwd=WEB, capture_output=True, text=True, check=True)
    said = [look["text"] for look in json.loads(done.stdout)["found"][4::3]]
    return [float(re.search(r" in ([\d.]+) ms ", text)[1]) for text in said][2:]  # pyright: ignore


def psnr_to(teacher: Renderer, bundle: BundleRenderer, views: int) -> float:
    """PSNR [dB] of the bundle's pictures where the teacher's are the truth, over held-out cameras."""
    errors, cameras = [], evenly_spread(bundle.info, views)
    for index in range(len(cameras)):
        camera = cameras[index]
        wanted = teacher.view(camera).rgb.clamp(0, 1)
        errors.append((bundle.view(camera).rgb - wanted).square().mean())
    return float(-10 * torch.stack(errors).mean().log10())


def measured(run: Run, precision: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row of the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "bundle"
        try:
            manifest = write_bundle(
                run, folder, shape=Shape(precision=precision), check_views=arguments.views
            )
        except LumigraphError as refused:
            return {"precision": precision, "refused": refused.what}
        bundle = BundleRenderer(folder)
        times = {"ms_per_frame": frame_times(bundle, arguments.frames)}
        if arguments.browser:
            times["browser_ms_per_frame"] = browser_times(folder, arguments.frames)
        to_teacher = None
        if arguments.teacher is not None:
            to_teacher = round(psnr_to(arguments.teacher, bundle, arguments.views), 2)
    parity = manifest["parity"]["view"]
    return {
        "precision": precision,
        "bytes": manifest["models"]["view"]["bytes"],
        **{name: round(statistics.median(values), 2) for name, values in times.items()},
        "psnr_to_teacher": to_teacher,
        "psnr_to_student": round(parity["psnr"], 2),
        "max_abs_error": parity["max_abs_error"],
        "size": [manifest["camera"]["width"], manifest["camera"]["height"]],
        **manifest["network"],
    }


def renderer_of(folder: str) -> Renderer:
    return Run.open(Path(folder)).load_renderer("cpu").eval()


@torch.no_grad()
def main() -> None:
    parser = described(__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders of students")
    parser.add_argument(
        "--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS), help="of the network"
    )
    parser.add_argument(
        "--teacher", type=renderer_of, default=None, help="run of the teacher, to compare with"
    )
    parser.add_argument("--browser", action="store_true", help="measure in Chromium as well")
    parser.add_argument("--frames", type=int, default=20, help="frames whose median is told")
    parser.add_argument("--views", type=int, default=3, help="cameras on which PSNR is measured")
    parser.add_argument("--out", type=Path, default=RESULTS / "export_forms.json", help="file for the table")
    arguments = parsed(parser)
    set_threads()
    rows: list[dict[str, Any]] = []
    opened = [Run.open(folder) for folder in arguments.runs]
    print(
        f"{'student':24} {'precision':9} {'MB':>7} {'ms/frame':>9} {'browser':>9} {'to student':>11} {'to teacher':>11}"
    )
    for run in opened:
        for precision in arguments.precisions:
            row = {"run": run.path.name, "method": run.method, **measured(run, precision, arguments)}
            rows.append(row)
            told = f"{run.path.name:24} {precision:9} "
            if "refused" in row:
                print(f"{told}refused: {row['refused']}", flush=True)
                continue
            in_browser, to_teacher = row.get("browser_ms_per_frame"), row["psnr_to_teacher"]
            told += f"{row['bytes'] / 1e6:7.2f} {row['ms_per_frame']:9.1f} "
            told += (
                f"{'-' if in_browser is None else f'{in_browser:.1f}':>9} {row['psnr_to_student']:8.1f} dB "
            )
            print(f"{told}{'-' if to_teacher is None else f'{to_teacher:.2f} dB':>11}", flush=True)
    info = opened[0].info
    scene = {"name": info.name, "downscale": info.downscale}
    write_json(arguments.out, {"machine": machine(), "scene": scene, "runs": rows})
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
