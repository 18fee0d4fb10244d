"""`lumigraph VERB ...`: find the verb, import it, run it, and turn every ending into an exit code.

0 done; 1 a fault of ours; 2 the input or the command line is wrong; 130 interrupted.
"""

import difflib
import importlib
import os
import sys
import traceback

from lumigraph import __version__
from lumigraph.errors import LumigraphError

VERBS = {
    "demo": "The whole path on a built-in scene, ending in a report page",
    "inspect": "What was read from a scene: cameras, bounds, splits, a picture of them",
    "multiscale": "Every view of a scene at several sizes: Mip-NeRF's data",
    "rays": "The photos of a scene as published ray files",
    "depth": "Monocular depth of photos, by a network, to train with",
    "train": "A teacher from photos",
    "bake": "Pseudo views from a teacher",
    "distill": "A student from a teacher, live or through pseudo views",
    "finetune": "A student on photos",
    "eval": "PSNR, SSIM and LPIPS on held-out views",
    "render": "A movie along a path",
    "pack": "A run as two files that render anywhere: weights and a description",
    "import": "A published NeRF checkpoint as a run",
    "export": "A bundle that other programs open: ONNX and a manifest",
    "view": "A bundle in the browser, served on this machine",
    "doctor": "What this machine has, what is missing, how to mend it",
}
"""Verbs in the order of the path, with their line in --help. Each is the module `lumigraph.cli.VERB`, or that of
`_MODULES`."""
_MODULES = {"import": "import_checkpoint"}
"""Verbs that are words of Python."""

DEBUG = "LUMIGRAPH_DEBUG"


_SPINS = "10000"
"""How often a thread of OpenMP looks for work before it sleeps. By itself it goes on for milliseconds, which on two
cores with another busy program made a matrix product ten times slower; so few looks cost an idle machine nothing."""


def run() -> None:
    """Entry point of the `lumigraph` script."""
    os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)  # read when torch is loaded
    raise SystemExit(main(sys.argv[1:]))


def main(argv: list[str]) -> int:
    """Run one command line and return its exit code. Never raises, except `SystemExit` for usage and --help."""
    try:
        _dispatch(argv)
        sys.stdout.flush()
    except LumigraphError as error:
        _say(str(error))
        return _traced(2)
    except KeyboardInterrupt as interrupt:
        if sys.stderr.isatty():
            sys.stderr.write("\n")  # behind ^C, and a progress line that was being redrawn
        _say("; ".join(["interrupted", *map(str, interrupt.args)]))
        return _traced(130)
    except BrokenPipeError:
        # The reader of our output has left (`lumigraph eval ... | head`): not an error. Keep Python from complaining
        # when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001 - the outermost frame: users get a sentence, never a traceback
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        _say(f"unexpected fault: {reason[:300]} (a bug; {DEBUG}=1 shows the traceback to report with it)")
        return _traced(1)
    return 0


def _dispatch(argv: list[str]) -> None:
    if not argv or argv[0] in ("-h", "--help", "help"):
        sys.stdout.write(_help())
        if not argv:
            raise SystemExit(2)
        return
    if argv[0] in ("-V", "--version"):
        sys.stdout.write(f"lumigraph {__version__}\n")
        return
    verb = argv[0]
    if verb not in VERBS:
        close = difflib.get_close_matches(verb, VERBS, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(close)}?" if close else f"There are {', '.join(VERBS)}"
        raise LumigraphError(f"there is no verb {verb!r}", todo=hint)
    importlib.import_module(f"lumigraph.cli.{_MODULES.get(verb, verb)}").main(argv[1:])


def _help() -> str:
    lines = [
        "usage: lumigraph VERB [ARGUMENTS]",
        "",
        "From photos to a light field that renders in one evaluation per ray.",
        "",
    ]
    lines += [f"  {verb:10s} {line}" for verb, line in VERBS.items()]
    return "\n".join(
        [*lines, "", "lumigraph VERB --help lists a verb's arguments; --version prints the version.", ""]
    )


def _say(message: str) -> None:
    sys.stderr.write(f"lumigraph: {message}\n")


def _traced(code: int) -> int:
    """`code`, after the traceback of the exception in flight when the user asked for it."""
    if os.environ.get(DEBUG, "") not in ("", "0"):
        traceback.print_exc()
    return code
