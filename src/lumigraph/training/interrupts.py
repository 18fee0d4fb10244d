"""Ctrl-C and SIGTERM: the first asks training to save and stop, the second stops at once."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

EXIT_CODE = 130
"""Exit code of a command that was interrupted."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Counts signals while `watching`; outside the main thread (where none arrive) it only answers
    `requested`."""

    def __init__(self) -> None:
        self.requested = False

    @contextlib.contextmanager
    def watching(self) -> Iterator["Interrupts"]:
        """Handles signals inside the block, and puts the earlier handlers back after it."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        earlier = {number: signal.getsignal(number) for number in _SIGNALS}
        self.install()
        try:
            yield self
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)

    def install(self) -> None:
        """Takes the signals over, again if a library has taken them since."""
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                signal.signal(number, self._received)

    def request(self) -> None:
        """Asks for the same as a first Ctrl-C."""
        self.requested = True

    def _received(self, number: int, frame: FrameType | None) -> Any:
        if self.requested:
            # os._exit: no clean-up may hold this up. Files are safe, they appear by renaming only.
            if sys.stderr.isatty():
                os.write(2, b"\x1b[?25h")  # the progress line hides the cursor
            os.write(2, b"\nlumigraph: stopped at once; the last checkpoint is kept\n")
            os._exit(EXIT_CODE)
        self.requested = True
        os.write(2, b"\nlumigraph: saving, then stopping; once more stops at once\n")
