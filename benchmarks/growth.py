"""How the cost of training a teacher grows with the size of the photos and with their number.

    python benchmarks/growth.py SCENE [--downscales 8 4 2] [--views 10 25 50] [--minutes 0.5] [--out FILE]

SCENE is a folder in the Blender format. Each row is a run of its own: rays per second (the median of the second half,
when the empty space is known), peak memory of the whole process, and the seconds that are not training.
"""

import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from describe import described, machine
from verbs import trained, verb

from lumigraph.files import read_json, write_json
from lumigraph.training.runs import Run

RESULTS = Path(__file__).parent / "results"


def with_fewer_photos(scene: Path, views: int, folder: Path) -> Path:
    """A copy of the scene with `views` training photos, evenly chosen. (Links would leave the folder: no scene may.)"""
    for split in ("train", "val", "test"):
        shutil.copytree(scene / split, folder / split)
        contents = read_json(scene / f"transforms_{split}.json")
        if split == "train":
            frames = contents["frames"]
            contents["frames"] = [frames[i * len(frames) // views] for i in range(views)]
        (folder / f"transforms_{split}.json").write_text(json.dumps(contents))
    return folder


def measure(scene: Path, downscale: int, views: int, minutes: float) -> dict[str, Any]:
    """One row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        fewer = Path(folder) / "scene"
        fewer.mkdir()
        run = Path(folder) / "run"
        start = time.perf_counter()
        peak = verb(
            "train", "ngp", with_fewer_photos(scene, views, fewer), "--run", run,
            "--downscale", downscale, "--max-minutes", minutes,
        )  # fmt: skip
        wall = time.perf_counter() - start
        training = trained(run)
        width, height = Run.open(run).info.cameras["train"].size[0].tolist()
    return {
        "width": width,
        "height": height,
        "views": views,
        "rays_per_second": training["usual_rays_per_second"],
        "steps": training["step"],
        "peak_memory_mb": peak,
        "seconds_beside_training": round(wall - training["seconds"], 1),
        "val_psnr": training["val_psnr"],
    }


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("scene", type=Path, help="scene folder in the Blender format")
    parser.add_argument(
        "--downscales",
        type=int,
        nargs="+",
        default=[8, 4, 2],
        help="factors to reduce the photos by, to try with all photos",
    )
    parser.add_argument(
        "--views",
        type=int,
        nargs="+",
        default=[10, 25, 50],
        help="numbers of photos to try, at the middle one of these factors",
    )
    parser.add_argument("--minutes", type=float, default=0.5, help="minutes of each training")
    parser.add_argument("--out", type=Path, default=RESULTS / "growth.json", help="file for the table")
    arguments = parser.parse_args()
    whole = len(read_json(arguments.scene / "transforms_train.json")["frames"])
    middle = arguments.downscales[len(arguments.downscales) // 2]
    cases = [(downscale, whole) for downscale in arguments.downscales]
    cases += [(middle, views) for views in arguments.views if views < whole]
    rows = []
    for downscale, views in cases:
        rows.append(measure(arguments.scene, downscale, views, arguments.minutes))
        print(rows[-1], flush=True)
    write_json(
        arguments.out,
        {"machine": machine(), "scene": arguments.scene.name, "minutes": arguments.minutes, "runs": rows},
    )
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
