"""The life of a run: it is struck, ends, and is started again until it has done its last step."""

import signal
import time
from typing import NamedTuple

from launch.torchrun import GIVE_UP_STATUS, REQUEUE_STATUS
from tests.faults.kinds import KINDS
from tests.faults.plan import Plan
from tests.faults.trial import STEPS, Trial, send

POLL_S = 0.01
# of a whole life; a hang takes a minute of it
LIMIT_S = 420.0
LEAVE_S = 10.0
# torchrun gives up with 1 after some restarts; negative for the launcher that a signal ends
STATUSES = (0, 1, REQUEUE_STATUS, GIVE_UP_STATUS, -9, -15)


class Strike(NamedTuple):
    """A fault that has struck.

    Attributes:
        number: Its place in the plan.
        step: The last step that was done by then.
        seconds: Since the start of the life.
    """

    number: int
    step: int
    seconds: float


class Life:
    """The life of a run under a plan.

    Attributes:
        strikes: The faults that have struck so far.
        statuses: How each start ended.
    """

    def __init__(self, trial: Trial, plan: Plan):
        self.trial, self.plan = trial, plan
        self.strikes: list[Strike] = []
        self.statuses: list[int] = []
        self._next = 0
        self._begin = self._since = time.monotonic()

    def live(self) -> None:
        """Live to the last step.

        Raises:
            AssertionError: It takes too long, ends in an unknown way, or leaves processes.
        """
        while not self.statuses or self.statuses[-1]:
            self.trial.start()
            self._since = time.monotonic()
            self.statuses.append(self._until_it_ends())
            self.trial.wait_for_processes()
            assert self.statuses[-1] in STATUSES, f"ended with {self.statuses}"
        step = self.trial.step()
        assert step == STEPS, f"ended with 0 after step {step} of {STEPS}"

    def _until_it_ends(self) -> int:
        """Strike a start of the run; returns its status, of the host that failed if one did."""
        ended_at: float | None = None
        while True:
            self.trial.undo_due()
            statuses = [launcher.status() for launcher in self.trial.started]
            failed = [status for status in statuses if status]
            if None not in statuses:
                return failed[0] if failed else 0
            if failed:
                # as Slurm does, after a while for those that end by themselves
                ended_at = ended_at or time.monotonic()
                if time.monotonic() > ended_at + LEAVE_S:
                    for pid in self.trial.launchers():
                        send(pid, signal.SIGTERM)
            took_s = time.monotonic() - self._begin
            assert took_s < LIMIT_S, f"no end after {took_s:.0f} s; {self.statuses}"
            if self._next < len(self.plan.faults) and self._is_due():
                self._strike()
            time.sleep(POLL_S)

    def _is_due(self) -> bool:
        """Whether the next fault's point is reached; its delay counts from when it was."""
        fault = self.plan.faults[self._next]
        if fault.step and self.trial.step() < fault.step:
            self._since = time.monotonic()
            return False
        return time.monotonic() >= self._since + fault.delay_s

    def _strike(self) -> None:
        number = self._next
        kind = KINDS[self.plan.faults[number].kind]
        step = self.trial.step()
        if kind.strike(self.trial, self.plan.random(number)):
            now = time.monotonic()
            self.strikes.append(Strike(number, step, round(now - self._begin, 2)))
            self._next, self._since = number + 1, now
