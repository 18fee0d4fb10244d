"""`lumigraph pack RUN --out FILE.safetensors`: a run as two files that render anywhere."""

import sys
from dataclasses import dataclass
from pathlib import Path

from lumigraph.cli.parsing import Positional, parse


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What renders of a run, to keep or to send: NAME.safetensors with the weights, and NAME.json beside it with
    method, options and scene. Every command that takes a run takes NAME.safetensors."""

    run: Positional[Path]
    """Run folder."""
    out: Path
    """File to write, NAME.safetensors."""
    overwrite: bool = False
    """Replace files that are there."""


def main(argv: list[str]) -> None:
    """Pack one run and print where it is."""
    arguments = parse(argv, Arguments, prog="lumigraph pack")
    from lumigraph.training.runs import Run

    run = Run.open(arguments.run)
    run.warn_if_unfinished()
    run.pack(arguments.out, arguments.overwrite)
    size = arguments.out.stat().st_size + arguments.out.with_suffix(".json").stat().st_size
    sys.stdout.write(f"{arguments.out} and {arguments.out.with_suffix('.json').name}: {size / 1e6:.2f} MB\n")
