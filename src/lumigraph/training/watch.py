"""What happens beside the steps: the progress line, logs, measurements, previews, checkpoints, and when to
stop."""

import itertools
import logging
import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from lumigraph.errors import LumigraphError
from lumigraph.evaluation.metrics import psnr_of
from lumigraph.training.checkpoints import save_checkpoint
from lumigraph.training.interrupts import Interrupts
from lumigraph.training.progress import ProgressLine, Status
from lumigraph.training.runs import Run
from lumigraph.training.task import RayTask, Window
from lumigraph.training.validation import (
    PROBE_RAYS,
    PROBE_VIEWS,
    PictureProbe,
    Probe,
    ValidationViews,
    write_preview,
)

log = logging.getLogger("lumigraph")

COLLAPSE_STEPS = 500
COLLAPSE_MEASUREMENTS = 3
RECOVERIES = 3


@dataclass(frozen=True)
class Cadence:
    """Seconds between the chores beside training; each also takes at most `share` of the time."""

    report: float = 1.0
    probe: float = 5.0
    preview: float = 20.0
    checkpoint: float = 5.0
    longest: float = 120.0
    """Checkpoints and previews start often and end at this distance (previews at five times it)."""
    share: float = 0.02


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when the validation PSNR has not risen by `min_gain` dB in `patience` measurements (None: never for that),
    one `every` so many steps, and end with the best weights that were measured."""

    every: int = 500
    patience: int | None = 5
    min_gain: float = 0.01


class Chore:
    """When one kind of work is due again: after `interval`, later if it was expensive."""

    def __init__(self, interval: float, share: float, *, growth: float = 1.0, longest: float = math.inf):
        self._interval, self._share, self._growth, self._longest = interval, share, growth, longest
        self.due = interval

    def done(self, started: float, now: float) -> None:
        """Plans the next time; `started` and `now` are seconds of training."""
        self.due = now + max(self._interval, (now - started) / self._share)
        self._interval = min(self._longest, self._interval * self._growth)

    def restart(self, now: float) -> None:
        """Counts the interval from `now` (a resumed training has seconds on the clock)."""
        self.due = now + self._interval


class BestWeights:
    """The early stopping's memory: the best measured weights, and how often nothing better came."""

    def __init__(self, rule: EarlyStopping):
        self.rule = rule
        self.psnr = -math.inf
        self.step = 0
        self.misses = 0
        self.tensors: dict[str, Tensor] = {}

    def offer(self, task: RayTask, value: float) -> bool:
        """Takes a measurement in; true when patience is at its end."""
        if value > self.psnr + (self.rule.min_gain if self.tensors else 0):
            self.psnr, self.step, self.misses = value, task.step, 0
            self.tensors = {name: tensor.clone() for name, tensor in task.renderer.state_dict().items()}
        else:
            self.misses += 1
        return self.rule.patience is not None and self.misses >= self.rule.patience

    def numbers(self) -> dict[str, Any]:
        return {"psnr": self.psnr, "step": self.step, "misses": self.misses}

    def restore(self, numbers: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        self.psnr, self.step = float(numbers["psnr"]), int(numbers["step"])
        self.misses, self.tensors = int(numbers["misses"]), tensors


class Watch(Callback):
    """Looks at the clock after each step and does what is due. Only the first process writes and prints."""

    def __init__(
        self,
        run: Run,
        task: RayTask,
        line: ProgressLine,
        interrupts: Interrupts,
        *,
        cadence: Cadence,
        validation: ValidationViews | None,
        held_out: bool,
        best: BestWeights | None,
        history: list[dict[str, Any]],
    ):
        self.run, self.task, self.line, self.interrupts = run, task, line, interrupts
        self.cadence, self.validation, self.best, self.history = cadence, validation, best, history
        self.held_out = held_out
        self.reason: str | None = None
        self.train_psnr: float | None = None
        self.val_psnr: float | None = None
        self.val_step = 0
        self.rays_per_second = 0.0
        self.chore_seconds: dict[str, float] = {}
        share = cadence.share
        self._chores = {
            "report": Chore(cadence.report, 1.0),
            "probe": Chore(cadence.probe, share, growth=1.1, longest=60.0),
            "preview": Chore(cadence.preview, share, growth=2.0, longest=5 * cadence.longest),
            "checkpoint": Chore(cadence.checkpoint, share, growth=2.0, longest=cadence.longest),
        }
        self._probe: Probe | None = None
        self._probe_speed: float | None = None
        self._constant = 0
        self._started_over = task.step
        self._recoveries = 0
        self._wanted_recovery = 0
        self._writer: SummaryWriter | None = None
        self._world = 1
        self._leads = True

    # ------------------------------------------------------------------ hooks of Lightning

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        # Lightning calls callbacks before the module: the clock is not running yet.
        self.interrupts.install()
        self._world, self._leads = trainer.world_size, trainer.is_global_zero
        if self._leads:
            self._writer = SummaryWriter(str(self.run.logs), purge_step=self.task.step, flush_secs=30)
            background = self.task.renderer.background
            probe = PictureProbe if self.task.renderer.whole_views else Probe
            if self.validation is not None:
                # Early stopping decides by it, so it looks at more.
                size = {} if self.best is None else {"count": 4 * PROBE_RAYS, "most_views": 8 * PROBE_VIEWS}
                self._probe = probe.of_views(self.validation, background, **size)
            else:
                self._probe = probe.of_source(self.task.source, background)

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            now = self.task.clock.seconds
            for chore in self._chores.values():
                chore.restart(now)
            if self.best is not None and not self.best.tensors and self._leads:
                self.offer()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        task = self.task
        now = task.clock.seconds
        reason = task.budget.spent(task.step, now)
        if reason is None and self.interrupts.requested:
            reason = "interrupted"
        if self._leads and reason is None:
            reason = self._early_stop()
        if self._leads and reason is None:
            self._do_chores(now)
        task.seconds, self.reason, recovery = self._agreed(now, reason)
        # What is about to end keeps the weights it has: new ones would be saved untrained.
        if self.reason is None and recovery > self._recoveries:
            self._start_over(recovery)
        if self.reason is not None:
            task.clock.stop()
            if self._leads:
                self._report()
            trainer.should_stop = True

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    # ------------------------------------------------------------------ decisions

    def _agreed(self, seconds: float, reason: str | None) -> tuple[float, str | None, int]:
        """Time, reason to stop, and how often training is to have started over, the same in all processes: the latest
        time, the last reason of this list, and what the first process wants."""
        if self._world == 1:
            return seconds, reason, self._wanted_recovery
        reasons = [None, "steps", "time", "no more gain", "interrupted"]
        values = torch.tensor(
            [seconds, reasons.index(reason), self._wanted_recovery],
            dtype=torch.float64,
            device=self.task.device,
        )
        torch.distributed.all_reduce(values, op=torch.distributed.ReduceOp.MAX)
        return float(values[0]), reasons[int(values[1])], int(values[2])

    def _early_stop(self) -> str | None:
        best = self.best
        if best is None or (self.task.step - self.task.budget.first_step) % best.rule.every:
            return None
        return "no more gain" if self.offer() else None

    def offer(self) -> bool:
        """Measures these weights for early stopping; whether patience is at its end."""
        assert self.best is not None
        return self.best.offer(self.task, self._measure())

    # ------------------------------------------------------------------ chores

    def _do_chores(self, now: float) -> None:
        for name, chore in self._chores.items():
            if now >= chore.due:
                started = self.task.clock.seconds
                getattr(self, f"_{name}_now")()
                ended = self.task.clock.seconds
                chore.done(started, ended)
                self.chore_seconds[name] = self.chore_seconds.get(name, 0.0) + ended - started

    def _report_now(self) -> None:
        self._report()
        self.line.show(self.status())

    def _report(self) -> None:
        window, self.task.window = self.task.window, Window()
        if window.steps == 0 or window.squared_error is None:
            return
        seconds = max(time.perf_counter() - window.started, 1e-9)
        self.train_psnr = psnr_of(float(window.squared_error) / window.steps)
        self.rays_per_second = window.rays * self._world / seconds
        if self._writer is None:
            return
        scalars = {f"loss/{name}": float(value) / window.steps for name, value in window.terms.items()}
        scalars |= {"psnr/train": self.train_psnr, "speed/rays_per_second": self.rays_per_second}
        scalars |= {
            f"lr/{group.get('name', number)}": float(group["lr"])
            for number, group in enumerate(self.task.optimiser.param_groups)
        }
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, self.task.step)

    def _measure(self) -> float:
        """PSNR on the probe, remembered, and whether the picture is constant."""
        assert self._probe is not None
        measured = self._probe.measure(self.task.renderer)
        self._probe_speed = measured.rays_per_second
        self._constant = self._constant + 1 if measured.constant else 0
        if self.validation is not None:
            self.val_psnr, self.val_step = measured.psnr, self.task.step
            if self._writer is not None:
                self._writer.add_scalar("psnr/val", measured.psnr, self.task.step)
        self.history.append(
            {
                "step": self.task.step,
                "seconds": round(self.task.clock.seconds, 3),
                "train_psnr": _rounded(self.train_psnr),
                "val_psnr": _rounded(self.val_psnr),
                "rays_per_second": round(self.rays_per_second),
            }
        )
        return measured.psnr

    def _probe_now(self) -> None:
        self._measure()
        steps = self.task.step - self._started_over
        if self._constant >= COLLAPSE_MEASUREMENTS and steps >= COLLAPSE_STEPS:
            # All processes have to: they hear of it at the end of this step.
            self._wanted_recovery = self._recoveries + 1

    def _start_over(self, again: int) -> None:
        """Starts the renderer over with another seed, the same in all processes, or stops with advice."""
        step, seed = self.task.step, self.task.seed + 7919 * again
        if again <= RECOVERIES and self.task.renderer.recover(seed):
            self._recoveries, self._constant, self._started_over = again, 0, step
            if self.best is not None:
                self.best.misses = 0  # looks at what had collapsed do not count against new weights
            self.task.forget_momentum()
            self.line.say(
                f"warning: at step {step:,} every pixel has the same colour; "
                f"the {self.run.method} starts over with new weights"
            )
            return
        raise LumigraphError(
            f"training has collapsed: at step {step} every pixel has the same colour",
            where=self.run.path,
            todo="Try another --seed or a lower learning rate, and check with `lumigraph inspect` that "
            "the poses and the background fit the photos",
        )

    def last_measurement(self) -> None:
        """Measures the final weights, and says so when they show nothing."""
        self._measure()
        if self._constant:
            self.line.say("warning: every pixel has the same colour: training has collapsed or was too short")

    def _preview_now(self) -> None:
        if self.validation is None:
            return
        # One look may take a second, later more: in any case a small part of the time so far.
        seconds = max(1.0, self.cadence.share * self.task.clock.seconds / 2)
        self.write_preview(seconds)

    def write_preview(self, seconds: float) -> None:
        """Writes a picture of the first validation view that takes about `seconds` at the probe's speed."""
        if self.validation is None or self._probe is None:
            return
        speed = self._probe_speed or self._probe.measure(self.task.renderer).rays_per_second
        path = self.run.media / f"step-{self.task.step:08d}.png"
        picture = write_preview(
            path, self.task.renderer, self.validation, self.task.renderer.background, speed * seconds
        )
        if self._writer is not None:
            self._writer.add_image("preview", picture, self.task.step, dataformats="HWC")

    def _checkpoint_now(self) -> None:
        if self._constant == 0:  # what may have collapsed is not worth keeping
            self.save()

    def save(self) -> None:
        """Writes a checkpoint of this step; weights that are not finite raise `LumigraphError` and are not
        kept."""
        checkpoint = self.task.checkpoint()
        checkpoint.numbers["history"] = self.history
        if self.best is not None and self.best.tensors:
            checkpoint.numbers["best"] = self.best.numbers()
            checkpoint.tensors |= {f"best.{name}": tensor for name, tensor in self.best.tensors.items()}
        save_checkpoint(self.run.checkpoints, checkpoint)

    def status(self) -> Status:
        """The state of things for the progress line."""
        task, now = self.task, self.task.clock.seconds
        done = task.budget.used(task.step, now)
        return Status(
            step=task.step,
            last_step=task.budget.last_step,
            likely_last_step=task.budget.likely_last_step(task.step, now),
            rays_per_second=self.rays_per_second,
            train_psnr=self.train_psnr,
            # An old measurement beside a new loss would look like overfitting.
            val_psnr=self.val_psnr if 2 * self.val_step >= task.step else None,
            val_step=self.val_step,
            held_out=self.held_out,
            seconds=now,
            seconds_left=None if done <= 0 else now * (1 - done) / done,
        )

    def rounded_chores(self) -> dict[str, float]:
        """Seconds that each kind of chore has taken."""
        return {name: round(seconds, 3) for name, seconds in self.chore_seconds.items()}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


class Steps:
    """The "data" that Lightning loops over: numbers without end. The task draws its own rays."""

    def __iter__(self):
        return itertools.count()
