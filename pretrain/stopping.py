"""Being asked to stop: signals become a flag, which all ranks look at together.

A flag is one rank's own. `Trainer` adds the flags of all ranks up in the exchange that every step
and every batch of a validation begins with, so that all leave at the same step.
"""

import os
import signal
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, TypeVar

T = TypeVar("T")
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Stopped(Exception):  # noqa: N818  # a decision, not an error
    """All ranks have agreed to stop; each of them raises it at the same place."""


class _Interrupted(Exception):  # noqa: N818
    """The signal came while this rank waited for data."""


class StopFlag:
    """Set by SIGTERM and SIGUSR1 while entered; only in the process that entered it.

    Attributes:
        requested: Whether a signal came.
    """

    def __init__(self) -> None:
        self.requested = False
        self._waiting = False
        self._pid = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopFlag":
        self._pid = os.getpid()
        self._before = {number: signal.signal(number, self._ask) for number in STOP_SIGNALS}
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def next(self, items: Iterator[T]) -> T | None:
        """The next item; None at their end, or when asked to stop before it is there.

        After a wait that was broken off, `items` must not be used again.
        """
        if self.requested:
            return None
        try:
            try:
                self._waiting = True
                return next(items, None)
            finally:
                self._waiting = False
        except _Interrupted:
            return None

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        # processes that read data inherit this handler
        if os.getpid() != self._pid:
            return
        self.requested = True
        # A signal to the whole process group ends them too, and torch would make that an error
        # here, in the middle of a step. No more data is wanted.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if self._waiting:
            self._waiting = False
            raise _Interrupted
