"""`lumigraph finetune RUN2 SCENE`: a student on photos."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lumigraph.cli.export import check_export, export_finished
from lumigraph.cli.parsing import Positional, parse
from lumigraph.cli.train import report
from lumigraph.configs.common import Device, Precision, TrainOptions
from lumigraph.errors import LumigraphError

if TYPE_CHECKING:
    from lumigraph.distillation.origins import Origin
    from lumigraph.training.runs import Run


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train a distilled student further, on photos, until the validation views no longer gain.

    The best weights on the validation views are kept; test views are never looked at.
    """

    student: Positional[Path]
    """Run folder of the student."""
    scene: Positional[str]
    """Scene folder, or builtin:still, builtin:moving, builtin:moving-split or builtin:attributes."""
    run: Path | None = None
    """Run folder to write (None: the student itself takes the new weights)."""
    downscale: int | None = None
    """Reduce the photos by this factor (None: as for the teacher)."""
    pseudo: Path | None = None
    """Teacher's run or folder of `bake` whose views are mixed in, so that what no photo shows is not forgotten."""
    pseudo_ratio: float = 0.9
    """Part of each batch, of whole pictures part of the steps, that comes from --pseudo."""
    lr: float | None = None
    """Learning rate (None: where distillation's has decayed to)."""
    check_every: int = 250
    """Steps from one look at the validation views to the next."""
    patience: int = 8
    """Looks without gain after which training stops."""
    max_steps: int | None = None
    """Stop after so many steps (None: 20000, unless --max-minutes is given)."""
    max_minutes: float | None = None
    """Stop after so many minutes of training."""
    seed: int = 0
    """Seed of everything random."""
    device: Device = "auto"
    """auto, cpu, cuda or cuda:N."""
    devices: int = 1
    """How many processes train together."""
    precision: Precision = "auto"
    """Arithmetic of the network; auto takes bfloat16 where the processor has it."""
    resume: bool = False
    """Go on from the last checkpoint of the fine-tuning; start it where there is none."""
    overwrite: bool = False
    """Replace an earlier fine-tuning."""
    export: Path | None = None
    """Write a bundle of the finished student to this folder, as `lumigraph export` does where nothing else is asked."""


_DEFAULT_STEPS = 20_000


def main(argv: list[str]) -> None:
    """Parses the command line and fine-tunes."""
    arguments = parse(argv, Arguments, prog="lumigraph finetune")
    for name in ("check_every", "patience", "lr"):
        value = getattr(arguments, name)
        if value is not None and not value > 0:
            raise LumigraphError(f"--{name.replace('_', '-')} must be positive, not {value}")
    if not 0 <= arguments.pseudo_ratio <= 1:
        raise LumigraphError(f"--pseudo-ratio must lie in 0..1, not {arguments.pseudo_ratio}")
    # Imported here: --help has to be quick, and these bring torch.
    from lumigraph.configs.registry import method_entry
    from lumigraph.distillation.finetuning import finetune
    from lumigraph.rendering.machine import set_threads
    from lumigraph.scenes.load import load_scene_like
    from lumigraph.training.fit import EarlyStopping
    from lumigraph.training.runs import Run, is_packed

    set_threads(arguments.devices)
    student = Run.open(arguments.student)
    if is_packed(arguments.student) and arguments.run is None:
        raise LumigraphError(
            "a packed run cannot take new weights", where=arguments.student, todo="Name another with --run"
        )
    if method_entry(student.method).kind != "student":
        raise LumigraphError(
            f"{student.method} is a teacher, which learns from photos in the first place",
            where=arguments.student,
            todo="Go on with it: lumigraph train --resume",
        )
    options = _options(arguments)
    check_export(student.method, arguments.export, options.run, options.overwrite)
    student.warn_if_unfinished()
    scene = load_scene_like(student.info, arguments.scene, arguments.downscale)
    rule = EarlyStopping(every=arguments.check_every, patience=arguments.patience)
    pseudo = None if arguments.pseudo is None else _pseudo(arguments.pseudo, student, options)
    done = finetune(student, scene, options, rule, arguments.lr, pseudo, arguments.pseudo_ratio)
    report(done.run, done.result, None)
    held = ", held out of the training photos" if done.held_from_training else ""
    sys.stdout.write(
        f"validation photos{held}: {done.val_psnr_before:.2f} dB before, {done.val_psnr_after:.2f} dB after\n"
    )
    if not done.gained:
        sys.stdout.write("no step made them better: the student keeps the weights it had\n")
    export_finished(Run.open(options.run), arguments.export, options.overwrite)


def _pseudo(place: Path, student: "Run", options: TrainOptions) -> "Origin":
    """What a folder of pseudo views holds, or a teacher answers."""
    from lumigraph.configs.registry import load_renderer_class
    from lumigraph.distillation import origins
    from lumigraph.training.runs import is_packed

    if not ((place / "config.json").is_file() or is_packed(place)):
        return origins.from_shards(place, options.seed)
    method = load_renderer_class(student.method)
    whole = method.whole_views
    per_step = student.config.pictures if whole else student.config.rays
    live = origins.LiveOptions()
    return origins.from_teacher(
        place,
        per_step,
        options.seed,
        live,
        options.device,
        options.precision,
        attributes="attributes" in (*method.conditions, *method.needs),
        whole_views=whole,
    )


def _options(arguments: Arguments) -> TrainOptions:
    steps = arguments.max_steps
    if steps is None and arguments.max_minutes is None:
        steps = _DEFAULT_STEPS
    return TrainOptions(
        run=arguments.run or arguments.student,
        max_steps=steps,
        max_minutes=arguments.max_minutes,
        seed=arguments.seed,
        device=arguments.device,
        devices=arguments.devices,
        precision=arguments.precision,
        resume=arguments.resume,
        overwrite=arguments.overwrite,
    )
