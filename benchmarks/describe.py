"""Shared by the benchmarks, no program: their command lines, and the machine that they ran on."""

import argparse
import datetime
import platform
import sys
from pathlib import Path
from typing import Any

import torch

import lumigraph
from lumigraph.rendering.machine import available_cores, has_bfloat16


def described(text: str | None) -> argparse.ArgumentParser:
    """A parser whose --help is the program's docstring, as it stands, and the arguments with their defaults."""
    return argparse.ArgumentParser(description=text, formatter_class=_Format)


class _Format(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """argparse takes one class for both."""


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments before a `--`, and as `options` what stands behind it: options of a verb, handed on as they are."""
    own, further = sys.argv[1:], []
    if "--" in own:
        place = own.index("--")
        own, further = own[:place], own[place + 1 :]
    return parser.parse_args(own, argparse.Namespace(options=further))


def machine() -> dict[str, Any]:
    """What was measured on."""
    model, cpuinfo = platform.processor(), Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else model
    return {
        "processor": model,
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
        "bfloat16": has_bfloat16(torch.device("cpu")),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "lumigraph": lumigraph.__version__,
        "date": datetime.date.today().isoformat(),
    }
