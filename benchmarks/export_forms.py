"""What an exported student weighs and costs to run: size of the image graph, milliseconds per frame in onnxruntime, and
PSNR against the student in torch, in float32, float16 and int8.

    python benchmarks/export_forms.py RUN [RUN ...] [--precisions float32 float16 int8] [--frames 20] [--views 3]
        [--out FILE]

RUN is a student's; several are the rungs of a ladder. A frame has the size of the student's pictures. A precision that
is refused because the student does not stand it is listed with the reason. Nothing else should run beside it.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from describe import described, machine, parsed

from lumigraph.errors import LumigraphError
from lumigraph.export.bundle import Shape, write_bundle
from lumigraph.export.bundle_renderer import BundleRenderer
from lumigraph.files import write_json
from lumigraph.rendering.machine import set_threads
from lumigraph.training.runs import Run

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
        times = frame_times(BundleRenderer(folder), arguments.frames)
    parity = manifest["parity"]["view"]
    return {
        "precision": precision,
        "bytes": manifest["models"]["view"]["bytes"],
        "ms_per_frame": round(statistics.median(times), 2),
        "psnr_to_student": round(parity["psnr"], 2),
        "max_abs_error": parity["max_abs_error"],
        "size": [manifest["camera"]["width"], manifest["camera"]["height"]],
        **manifest["network"],
    }


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders of students")
    parser.add_argument(
        "--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS), help="of the network"
    )
    parser.add_argument("--frames", type=int, default=20, help="frames whose median is told")
    parser.add_argument("--views", type=int, default=3, help="cameras on which PSNR is measured")
    parser.add_argument("--out", type=Path, default=RESULTS / "export_forms.json", help="file for the table")
    arguments = parsed(parser)
    set_threads()
    rows: list[dict[str, Any]] = []
    print(f"{'student':24} {'precision':9} {'MB':>7} {'ms/frame':>9} {'PSNR to student':>16}")
    for folder in arguments.runs:
        run = Run.open(folder)
        for precision in arguments.precisions:
            row = {"run": folder.name, "method": run.method, **measured(run, precision, arguments)}
            rows.append(row)
            told = f"{folder.name:24} {precision:9} "
            if "refused" in row:
                print(f"{told}refused: {row['refused']}", flush=True)
                continue
            print(
                f"{told}{row['bytes'] / 1e6:7.2f} {row['ms_per_frame']:9.1f} {row['psnr_to_student']:13.1f} dB",
                flush=True,
            )
    write_json(arguments.out, {"machine": machine(), "threads": torch.get_num_threads(), "rows": rows})
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
