"""Options that every trained method shares."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lumigraph.errors import LumigraphError

Device = str
"""`auto`, `cpu`, `cuda` or `cuda:N`: a plain string, so that torch need not be imported to parse it."""

Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How to train, whatever the method."""

    run: Path
    """Run folder to write."""
    max_steps: int | None = None
    """Stop after so many steps in all (None: the method's --training-steps, which also pace its schedules)."""
    max_minutes: float | None = None
    """Stop after so many minutes of training; schedules then follow the clock."""
    seed: int = 0
    """Seed of everything random: the same seed on the same machine gives the same run."""
    device: Device = "auto"
    """auto, cpu, cuda or cuda:N."""
    devices: int = 1
    """How many processes train together."""
    precision: Precision = "auto"
    """Arithmetic of the networks; auto takes bfloat16 where the processor has it."""
    resume: bool = False
    """Go on from the last checkpoint of this run folder; start afresh where there is none."""
    overwrite: bool = False
    """Replace a finished run."""

    def __post_init__(self) -> None:
        """Raises LumigraphError for numbers that mean nothing."""
        if self.seed < 0:
            raise LumigraphError(f"--seed must not be negative, and is {self.seed}")
        if self.devices < 1:
            raise LumigraphError(f"--devices must be at least 1, not {self.devices}")
        for name, value in (("--max-steps", self.max_steps), ("--max-minutes", self.max_minutes)):
            if value is not None and not value > 0:
                raise LumigraphError(f"{name} must be positive, not {value}", todo="Pass a larger number")
