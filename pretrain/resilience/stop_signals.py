"""Stop signals: each sets a flag on its rank, and all ranks check the flags together.

Every step and every batch of a validation begins with an exchange in which the flags of all ranks
are summed, so that all ranks stop at the same place.

A rank whose launcher is killed receives a signal, too. Otherwise it would continue, and write into
the directory of the run that is started in its place.
"""

import ctypes
import multiprocessing
import os
import signal
import time
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any, TypeVar

from launch.torchrun import LAUNCHER_PID
from pretrain.errors import LostContactError
from pretrain.resilience.heartbeat import Heartbeat
from pretrain.runtime.interrupts import (
    FIRST,
    INTERRUPTED_STATUS,
    SECOND,
    STOP_SIGNALS,
    handle,
    tell,
)
from pretrain.runtime.ranks import Ranks, summed

T = TypeVar("T")
# option of prctl(2), from linux/prctl.h
_SET_PARENT_DEATH_SIGNAL = 1


def follow_launcher(number: signal.Signals) -> None:
    """Ask the kernel for a signal when this machine's launcher ends, however it does.

    Raises:
        LostContactError: It has ended already.
    """
    launcher = os.environ.get(LAUNCHER_PID)
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if launcher is None or prctl is None:
        return
    prctl(_SET_PARENT_DEATH_SIGNAL, int(number))
    if os.getppid() != int(launcher):
        raise LostContactError(f"process {launcher}, which has started this rank, has ended")


class Stopped(Exception):  # noqa: N818  # a decision, not an error
    """An agreed stop, raised by all ranks at the same place."""


class _Interrupted(Exception):  # noqa: N818
    """A signal that arrived while this rank waited for data."""


class StopFlag:
    """A flag that stop signals set while its context is entered; a second Ctrl-C ends the process.

    Attributes:
        requested: Whether a signal arrived.
    """

    def __init__(self) -> None:
        self.requested = False
        self._waiting = self._interrupted = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopFlag":
        self._before = handle(STOP_SIGNALS, self._request)
        return self

    def __exit__(self, *_exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def next(self, items: Iterator[T]) -> T | None:
        """The next item; None at the end, or if a signal arrives before the item.

        After an interrupted wait, `items` must not be used again.
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

    def _request(self, number: int, _frame: FrameType | None) -> None:
        self.requested = True
        if number == signal.SIGINT:
            self._interrupt()
        if self._waiting:
            self._waiting = False
            raise _Interrupted

    def _interrupt(self) -> None:
        # every rank may receive it, and one line is enough
        text = SECOND if self._interrupted else FIRST
        if os.environ.get("RANK", "0") == "0":
            tell(text)
        if not self._interrupted:
            self._interrupted = True
            return
        for reader in multiprocessing.active_children():
            reader.kill()
        os._exit(INTERRUPTED_STATUS)


class StopPoll:
    """The exchange in which all ranks agree to stop once one of them has a signal.

    Attributes:
        flag: This rank's flag.
        waited_s: Seconds that this rank waited for the data of the last step.
    """

    def __init__(self, flag: StopFlag, ranks: Ranks, heartbeat: Heartbeat):
        self.flag, self.waited_s = flag, 0.0
        self._ranks, self._heartbeat = ranks, heartbeat

    def exchange(self, *values: float) -> list[float]:
        """Sums of a few numbers over all ranks.

        Raises:
            Stopped: A rank has received a signal; on all ranks.
        """
        self._heartbeat.beat("exchange")
        num_stops, *sums = summed([float(self.flag.requested), *values], self._ranks.device)
        if num_stops:
            raise Stopped
        return sums

    def next_step(self, steps: Iterator[T]) -> T | None:
        """Data of the next step; None after a signal, which the exchange passes to other ranks."""
        self._heartbeat.beat("waiting for the data of a step")
        begin = time.perf_counter()
        data = self.flag.next(steps)
        self.waited_s = time.perf_counter() - begin
        return data

    def polled(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches, with an exchange before each; their number is equal on all ranks.

        Raises:
            Stopped: A rank has received a signal; on all ranks.
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
