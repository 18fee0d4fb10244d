"""Attributes that are set together as no photo shows them: a teacher and a student on the built-in scene with two.

    python benchmarks/attributes.py [--teacher conerf] [--student codylin] [--size 96] [--photos 80]
        [--teacher-minutes 15] [--minutes 15] [--finetune-minutes 3] [--views 600] [--runs FOLDER] [--out FILE]

No training photo has both attributes above 0: a quarter of all that can be set. PSNR and masks are those of test views
in that quarter (`unseen`) and of the others (`seen`), for the teacher, the student, and the student fine-tuned.
"""

import argparse
import contextlib
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

from describe import described, machine, parsed
from verbs import trained, verb

from lumigraph.files import read_json, write_json

RESULTS = Path(__file__).parent / "results"


def unseen(attributes: list[float]) -> bool:
    """Whether a view shows what no training photo does."""
    return min(attributes) > 0


def write_scene(folder: Path, size: int, photos: int, test_views: int) -> int:
    """The built-in scene in Blender's format, without the photos that are `unseen`; returns how many are left."""
    from lumigraph.scenes.procedural.builtin import make_scene
    from lumigraph.scenes.procedural.writing import write_blender

    write_blender(make_scene("attributes", photos, 4, test_views, size), folder)
    training = read_json(folder / "transforms_train.json")
    training["frames"] = [frame for frame in training["frames"] if not unseen(frame["attributes"])]
    write_json(folder / "transforms_train.json", training)
    return len(training["frames"])


def figures(run: Path, scene: Path) -> dict[str, Any]:
    """PSNR and errors of the masks of a run, apart for what no photo showed."""
    verb("eval", run, "--json", run / "eval.json", "--scene", scene)
    report = read_json(run / "eval.json")
    frames = read_json(scene / "transforms_test.json")["frames"]
    groups: dict[str, list[dict[str, Any]]] = {"seen": [], "unseen": []}
    for frame, view in zip(frames, report["per_view"], strict=True):
        groups["unseen" if unseen(frame["attributes"]) else "seen"].append(view)
    return {
        "psnr": round(report["psnr"], 3),
        **{name: _figures_of(views) for name, views in groups.items()},
        "seconds_per_view": round(report["seconds_per_view"], 4),
    }


def _figures_of(views: list[dict[str, Any]]) -> dict[str, Any]:
    masks = [view["attribute_masks"] for view in views if "attribute_masks" in view]
    kinds = [(name, key) for name in (masks[0] if masks else {}) for key in masks[0][name]]
    told: dict[str, dict[str, float | None]] = {}
    for name, key in kinds:
        known = [mask[name][key] for mask in masks if mask[name][key] is not None]
        told.setdefault(name, {})[key] = round(mean(known), 4) if known else None
    return {"views": len(views), "psnr": round(mean(view["psnr"] for view in views), 3), "masks": told}


def measure(folder: Path, scene: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains the teacher, distils, fine-tunes, and says what came of each."""
    teacher, student, tuned = folder / "teacher", folder / "student", folder / "tuned"
    stages: dict[str, Any] = {}

    def done(name: str, run: Path, minutes: float) -> None:
        stages[name] = {"minutes": minutes, "steps": trained(run)["step"], **figures(run, scene)}
        print(name, stages[name], flush=True)

    verb(
        "train", arguments.teacher, scene, "--run", teacher,
        "--max-minutes", arguments.teacher_minutes, *arguments.options,
    )  # fmt: skip
    done("teacher", teacher, arguments.teacher_minutes)
    verb("bake", teacher, "--out", folder / "views", "--views", arguments.views)
    verb("distill", arguments.student, folder / "views", "--run", student, "--max-minutes", arguments.minutes)
    done("student", student, arguments.minutes)
    verb("finetune", student, scene, "--run", tuned, "--max-minutes", arguments.finetune_minutes)
    done("fine_tuned", tuned, arguments.finetune_minutes)
    return stages


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("--teacher", default="conerf", help="method of the teacher")
    parser.add_argument("--student", default="codylin", help="method of the student")
    parser.add_argument("--size", type=int, default=96, help="side of the photos in pixels")
    parser.add_argument(
        "--photos", type=int, default=80, help="photos, of which a quarter is not trained with"
    )
    parser.add_argument("--test-views", type=int, default=24, help="views that are measured on")
    parser.add_argument("--teacher-minutes", type=float, default=15, help="minutes of the teacher")
    parser.add_argument("--minutes", type=float, default=15, help="minutes of distillation")
    parser.add_argument("--finetune-minutes", type=float, default=3, help="minutes of fine-tuning")
    parser.add_argument("--views", type=int, default=600, help="pseudo views to bake")
    parser.add_argument("--runs", type=Path, help="folder in which to keep the runs")
    parser.add_argument("--out", type=Path, default=RESULTS / "attributes.json", help="file for the table")
    arguments = parsed(parser)
    with contextlib.ExitStack() as stack:
        folder = arguments.runs or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        scene = folder / "scene"
        photos = write_scene(scene, arguments.size, arguments.photos, arguments.test_views)
        about = {"name": "builtin:attributes", "size": arguments.size, "photos": photos}
        methods = {"teacher": arguments.teacher, "student": arguments.student, "views": arguments.views}
        stages = measure(folder, scene, arguments)
        write_json(
            arguments.out,
            {"machine": machine(), "scene": about, **methods, "options": arguments.options, "stages": stages},
        )
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
