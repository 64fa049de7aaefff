"""Being asked to stop: signals become a flag, which all ranks look at together.

A flag is one rank's own. In the exchange that every step and every batch of a validation begins
with, the flags of all ranks are added up, so that all leave at the same place.
"""

import signal
import time
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any, TypeVar

from pretrain.resilience.heartbeat import Heartbeat
from pretrain.runtime.ranks import Ranks, summed

T = TypeVar("T")
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Stopped(Exception):  # noqa: N818  # a decision, not an error
    """All ranks have agreed to stop; each of them raises it at the same place."""


class _Interrupted(Exception):  # noqa: N818
    """The signal came while this rank waited for data."""


class StopFlag:
    """Set by SIGTERM and SIGUSR1 while entered.

    Attributes:
        requested: Whether a signal came.
    """

    def __init__(self) -> None:
        self.requested = False
        self._waiting = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopFlag":
        self._before = {number: signal.signal(number, self._ask) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *_exception: object) -> None:
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
        self.requested = True
        if self._waiting:
            self._waiting = False
            raise _Interrupted


class StopPoll:
    """Where all ranks find out together that one of them was asked to stop.

    Attributes:
        flag: This rank's.
        waited_s: How long this rank waited for the data of a step.
    """

    def __init__(self, flag: StopFlag, ranks: Ranks, heartbeat: Heartbeat):
        self.flag, self.waited_s = flag, 0.0
        self._ranks, self._heartbeat = ranks, heartbeat

    def exchange(self, *values: float) -> list[float]:
        """Sum a few numbers over all ranks, unless one of them was asked to stop.

        Raises:
            Stopped: On all ranks.
        """
        self._heartbeat.beat("exchange")
        num_stops, *sums = summed([float(self.flag.requested), *values], self._ranks.device)
        if num_stops:
            raise Stopped
        return sums

    def next_step(self, steps: Iterator[T]) -> T | None:
        """The next step's data; None when asked to stop: the others learn of it in the exchange."""
        self._heartbeat.beat("waiting for the data of a step")
        begin = time.perf_counter()
        data = self.flag.next(steps)
        self.waited_s = time.perf_counter() - begin
        return data

    def polled(self, batches: Iterable[T]) -> Iterator[T]:
        """Pass on batches, equally many on all ranks, as long as nobody was asked to stop.

        Raises:
            Stopped: On all ranks.
        """
        iterator = iter(batches)
        while True:
            self._heartbeat.beat("waiting for data of the validation")
            batch = self.flag.next(iterator)
            self.exchange()
            if batch is None:
                return
            self._heartbeat.beat("validation")
            yield batch
