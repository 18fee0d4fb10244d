"""Training: `fit` trains a renderer in a run folder, whatever it is and wherever its rays come from."""

import logging
import shutil
import warnings
from dataclasses import asdict, dataclass, field
from typing import Any

import psutil
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy

from lumigraph.configs.common import TrainOptions
from lumigraph.errors import LumigraphError
from lumigraph.files import io_errors, require_disk
from lumigraph.rendering.machine import (
    available_memory,
    process_rank,
    resolve_device,
    set_threads,
)
from lumigraph.rendering.renderer import Renderer
from lumigraph.training.checkpoints import KEPT, Checkpoint, list_checkpoints, newest_checkpoint
from lumigraph.training.interrupts import Interrupts
from lumigraph.training.progress import ProgressLine, clock_time
from lumigraph.training.runs import Run, load_weights
from lumigraph.training.sources import RaySource
from lumigraph.training.task import Budget, RayTask
from lumigraph.training.validation import ValidationViews, of_known_state
from lumigraph.training.watch import BestWeights, Cadence, EarlyStopping, Steps, Watch

__all__ = ["Cadence", "EarlyStopping", "TrainResult", "fit"]

FAR_BEYOND = 1.5
"""Training is refused when the estimated memory is this many times what is available."""


@dataclass(frozen=True)
class TrainResult:
    """How training ended. `reason`: "steps", "time", "no more gain", "interrupted"; PSNR in dB, None if
    unknown."""

    step: int
    seconds: float
    reason: str
    train_psnr: float | None = None
    val_psnr: float | None = None
    rays_per_second: float = 0.0
    held_out: bool = True
    """Whether `val_psnr` is that of views which training never saw; else it is that of training views."""
    best_step: int | None = None
    """With early stopping: the step whose weights were kept."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """Measurements over time: step, seconds, train_psnr, val_psnr, rays_per_second."""

    @property
    def interrupted(self) -> bool:
        return self.reason == "interrupted"


def fit(
    renderer: Renderer,
    source: RaySource,
    run: Run,
    options: TrainOptions,
    validation: ValidationViews | None = None,
    *,
    held_out: bool = True,
    initial_step: int = 0,
    early_stopping: EarlyStopping | None = None,
    cadence: Cadence | None = None,
    interrupts: Interrupts | None = None,
) -> TrainResult:
    """Trains `renderer` in the run folder until the budget of `options` is spent, going on from the newest
    intact checkpoint with `options.resume`.

    The first Ctrl-C saves and ends with reason "interrupted", the second ends the process; while photos are read there
    is nothing to save, and it is raised. On return the renderer is on its device in evaluation mode, and the run holds
    its weights, a checkpoint, and `results["training"]`.

    Args:
        validation: views to measure and draw; without them training is only watched on its own rays. Of those whose
            attributes are not known nothing can be told, and they are left out.
        held_out: whether training never sees the pixels of `validation`; where it does, nothing is called validation.
        initial_step: number of the first step (fine-tuning goes on counting); `max_steps` counts from it.
        early_stopping: needs `validation`; the best weights are put back at the end.

    Raises:
        LumigraphError: no budget, not enough memory, a loss that is not finite, a collapse, a disk that
        fails, or
            nothing intact to resume from.
    """
    validation = of_known_state(renderer, validation)
    if early_stopping is not None and validation is None:
        raise LumigraphError(
            "early stopping needs validation views", where=run.path, todo="Use a scene with a val split"
        )
    device = resolve_device(options.device)
    set_threads(options.devices)
    quiet = process_rank() > 0
    line = ProgressLine(quiet=quiet)
    budget = make_budget(run, options, initial_step)
    begun = None
    if options.resume or quiet:
        begun = newest_checkpoint(run.checkpoints, lambda message: line.say(f"warning: {message}"))
    if begun is not None:
        load_weights(renderer, begun.part("renderer"), where=run.checkpoints)
        if begun.step > initial_step:
            line.say(f"going on from step {begun.step:,} ({clock_time(begun.seconds)} of training)")
        else:
            # Its optimiser comes from what was trained before, whose time does not count here.
            line.say(f"beginning at step {begun.step:,}")
        if (spent := budget.spent(begun.step, begun.seconds)) is not None:
            return _nothing_left(renderer, run, begun, spent, device, line)
    task = RayTask(renderer, source, budget, options.seed, begun)
    interrupts = interrupts or Interrupts()
    best = None if early_stopping is None else BestWeights(early_stopping)
    if best is not None and begun is not None and "best" in begun.numbers:
        best.restore(begun.numbers["best"], begun.part("best"))
    watch = Watch(
        run,
        task,
        line,
        interrupts,
        cadence=cadence or Cadence(),
        validation=validation,
        held_out=held_out,
        best=best,
        history=[] if begun is None else list(begun.numbers.get("history", [])),
    )
    if not quiet:
        _unfinish(run)
    try:
        _prepare(renderer, source, run, options, device, line)
        _carry_out(task, watch, device, options.devices)
    except (LumigraphError, KeyboardInterrupt):
        if not quiet and not task.begun:
            _discard(run)
        raise
    finally:
        line.close()
    renderer.to(device).eval()
    return _result(task, watch)


def _carry_out(task: RayTask, watch: Watch, device: torch.device, devices: int) -> None:
    """Trains, and on the first process writes what came of it."""
    if not task.begun:
        torch.manual_seed(task.seed)
    if devices == 1:  # several processes read all at once, when the others have been started
        _read_photos(task.source, watch.run)
    try:
        with watch.interrupts.watching(), io_errors(watch.run.path):
            _train(task, watch, device, devices)
            if process_rank() == 0:
                _finish(task, watch)
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise LumigraphError(
            "memory ran out during training",
            where=watch.run.path,
            todo="Use fewer rays or pictures per step, a smaller preset, or a larger --downscale; --resume goes on",
        ) from error


def _read_photos(source: RaySource, run: Run) -> None:
    """Reads them before signals are taken over, so that Ctrl-C ends a long reading at once."""
    try:
        with io_errors(run.info.source):
            source.read_photos(quiet=False)
    except MemoryError as error:
        raise LumigraphError(
            "memory ran out while photos were read",
            where=run.info.source,
            todo="Use a larger --downscale, or fewer photos (--views)",
        ) from error


def _discard(run: Run) -> None:
    """Removes a run in which no step was made: what training was given was at fault, and nothing half-written stays."""
    if not run.weights.exists() and not list_checkpoints(run.checkpoints):
        shutil.rmtree(run.path, ignore_errors=True)


def _prepare(
    renderer: Renderer,
    source: RaySource,
    run: Run,
    options: TrainOptions,
    device: torch.device,
    line: ProgressLine,
) -> None:
    """Device and arithmetic; whether memory and disk suffice."""
    renderer.to(device)
    renderer.set_precision(options.precision)
    check_memory(renderer, source, device, line)
    check_disk(renderer, run)
    precision = str(renderer.compute_dtype).removeprefix("torch.")
    if process_rank() == 0:
        run.update_results("machine", {"device": device.type, "precision": precision})
    line.say(
        f"computing in {precision} on {device}; reading photos and preparing kernels, which is not counted as training"
    )
    if options.max_steps is None and options.max_minutes is None:
        steps = run.config.training_steps
        line.say(
            f"{steps:,} steps, the schedule of this {run.method}; --max-minutes N or --max-steps N ends it sooner"
        )


def make_budget(run: Run, options: TrainOptions, initial_step: int) -> Budget:
    """The budget of the options; the config's `training_steps` where they give none."""
    steps, minutes = options.max_steps, options.max_minutes
    if steps is None and minutes is None:
        steps = run.config.training_steps
    return Budget(
        first_step=initial_step,
        last_step=None if steps is None else initial_step + steps,
        seconds=None if minutes is None else 60 * minutes,
        schedule_steps=run.config.training_steps,
    )


def check_memory(renderer: Renderer, source: RaySource, device: torch.device, line: ProgressLine) -> None:
    """Prints the memory that training is going to take beside what is available; refuses when far beyond.

    On a CPU that is the process as it stands, training, and the images; on an accelerator, training alone.
    """
    on_cpu = device.type == "cpu"
    if renderer.whole_views:
        per_step = renderer.pictures_per_step * source.picture_pixels
    else:
        per_step = renderer.rays_per_step
    training, images = renderer.memory_estimate(per_step), source.nbytes
    needed = training + (images if on_cpu else 0)
    already = psutil.Process().memory_info().rss if on_cpu else 0
    available = available_memory(device)
    text = (
        f"memory: about {(already + needed) / 1e9:.1f} GB needed, "
        f"{(already + available) / 1e9:.1f} GB available"
    )
    if needed > FAR_BEYOND * available:
        raise LumigraphError(
            text,
            todo="Use fewer rays or pictures per step, a smaller preset, a larger --downscale, or a larger machine",
        )
    line.say(text if needed <= available else f"warning: {text}; training may run out of it")


def check_disk(renderer: Renderer, run: Run) -> None:
    """Raises when the disk has no room for the checkpoints (weights and two Adam moments, one more than is
    kept)."""
    weights = sum(tensor.nbytes for tensor in renderer.state_dict().values())
    require_disk(run.path, 3 * weights * (KEPT + 1) + weights)


def _unfinish(run: Run) -> None:
    """A run whose results say that it is finished must not say so while it trains on."""
    if run.finished:
        run.update_results("training", {**run.results["training"], "finished": False})


def _train(task: RayTask, watch: Watch, device: torch.device, devices: int) -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    one_of_many: int | list[int] = devices
    if device.type == "cuda" and device.index is not None and devices == 1:
        one_of_many = [device.index]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        trainer = Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=one_of_many,
            # Some weights take no part in some steps (a refinement that starts later).
            strategy=DDPStrategy(find_unused_parameters=True) if devices > 1 else "auto",
            # Batch norm over the pictures of all processes. On a CPU torch has none such: there each normalises by its
            # own pictures, and the statistics are averaged (`task.average_statistics`).
            sync_batchnorm=devices > 1 and device.type == "cuda",
            max_epochs=1,
            max_steps=-1,
            logger=False,
            callbacks=[watch],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
        )
        trainer.fit(task, train_dataloaders=Steps())


def _finish(task: RayTask, watch: Watch) -> None:
    """After the last step: checkpoint, weights, results, a last picture."""
    run, best = watch.run, watch.best
    watch.line.close(watch.status())
    watch.save()
    if best is not None and watch.reason != "interrupted":
        watch.offer()  # the steps since the last look count as well
        load_weights(task.renderer, best.tensors, where=run.path)
    watch.last_measurement()
    run.save_weights(task.renderer, task.step)
    result = asdict(_result(task, watch))
    finished = watch.reason != "interrupted"
    run.update_results("training", {"finished": finished, **result, "chore_seconds": watch.rounded_chores()})
    if finished:
        watch.write_preview(seconds=2.0)


def _result(task: RayTask, watch: Watch) -> TrainResult:
    return TrainResult(
        step=task.step,
        seconds=round(task.clock.seconds, 3),
        reason=watch.reason or "interrupted",
        train_psnr=watch.train_psnr,
        val_psnr=watch.val_psnr,
        rays_per_second=float(round(watch.rays_per_second)),
        held_out=watch.held_out,
        best_step=None if watch.best is None else watch.best.step,
        history=watch.history,
    )


def _nothing_left(
    renderer: Renderer, run: Run, begun: Checkpoint, spent: str, device: torch.device, line: ProgressLine
) -> TrainResult:
    """The checkpoint has used up the budget: training was killed at its very end, or had finished."""
    line.say(f"nothing left to do: the budget of {spent} is used up")
    best = begun.part("best")
    if best:
        load_weights(renderer, best, where=run.checkpoints)
    before = run.results.get("training", {})
    if not run.finished:
        run.save_weights(renderer, begun.step)
        before = {"step": begun.step, "seconds": begun.seconds, "reason": spent}
        before["history"] = begun.numbers.get("history", [])
        run.update_results("training", {"finished": True, **before})
    renderer.to(device).eval()
    known = {name: before[name] for name in TrainResult.__dataclass_fields__ if name in before}
    return TrainResult(**known)
