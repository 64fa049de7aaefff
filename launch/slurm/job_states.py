"""States of jobs in Slurm's JSON, in the dialects of 22.05 and 24.11.

22.05 writes plain numbers and one word for a state; 24.11 writes `{set, infinite, number}` and
lists of words.
"""

import json
from typing import Any, NamedTuple

from launch.errors import LaunchError

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
        name: Name of the job.
        state: State in Slurm: RUNNING, PENDING, COMPLETED, ...
        reason: Reason for waiting; may be empty.
        nodes: Host list; may be empty.
        status: Exit status; None before the job has ended.
        requeues: Number of times that the job was requeued.
        completing: Whether its processes are being stopped: they may still be saving.
    """

    job: str
    name: str
    state: str
    reason: str
    nodes: str
    status: int | None
    requeues: int
    completing: bool = False

    @property
    def ended(self) -> bool:
        """Whether the job neither runs nor will run again by itself."""
        return self.state in ENDED and not self.completing


def parse_jobs(text: str) -> list[JobState]:
    """The states in the output of `squeue --json` or `sacct --json`.

    Raises:
        LaunchError: The output is not JSON, or has no jobs in it.
    """
    try:
        jobs = json.loads(text)["jobs"]
        return [_parse_job(job) for job in jobs]
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise LaunchError(f"Slurm's JSON has another form than expected: {error!r}") from error


def _parse_job(job: dict[str, Any]) -> JobState:
    # sacct has separate tables for state and reason, and for both numbers of an array
    state = job["state"] if "state" in job else {"current": job["job_state"]}
    array = job.get("array", {})
    array_job = _number(job.get("array_job_id", array.get("job_id")))
    task = _number(job.get("array_task_id", array.get("task_id")))
    number = str(job["job_id"]) if not array_job or task is None else f"{array_job}_{task}"
    word = _word(state["current"])
    reason = job.get("state_reason", state.get("reason", ""))
    return JobState(
        job=number,
        name=job.get("name", ""),
        state=word,
        reason="" if reason == "None" else reason,
        nodes=job.get("nodes") or "",
        status=_exit_status(job.get("exit_code")) if word in ENDED else None,
        requeues=_number(job.get("restart_cnt")) or 0,
        completing="COMPLETING" in state["current"],
    )


def _word(value: str | list[str]) -> str:
    """The state itself: further words of a list are flags, such as COMPLETING."""
    return value if isinstance(value, str) else value[0]


def _number(value: Any) -> int | None:
    if isinstance(value, dict):
        return int(value["number"]) if value["set"] else None
    return None if value is None else int(value)


def _exit_status(value: Any) -> int | None:
    if isinstance(value, dict):
        return _number(value.get("return_code"))
    # as wait(2) reports it: the status is in the high byte
    return None if value is None else int(value) >> 8
