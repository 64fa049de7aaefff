"""Signals that ask a run to stop, for ranks and for their torchrun (imports no torch)."""

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
# exit status of a process that SIGINT has ended, as shells report it
INTERRUPTED_STATUS = 128 + signal.SIGINT
FIRST = (
    "Ctrl-C: the run stops after the present step and saves it; a second Ctrl-C ends it at once "
    "and loses what is not in a checkpoint yet"
)
SECOND = (
    "second Ctrl-C: ended at once. Folders checkpoints/step-* of the run are complete, later steps "
    "are lost; --resume continues from the newest"
)


def handle(
    numbers: tuple[signal.Signals, ...], handler: Callable[[int, FrameType | None], None]
) -> dict[signal.Signals, Any]:
    """Install a handler for signals, except those that the process ignores.

    `nohup` ignores SIGHUP, and a shell without job control SIGINT of what runs in the background.

    Returns:
        The handlers before.
    """
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in heard}


def tell(text: str) -> None:
    """Print a line on standard error, from a signal handler."""
    try:
        # not print: the handler may have interrupted one
        os.write(2, f"\n{text}\n".encode())
    except OSError:
        # the terminal is gone, and what is to be done does not depend on it
        return
