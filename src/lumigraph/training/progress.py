"""How work goes, on stderr: redrawn in a terminal, printed now and then anywhere else."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.progress import Progress
from rich.text import Text

PLAIN_SECONDS = 10.0
TERMINAL_SECONDS = 0.5


@dataclass
class Status:
    """What the line shows; what is not known is None."""

    step: int
    last_step: int | None
    rays_per_second: float
    train_psnr: float | None
    val_psnr: float | None
    seconds: float
    seconds_left: float | None
    val_step: int = 0
    """The step at which `val_psnr` was measured."""
    held_out: bool = True
    """Whether `val_psnr` is that of views which training never saw."""
    likely_last_step: int | None = None
    """The step at which training will end at this speed."""

    def line(self) -> str:
        """The line without colours."""
        parts = [f"step {self.step:,}{self._of_steps()}"]
        parts.append(f"{_short(self.rays_per_second)} rays/s")
        if self.train_psnr is not None:
            parts.append(f"train {self.train_psnr:.2f} dB")
        if self.val_psnr is not None:
            stale = f" at step {self.val_step:,}" if self.val_step < self.step else ""
            parts.append(f"{'val' if self.held_out else 'training photos'} {self.val_psnr:.2f} dB{stale}")
        parts.append(f"{clock_time(self.seconds)} used")
        if self.seconds_left is not None:
            parts.append(f"{clock_time(self.seconds_left)} left")
        return " · ".join(parts)

    def _of_steps(self) -> str:
        """Out of how many steps: roughly, where the clock will end training."""
        likely = self.likely_last_step
        if likely is not None and likely > self.step and (self.last_step is None or likely < self.last_step):
            # As exactly as two digits of those to come: never fewer than there were.
            unit = 10 ** max(0, len(str(likely - self.step)) - 2)
            about = unit * math.ceil(likely / unit)
            return f" of about {about if self.last_step is None else min(about, self.last_step):,}"
        return f"/{self.last_step:,}" if self.last_step else ""


def _short(number: float) -> str:
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.{1 if number < 100 * limit else 0}f}{unit}"
    return f"{number:.0f}"


def clock_time(seconds: float) -> str:
    """Seconds as `m:ss` or `h:mm:ss`."""
    whole = max(0, math.ceil(seconds))
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


class ProgressLine:
    """Shows `Status` lines on `stream` (stderr by default); a quiet one shows nothing (processes beyond the
    first)."""

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None):
        self._console = Console(
            file=stream, stderr=stream is None, quiet=quiet, highlight=False, soft_wrap=True
        )
        self._live: Live | None = None
        self._terminal = self._console.is_terminal
        self._next = 0.0
        self._shown = 0.0
        self.interval = TERMINAL_SECONDS

    def due(self, now: float) -> bool:
        """Whether it is time for the next `show`."""
        return now >= self._next

    def show(self, status: Status) -> None:
        """Redraws the line in a terminal; elsewhere prints it when ten seconds have passed."""
        now = time.perf_counter()
        self._next = now + self.interval
        if self._terminal:
            if self._live is None:
                self._live = Live(console=self._console, auto_refresh=False)
                self._live.start()
            self._live.update(Text(status.line(), no_wrap=True, overflow="ellipsis"), refresh=True)
        elif now >= self._shown + PLAIN_SECONDS:
            self._shown = now
            self.say(status.line())

    def say(self, message: str) -> None:
        """Prints a lasting line above the progress line."""
        self._console.print(Text(message))

    def close(self, status: Status | None = None) -> None:
        """Leaves the last status as a plain line."""
        if self._live is not None:
            if status is not None:
                self._live.update(Text(status.line(), no_wrap=True, overflow="ellipsis"), refresh=True)
            self._live.stop()
            self._live = None
        elif status is not None:
            self.say(status.line())


@contextlib.contextmanager
def counting(things: str, total: int, *, quiet: bool = False) -> Iterator[Callable[[], None]]:
    """Yields what is to be called after each of `total` frames, views or other `things`: a bar on stderr in a terminal,
    which is gone at the end; elsewhere a line every ten seconds; nothing at all when `quiet`."""
    console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        yield _PlainCount(things, total, console)
        return
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(things, total=total)
        yield lambda: progress.advance(task)


class _PlainCount:
    """Counts calls and prints how many there were, and how long the others will take."""

    def __init__(self, things: str, total: int, console: Console):
        self._things, self._total, self._console = things, total, console
        self._done = 0
        self._started = self._shown = time.perf_counter()

    def __call__(self) -> None:
        self._done += 1
        now = time.perf_counter()
        if now < self._shown + PLAIN_SECONDS:
            return
        self._shown, used = now, now - self._started
        left = used * (self._total - self._done) / self._done
        parts = [f"{self._things} {self._done:,}/{self._total:,}", f"{clock_time(used)} used"]
        self._console.print(Text(" · ".join([*parts, f"{clock_time(left)} left"])))
