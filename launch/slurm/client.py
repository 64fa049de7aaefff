"""Submission, status and cancellation of batch jobs with Slurm's own commands."""

import re
from collections.abc import Sequence
from pathlib import Path

from launch.errors import LaunchError
from launch.job import Job
from launch.slurm.commands import run, sbatch
from launch.slurm.job_states import (
    SACCT_COLUMNS,
    SQUEUE_COLUMNS,
    JobState,
    parse_sacct,
    parse_squeue,
)
from launch.slurm.requeue import attempts_log
from launch.slurm.script import CHAIN, batch_script, failure_logs, script_path, secret_path
from launch.submissions import Submitted, note
from launch.torchrun import write_secret

# squeue omits ended jobs unless every state is requested
SQUEUE = ("squeue", "--noheader", "--array", "--states=all", f"--Format={SQUEUE_COLUMNS}")
SACCT = ("sacct", "--noheader", "-P", "--allocations", f"--format={SACCT_COLUMNS}")


def write_files(job: Job) -> Path:
    """Write the script, the resolved runs and a new secret to where the nodes read them.

    Returns:
        The path of the script.

    Raises:
        LaunchError: A value cannot be rendered.
    """
    text = batch_script(job)
    Path(job.directory).mkdir(parents=True, exist_ok=True)
    for task, text_of_run in enumerate(job.run_files):
        Path(job.run_file(task)).write_text(text_of_run, encoding="utf-8")
    write_secret(Path(secret_path(job)))
    script = Path(script_path(job))
    script.write_text(text, encoding="utf-8")
    return script


def submit(job: Job, script: Path, chain: int = 1) -> list[str]:
    """Submit a script, and delete the failure logs of earlier submissions.

    Args:
        job: Job that the script was rendered from.
        script: Path from `write_files`.
        chain: Number of jobs, each of which starts when the previous one has ended, successfully
            or not, and resumes from the newest checkpoint.

    Returns:
        The job numbers.

    Raises:
        LaunchError: Slurm refuses; no job of the chain is left in the queue.
    """
    for log in map(Path, failure_logs(job)):
        log.unlink(missing_ok=True)
        attempts_log(log).unlink(missing_ok=True)
    # jobs of one name and user never run at the same time, also when one is submitted again
    dependencies = ["singleton", *_dependencies(job)]
    options, mode = ([f"--dependency={','.join(dependencies)}"], [CHAIN]) if chain > 1 else ([], [])
    submitted: list[Submitted] = []
    try:
        for _ in range(chain):
            submitted.append(sbatch(script, *options, arguments=mode))
            note(Path(job.directory), submitted[-1])
    except (LaunchError, OSError) as error:
        # a job that is noted nowhere could be neither found nor cancelled
        for one in submitted:
            cancel([one.job], one.namespace)
        cancelled = f"; cancelled: {', '.join(one.job for one in submitted)}" if submitted else ""
        raise LaunchError(f"{error}{cancelled}") from error
    return [one.job for one in submitted]


def status(numbers: Sequence[str], cluster: str = "") -> list[JobState]:
    """States of jobs of one cluster, and of the tasks of their arrays.

    Jobs that squeue no longer lists are read from the accounting database, if there is one.

    Raises:
        LaunchError: Slurm does not answer.
    """
    states: list[JobState] = []
    for query in (_own_jobs, _jobs_of_anyone, _accounted_jobs):
        unlisted = sorted({*numbers} - {_array(state.job) for state in states})
        if unlisted:
            states += [state for state in query(unlisted, cluster) if _array(state.job) in unlisted]
    known = {_array(state.job) for state in states}
    unknown = [
        JobState(number, "UNKNOWN", "Slurm has forgotten it", "", None, 0)
        for number in numbers
        if number not in known
    ]
    return sorted([*states, *unknown], key=lambda state: _order(state.job))


def living(numbers: Sequence[str], cluster: str = "") -> list[JobState]:
    """States of those jobs, and of those tasks of their arrays, that have not ended.

    Raises:
        LaunchError: Slurm does not answer.
    """
    states = status(numbers, cluster) if numbers else []
    return [state for state in states if not state.ended and state.state != "UNKNOWN"]


def cancel(numbers: Sequence[str], cluster: str = "") -> str:
    """Cancel running and waiting jobs of one cluster.

    Raises:
        LaunchError: Slurm refuses.
    """
    return run(["scancel", *numbers], cluster=cluster)


def logs(directory: Path) -> list[Path]:
    """Logs of a launch directory, oldest first."""
    return sorted(directory.glob("*.log"), key=lambda path: path.stat().st_mtime)


def _own_jobs(_numbers: Sequence[str], cluster: str) -> list[JobState]:
    return parse_squeue(run([*SQUEUE, "--me"], cluster=cluster))


def _jobs_of_anyone(numbers: Sequence[str], cluster: str) -> list[JobState]:
    """Jobs that squeue lists by number: another user may have submitted one for the same run."""
    try:
        return parse_squeue(run([*SQUEUE, f"--jobs={','.join(numbers)}"], cluster=cluster))
    except LaunchError as error:
        # fails if it knows none of them
        if "Invalid job id" not in str(error):
            raise
        return []


def _accounted_jobs(numbers: Sequence[str], cluster: str) -> list[JobState]:
    try:
        return parse_sacct(run([*SACCT, f"--jobs={','.join(numbers)}"], cluster=cluster))
    except LaunchError:
        # no accounting on this cluster: squeue is the only source
        return []


def _dependencies(job: Job) -> list[str]:
    dependency = job.config.slurm.options.get("dependency")
    return [str(dependency)] if dependency else []


def _array(job: str) -> str:
    return job.partition("_")[0]


def _order(job: str) -> tuple[int, int]:
    # earlier versions noted what sbatch printed, whatever it was
    number, _, task = job.partition("_") if re.fullmatch("[0-9_]+", job) else ("0", "", "")
    return int(number), int(task or 0)
