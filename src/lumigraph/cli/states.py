"""What `render` shows of a scene that changes: a moment, values of attributes, values of the channels of a hyper code.

Each is one number or a sweep, `FIRST..LAST`, which passes evenly from the first frame of a movie to the last. Imports
no torch.
"""

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lumigraph.errors import LumigraphError


@dataclass(frozen=True)
class Sweep:
    """Numbers from `first` to `last`, one for each frame; the same all along where they are equal."""

    first: float
    last: float

    def values(self, frames: int) -> list[float]:
        """One number for each frame, both ends included; of a single frame the first."""
        step = (self.last - self.first) / max(frames - 1, 1)
        return [self.first + step * frame for frame in range(frames)]

    def __str__(self) -> str:
        same = self.first == self.last
        return f"{self.first:g}" if same else f"{self.first:g} to {self.last:g}"


def parse_time(text: str | None) -> Sweep | None:
    """A moment, or a sweep FIRST..LAST. Raises LumigraphError for what is no share of the capture."""
    if text is None:
        return None
    time = _sweep(text)
    if time is None or not all(0 <= end <= 1 for end in (time.first, time.last)):
        raise LumigraphError(
            f"--time {text} is not a moment of the capture",
            todo="Give 0, its first, to 1, its last, or two of them as in 0..1",
        )
    return time


def parse_attributes(texts: Sequence[str]) -> dict[str, Sweep]:
    """Values of attributes by name, from NAME=VALUE or NAME=FIRST..LAST.

    Raises:
        LumigraphError: a text has another form, an attribute is named twice, or a value is not in [-1, 1].
    """
    found = _named_sweeps("--attribute", "NAME", texts)
    for name, sweep in found.items():
        if not all(-1 <= value <= 1 for value in (sweep.first, sweep.last)):
            raise LumigraphError(
                f"--attribute {name}={sweep}: attributes have values of -1 to 1", todo="Choose such values"
            )
    return found


def parse_edits(texts: Sequence[str]) -> dict[int, Sweep]:
    """Values of the channels of a hyper code by number, from CHANNEL=VALUE or CHANNEL=FIRST..LAST.

    Raises:
        LumigraphError: a text has another form, or a channel is named twice.
    """
    found = _named_sweeps("--edit", "CHANNEL", texts)
    for name in found:
        if not re.fullmatch(r"0|[1-9]\d{0,3}", name):
            raise LumigraphError(
                f"--edit {name}=...: {name!r} is not the number of a channel", todo="Count channels from 0"
            )
    return {int(name): sweep for name, sweep in found.items()}


def require_known(wanted: Mapping[str, Sweep], known: Sequence[str]) -> None:
    """Raises LumigraphError naming the first attribute that is none of the known ones."""
    for name in wanted:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {close[0]}? " if close else ""
            raise LumigraphError(
                f"there is no attribute {name!r}", todo=f"{hint}The attributes are {', '.join(known)}"
            )


def _named_sweeps(option: str, what: str, texts: Sequence[str]) -> dict[str, Sweep]:
    found: dict[str, Sweep] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name in found:
            raise LumigraphError(f"{option} {name} is given twice", todo="Give it once")
        sweep = _sweep(value)
        if not name or sweep is None:
            raise LumigraphError(
                f"{option} {text!r} cannot be read",
                todo=f"Give {what}=VALUE, or {what}=FIRST..LAST for a sweep, as in {what}=-1..1",
            )
        found[name] = sweep
    return found


def _sweep(text: str) -> Sweep | None:
    """Of one number, or two with dots between them; None of anything else."""
    try:
        ends = [float(part) for part in text.split("..")]
    except ValueError:
        return None
    return Sweep(ends[0], ends[-1]) if len(ends) <= 2 and all(map(math.isfinite, ends)) else None
