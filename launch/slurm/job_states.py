"""States of jobs in the plain output of squeue and sacct."""

import re
from typing import NamedTuple

from launch.slurm.commands import rows

# columns with widths, as older versions need them; a reason may contain the separator
SQUEUE_COLUMNS = "JobArrayID:32|,State:32|,exit_code:16|,RestartCnt:16|,NodeList:1024|,Reason:255"
SACCT_COLUMNS = "JobID,State,ExitCode,NodeList,Reason"
ENDED = frozenset(
    {
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "LAUNCH_FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "RECONFIG_FAIL",
        "REVOKED",
        "TIMEOUT",
    }
)


class JobState(NamedTuple):
    """State of a job, or of a task of an array.

    Attributes:
        job: Job number; ARRAY_TASK for a task of an array.
        state: State in Slurm: RUNNING, PENDING, COMPLETED, ...
        reason: Reason for waiting; may be empty.
        nodes: Host list; may be empty.
        status: Exit status; None before the job has ended.
        requeues: Number of times that the job was requeued.
    """

    job: str
    state: str
    reason: str
    nodes: str
    status: int | None
    requeues: int

    @property
    def ended(self) -> bool:
        """Whether the job neither runs nor will run again by itself.

        One that is COMPLETING has not ended: its processes may still be saving.
        """
        return self.state in ENDED


def parse_squeue(text: str) -> list[JobState]:
    """The states in the output of `squeue --Format` with `SQUEUE_COLUMNS`."""
    return [
        _job_state(job, state, status, requeues, nodes, reason)
        for job, state, status, requeues, nodes, reason in rows(text, 6)
        if _is_job(job)
    ]


def parse_sacct(text: str) -> list[JobState]:
    """The states in the output of `sacct -P` with `SACCT_COLUMNS`."""
    return [
        # "CANCELLED by 1000" names a user
        _job_state(job, state.partition(" ")[0], status, "0", nodes, reason)
        for job, state, status, nodes, reason in rows(text, 5)
        if _is_job(job)
    ]


def _is_job(text: str) -> bool:
    """Whether a text is a job number; ARRAY_TASK for a task of an array."""
    return re.fullmatch("[0-9]+(_[0-9]+)?", text, re.ASCII) is not None


def _job_state(
    job: str, state: str, status: str, requeues: str, nodes: str, reason: str
) -> JobState:
    return JobState(
        job=job,
        state=state,
        reason="" if reason == "None" else reason,
        nodes="" if nodes == "None assigned" else nodes,
        status=_exit_status(status) if state in ENDED else None,
        requeues=int(requeues) if requeues.isdigit() else 0,
    )


def _exit_status(text: str) -> int | None:
    """The exit status in STATUS:SIGNAL, or in a number as wait(2) reports it."""
    status, colon, _signal = text.partition(":")
    if not status.isdigit():
        return None
    return int(status) if colon else int(status) >> 8
