"""What the demo's report page shows: its result files, and pictures of a few held-out views."""

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, UInt8

from lumigraph import __version__
from lumigraph.cli.eval import load_trained_scene
from lumigraph.cli.opening import open_renderer
from lumigraph.evaluation.chart import Curve
from lumigraph.evaluation.metrics import psnr_of
from lumigraph.evaluation.pictures import ERROR_CEILING
from lumigraph.evaluation.report import (
    Comparison,
    Figure,
    Movie,
    Picture,
    Report,
    Table,
    error_picture,
    write_report,
)
from lumigraph.files import read_json
from lumigraph.rendering.background import as_rgba, display_target
from lumigraph.rendering.renderer import Renderer
from lumigraph.scenes.scene import Views
from lumigraph.training.runs import Run

if TYPE_CHECKING:
    from lumigraph.cli.demo import Paths

SHOWN_VIEWS = 3
RENDERERS = ("teacher", "student", "fine-tuned", "bundle")
DEFINED = {
    "psnr": "PSNR",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "seconds_per_view": "One view",
    "pictures": "Pictures",
}
"""The definitions that the page repeats, by the names it has for them."""


def write_demo_report(
    paths: "Paths", commands: Sequence[str], trained: Mapping[str, Path], seconds: float
) -> None:
    """Write the report page of a finished demo: `trained` are its runs by title, `seconds` is what it took."""
    teacher, info = open_renderer(paths.teacher)
    pixels = float(info.cameras["test"].size.prod(dim=-1).float().mean())
    measured = {}
    for name in RENDERERS:
        result = read_json(paths.measured(name))
        measured[name] = {**result, "rays_per_second": pixels / result["seconds_per_view"]}
    student, _ = open_renderer(paths.finetuned)
    views = load_trained_scene(paths.teacher, info, None).split("test")
    report = Report(
        title="From photos to a light field",
        lead=_lead(info.name, len(info.cameras["train"]), seconds),
        figures=_figures(paths, measured),
        comparisons=[_comparison(views, i, teacher, student) for i in _spread(len(views))],
        error_ceiling=ERROR_CEILING,
        curves=_curves(trained),
        curves_caption=_curves_caption(_fine_tuning_gained(paths)),
        table=_table(paths, measured, {"teacher": teacher, "student": student}),
        movie=Movie(path=paths.movie, caption="The student along an orbit without photos."),
        commands=commands,
        notes=_notes(measured["fine-tuned"]),
        footer=f"lumigraph {__version__}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"{platform.machine()}, CPU threads: {torch.get_num_threads()}",
    )
    write_report(paths.report, report)


def _lead(name: str, photos: int, seconds: float) -> str:
    return (
        f"{photos} pictures of the scene “{name}” became a teacher, which integrates a radiance field along every ray, "
        "and then a student, which answers each ray in one evaluation of a small network. "
        f"All of it took {seconds / 60:.1f} minutes on this machine."
    )


def _figures(paths: "Paths", measured: Mapping[str, Any]) -> list[Figure]:
    speed = {name: result["rays_per_second"] for name, result in measured.items()}
    gain = measured["fine-tuned"]["psnr"] - measured["student"]["psnr"]
    fastest = max(speed["fine-tuned"], speed["bundle"])
    return [
        Figure(label="Teacher", value=f"{measured['teacher']['psnr']:.1f} dB", note="PSNR on held-out views"),
        Figure(
            label="Student",
            value=f"{measured['fine-tuned']['psnr']:.1f} dB",
            note=f"{gain:+.2f} dB from fine-tuning on the photos"
            if _fine_tuning_gained(paths)
            else "fine-tuning found no better weights",
        ),
        Figure(
            label="Speed",
            value=f"{fastest / speed['teacher']:.1f}×",
            note=f"{_count(fastest)} rays/s against the teacher’s {_count(speed['teacher'])}",
        ),
        Figure(
            label="Bundle",
            value=_megabytes(_bytes(paths.bundle, "*.onnx")),
            note=f"{measured['bundle']['psnr']:.1f} dB through onnxruntime",
        ),
    ]


def _table(paths: "Paths", measured: Mapping[str, Any], renderers: Mapping[str, Renderer]) -> Table:
    weights = "weights.safetensors"
    small = _parameters(renderers["student"])
    lines = [
        ("Teacher (ngp)", "teacher", _parameters(renderers["teacher"]), _bytes(paths.teacher, weights)),
        ("Student (r2l), distilled", "student", small, _bytes(paths.student, weights)),
        ("Student after fine-tuning", "fine-tuned", small, _bytes(paths.finetuned, weights)),
        ("Bundle (onnxruntime)", "bundle", small, _bytes(paths.bundle, "*.onnx")),
    ]
    # SSIM and LPIPS need pictures of some size, LPIPS its weights as well.
    metrics = [
        name for name in ("ssim", "lpips") if all(result[name] is not None for result in measured.values())
    ]
    rows = []
    for label, name, parameters, size in lines:
        result = measured[name]
        rows.append(
            [
                label,
                f"{result['psnr']:.2f} dB",
                *(f"{result[metric]:.4f}" for metric in metrics),
                f"{result['rays_per_second']:,.0f}",
                f"{1000 * result['seconds_per_view']:,.0f} ms",
                f"{parameters:,}",
                _megabytes(size),
            ]
        )
    header = [
        "",
        "PSNR",
        *(metric.upper() for metric in metrics),
        "rays/s",
        "one view",
        "parameters",
        "on disk",
    ]
    return Table(header=header, rows=rows)


def _comparison(views: Views, index: int, teacher: Renderer, student: Renderer) -> Comparison:
    """A held-out view: the photo, both renderings, and under each its error."""
    truth = display_target(as_rgba(views.image(index)), teacher.background).numpy()
    camera = views.cameras[index : index + 1]
    shown, errors = [Picture(label="Photo", rgb=_eight_bits(truth))], []
    for label, renderer in (("Teacher", teacher), ("Student", student)):
        image = renderer.view(camera).rgb.float().clamp(0, 1).cpu().numpy()
        caption = f"{psnr_of(float(np.square(image - truth).mean())):.1f} dB"
        shown.append(Picture(label=label, rgb=_eight_bits(image), caption=caption))
        errors.append(
            Picture(
                label=f"{label}’s error",
                rgb=error_picture(image, truth, ERROR_CEILING),
                caption=f"mean {np.abs(image - truth).mean():.3f}",
            )
        )
    return Comparison(title=views.names[index], pictures=[*shown, *errors])


def _notes(result: Mapping[str, Any]) -> list[str]:
    return [
        "Everything is measured on views that no training step saw and that chose no checkpoint, apart from the "
        "curves over time: those are measured at some thousand fixed pixels of validation views (of training views, "
        "where a scene has no others).",
        "Rays per second count whole views of the held-out cameras, one after the other, with all threads.",
        "Errors are absolute differences to the photo, averaged over the three channels.",
        *(f"{title}: {result['definitions'][name]}." for name, title in DEFINED.items()),
    ]


def _spread(count: int) -> list[int]:
    """Up to `SHOWN_VIEWS` view numbers, spread over all."""
    return np.unique(np.linspace(0, count - 1, min(SHOWN_VIEWS, count)).round().astype(int)).tolist()


def _curves(trained: Mapping[str, Path]) -> list[Curve]:
    """PSNR of the stages over time, each beginning where the one before it ended."""
    curves, start = [], 0.0
    for label, path in trained.items():
        results = Run.open(path).results
        curves.append(stage_curve(label, results, start))
        start += results["training"]["seconds"] / 60
    return curves


def stage_curve(label: str, results: Mapping[str, Any], start: float) -> Curve:
    """PSNR over time of the run with these results, which began to train at minute `start`.

    A run with early stopping ends by measuring the weights it put back. Those are older than their measurement, so that
    it is no point of the curve: the point at which training had these weights is marked instead.
    """
    training = results["training"]
    known = [entry for entry in training["history"] if entry["val_psnr"] is not None]
    kept = None
    if training["best_step"] is not None:
        known = known[:-1]
        fine_tuning = results["finetune"]
        step = fine_tuning["best_step" if _gained(fine_tuning) else "first_step"]
        kept = max(index for index, entry in enumerate(known) if entry["step"] == step)
    minutes = [start + entry["seconds"] / 60 for entry in known]
    return Curve(label=label, minutes=minutes, psnr=[entry["val_psnr"] for entry in known], kept=kept)


def _curves_caption(gained: bool) -> str:
    outcome = (
        "What it learnt after those, if anything, is dashed: it was thrown away."
        if gained
        else "They got no better than they were at its start, so the student’s old weights (ring) were kept, and what "
        "fine-tuning had learnt (dashed) was thrown away."
    )
    return (
        "Teacher and fine-tuning are measured on validation photos, the student on renderings of the teacher that it "
        "did not learn from. Fine-tuning starts from the student’s weights and keeps those that do best on the "
        f"validation photos. {outcome}"
    )


def _fine_tuning_gained(paths: "Paths") -> bool:
    return _gained(Run.open(paths.finetuned).results["finetune"])


def _gained(fine_tuning: Mapping[str, Any]) -> bool:
    """Whether the validation views came out better with other weights than those that fine-tuning started from."""
    return fine_tuning["best_step"] != fine_tuning["first_step"] and (
        fine_tuning["val_psnr_after"] > fine_tuning["val_psnr_before"]
    )


def _eight_bits(image: Float[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    return (image * 255).round().astype(np.uint8)


def _parameters(renderer: Renderer) -> int:
    return sum(parameter.numel() for parameter in renderer.parameters())


def _bytes(folder: Path, pattern: str) -> int:
    """Bytes of the largest file: a bundle holds the same network more than once, in different forms."""
    return max(path.stat().st_size for path in folder.glob(pattern))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.2f} MB" if size < 10e6 else f"{size / 1e6:.1f} MB"


def _count(number: float) -> str:
    return f"{number / 1e6:.1f} M" if number >= 1e6 else f"{number / 1e3:.0f} k"
