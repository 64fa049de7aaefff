"""Decision about a batch job whose ranks have ended; the batch script runs it on its first node.

Prints one line for the script: `done`, `requeue`, `exclude HOST,HOST` (start again on other nodes)
or `stop`. In a chain the next job resumes by itself, so nothing is requeued.
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

# failures of one attempt within this time have one cause: when a rank dies, its peers fail
INCIDENT_S = 90.0
FAILURE = re.compile(
    r"(?P<time>\d+(?:\.\d+)?) (?P<host>\S+) (?P<status>-?\d+) (?P<attempt>\S+)", re.ASCII
)


class Limits(NamedTuple):
    """Limits on the restarts of a job.

    Attributes:
        requeues: Maximum number of requeues.
        failures: Maximum number of failed attempts after which the job starts again.
        exclude_after: Number of incidents that a node causes before it is excluded.
    """

    requeues: int
    failures: int
    exclude_after: int


class Failure(NamedTuple):
    """Failure of a rank: a line `time host status attempt` of the failure log."""

    time: float
    host: str
    status: int
    attempt: str


class Ending(NamedTuple):
    """End of the ranks of a job.

    Attributes:
        status: Exit status of srun.
        stopped: Whether the script received a request to stop.
        state: State of the job in Slurm at that time.
        requeues: Number of times that the job has been requeued.
        attempts: Number of failed attempts so far, including this one.
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
        ending: End of the ranks.
        limits: Limits on restarts.
        failures: The failure log.
        exclude: Nodes that are excluded already.
        mode: `chain` if another job of the same run is waiting.
    """
    if ending.status == 0:
        return "done"
    # a cancelled job is COMPLETING, a preempted one is requeued by Slurm itself
    if ending.state != "RUNNING" or ending.status == GIVE_UP_STATUS:
        return "stop"
    requested = ending.stopped or ending.status == REQUEUE_STATUS
    if not requested:
        if ending.attempts > limits.failures:
            return "stop"
        bad = bad_hosts(failures, limits.exclude_after)
        newly_bad = [host for host in bad if host not in exclude]
        if newly_bad:
            return f"exclude {','.join([*exclude, *newly_bad])}"
    if mode == "chain" or ending.requeues >= limits.requeues:
        return "stop"
    return "requeue"


def bad_hosts(failures: Sequence[Failure], exclude_after: int) -> list[str]:
    """Machines that caused at least `exclude_after` incidents.

    The cause of an incident is the first rank killed by a signal, or else the first failure: other
    ranks fail because they communicate with it. If all logged ranks only lost contact, the cause
    left no line (its machine may be gone), and no machine is named.
    """
    incidents: list[list[Failure]] = []
    for failure in sorted(failures):
        first = incidents[-1][0] if incidents else None
        recent = first is not None and failure.time - first.time <= INCIDENT_S
        if recent and first is not None and failure.attempt == first.attempt:
            incidents[-1].append(failure)
        else:
            incidents.append([failure])
    suspects = [
        [failure for failure in incident if failure.status != LOST_CONTACT_STATUS]
        for incident in incidents
    ]
    causes = [
        min(candidates, key=lambda failure: (failure.status >= 0, failure.time)).host
        for candidates in suspects
        if candidates
    ]
    return sorted(host for host in set(causes) if causes.count(host) >= exclude_after)


def parse_failures(text: str) -> list[Failure]:
    """The failures in a log; lines that a crash has cut short or mixed with others are ignored."""
    lines = map(FAILURE.fullmatch, text.splitlines())
    return [
        Failure(float(line["time"]), line["host"], int(line["status"]), line["attempt"])
        for line in lines
        if line
    ]


def attempts_log(failure_log: Path) -> Path:
    """Path of the list of failed attempts, next to the failure log."""
    return failure_log.with_name(f"{failure_log.name}.attempts")


def main() -> None:
    """Print the decision.

    Arguments are three limits, excluded hosts, status, stopped, state, requeues and mode.
    """
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
