"""What an interrupted verb leaves behind, for the message that Ctrl-C ends in."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def interrupted_means(consequence: str) -> Iterator[None]:
    """Where Ctrl-C interrupts the block, the command line ends with "interrupted; CONSEQUENCE"."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(consequence) from interrupt
