"""What becomes of a batch job whose ranks have ended: run by the batch script, on its first node.

Prints one line that the script acts on: `done`, `requeue`, `exclude HOST,HOST` (start again on
other nodes) or `stop`. In a chain the next job goes on by itself, so nothing is requeued.
"""

import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from launch.torchrun import (
    FAILURE_LOG,
    GIVE_UP_STATUS,
    LOST_CONTACT_STATUS,
    REQUEUE_STATUS,
)

# Failures of one attempt within this time have one cause: a dead rank takes its peers along.
INCIDENT_S = 90.0
FAILURE = re.compile(
    r"(?P<time>\d+(?:\.\d+)?) (?P<host>\S+) (?P<status>-?\d+) (?P<attempt>\S+)", re.ASCII
)


class Limits(NamedTuple):
    """How often a job comes back.

    Attributes:
        requeues: In all.
        failures: Of these, after a failure.
        exclude_after: Incidents on one node after which it is left out.
    """

    requeues: int
    failures: int
    exclude_after: int


class Failure(NamedTuple):
    """A rank's failure on a machine: a line `time host status attempt` of the failure log."""

    time: float
    host: str
    status: int
    attempt: str


class Ending(NamedTuple):
    """How the ranks of a job ended.

    Attributes:
        status: srun's exit status.
        stopped: Whether the script was asked to stop.
        state: The job's state in Slurm at that time.
        requeues: How often the job has been requeued.
        attempts: Failed attempts so far, this one included.
    """

    status: int
    stopped: bool
    state: str
    requeues: int
    attempts: int


def decide(
    ending: Ending, limits: Limits, failures: Sequence[Failure], exclude: Sequence[str], mode: str
) -> str:
    """The line to print; a pure function.

    Args:
        ending: How the ranks ended.
        limits: How often a job comes back.
        failures: The failure log.
        exclude: Nodes that are left out already.
        mode: `chain` when another job of the same run waits.
    """
    if ending.status == 0:
        return "done"
    # a cancelled job is COMPLETING, a preempted one is requeued by Slurm itself
    if ending.state != "RUNNING" or ending.status == GIVE_UP_STATUS:
        return "stop"
    requested = ending.stopped or ending.status == REQUEUE_STATUS
    if not requested:
        bad = bad_hosts(failures, limits.exclude_after)
        if ending.attempts > limits.failures:
            return "stop"
        if any(host not in exclude for host in bad):
            return f"exclude {','.join([*exclude, *(host for host in bad if host not in exclude)])}"
    if mode == "chain" or ending.requeues >= limits.requeues:
        return "stop"
    return "requeue"


def bad_hosts(failures: Sequence[Failure], exclude_after: int) -> list[str]:
    """Machines that caused at least `exclude_after` incidents.

    An incident's cause is its first rank that died of a signal, or else its first failure: the
    others fail because they talk to it. If all that is known are ranks that lost contact, the
    cause left no line, as a machine that is gone: nobody is blamed.
    """
    incidents: list[list[Failure]] = []
    for failure in sorted(failures):
        first = incidents[-1][0] if incidents else None
        recent = first is not None and failure.time - first.time <= INCIDENT_S
        if recent and first is not None and failure.attempt == first.attempt:
            incidents[-1].append(failure)
        else:
            incidents.append([failure])
    groups = [[one for one in each if one.status != LOST_CONTACT_STATUS] for each in incidents]
    causes = [
        min(each, key=lambda one: (one.status >= 0, one.time)).host for each in groups if each
    ]
    return sorted(host for host in set(causes) if causes.count(host) >= exclude_after)


def parse_failures(text: str) -> list[Failure]:
    """Read a failure log; a line that a crash has cut short, or mixed with another, is left out."""
    lines = map(FAILURE.fullmatch, text.splitlines())
    return [
        Failure(float(line["time"]), line["host"], int(line["status"]), line["attempt"])
        for line in lines
        if line
    ]


def attempts_log(failure_log: Path) -> Path:
    """The list of failed attempts beside a failure log."""
    return failure_log.with_name(f"{failure_log.name}.attempts")


def main() -> None:
    """Arguments: three limits, excluded hosts, status, stopped, state, requeues, mode."""
    arguments = sys.argv[1:]
    limits = Limits(*map(int, arguments[:3]))
    status, stopped, state, requeues, mode = arguments[-5:]
    log = Path(os.environ[FAILURE_LOG])
    attempts = attempts_log(log)
    if int(status) not in (0, REQUEUE_STATUS, 128 + signal.SIGTERM):
        with attempts.open("a", encoding="utf-8") as file:
            file.write(f"{os.environ.get('SLURM_JOB_ID', '')} {status}\n")
    count = len(attempts.read_bytes().splitlines()) if attempts.exists() else 0
    ending = Ending(int(status), stopped == "1", state.strip(), int(requeues), count)
    failures = parse_failures(log.read_text("utf-8", errors="replace")) if log.exists() else []
    print(decide(ending, limits, failures, arguments[3:-5], mode))


if __name__ == "__main__":
    main()
