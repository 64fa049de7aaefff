"""Submission, status and cancellation of batch jobs with Slurm's own commands."""

from collections.abc import Sequence
from pathlib import Path

from launch.cluster_commands import call
from launch.errors import LaunchError
from launch.job import Job
from launch.slurm.job_states import JobState, parse_jobs
from launch.slurm.requeue import attempts_log
from launch.slurm.script import CHAIN, batch_script, failure_logs, script_path, secret_path
from launch.submissions import Submitted, note
from launch.torchrun import write_secret


def write_files(job: Job) -> Path:
    """Write the script, the resolved runs and a new secret to where the nodes read them.

    Returns:
        The path of the script.

    Raises:
        LaunchError: A value cannot be rendered.
    """
    text = batch_script(job)
    Path(job.directory).mkdir(parents=True, exist_ok=True)
    for task, run in enumerate(job.run_files):
        Path(job.run_file(task)).write_text(run, encoding="utf-8")
    write_secret(Path(secret_path(job)))
    script = Path(script_path(job))
    script.write_text(text, encoding="utf-8")
    return script


def test_only(script: Path) -> str:
    """Slurm's estimate of when it could start a script, which is not submitted.

    Raises:
        LaunchError: Slurm could never start it; the message has Slurm's reason.
    """
    return call(["sbatch", "--test-only", str(script)], errors_too=True).strip()


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
    options, mode = (["--dependency=singleton"], [CHAIN]) if chain > 1 else ([], [])
    numbers: list[str] = []
    try:
        for _ in range(chain):
            answer = call(["sbatch", "--parsable", *options, str(script), *mode])
            numbers.append(answer.strip().partition(";")[0])
            note(Path(job.directory), Submitted("slurm", numbers[-1]))
    except LaunchError:
        if numbers:
            cancel(numbers)
        raise
    return numbers


def status(numbers: Sequence[str]) -> list[JobState]:
    """States of jobs and of the tasks of their arrays.

    Jobs that squeue no longer lists are read from the accounting database, if there is one.

    Raises:
        LaunchError: Slurm does not answer.
    """
    requested = set(numbers)
    # squeue omits ended jobs unless every state is requested
    states = _matching(parse_jobs(call(["squeue", "--json", "--states=all"])), requested)
    unlisted = sorted(requested - {_array(state.job) for state in states})
    if unlisted:
        try:
            text = call(["sacct", "--json", f"--jobs={','.join(unlisted)}"])
        except LaunchError:
            # no accounting on this cluster: squeue is the only source
            text = '{"jobs": []}'
        states += _matching(parse_jobs(text), set(unlisted))
    known = {_array(state.job) for state in states}
    unknown = [
        JobState(number, "", "UNKNOWN", "Slurm has forgotten it", "", None, 0)
        for number in numbers
        if number not in known
    ]
    return sorted([*states, *unknown], key=lambda state: _order(state.job))


def living(numbers: Sequence[str]) -> list[JobState]:
    """States of those jobs, and of those tasks of their arrays, that have not ended.

    Raises:
        LaunchError: Slurm does not answer.
    """
    states = status(numbers) if numbers else []
    return [state for state in states if not state.ended and state.state != "UNKNOWN"]


def cancel(numbers: Sequence[str]) -> str:
    """Cancel running and waiting jobs.

    Raises:
        LaunchError: Slurm refuses.
    """
    return call(["scancel", *numbers])


def logs(directory: Path) -> list[Path]:
    """Logs of a launch directory, oldest first."""
    return sorted(directory.glob("*.log"), key=lambda path: path.stat().st_mtime)


def _matching(states: Sequence[JobState], numbers: set[str]) -> list[JobState]:
    return [state for state in states if _array(state.job) in numbers]


def _array(job: str) -> str:
    return job.partition("_")[0]


def _order(job: str) -> tuple[int, int]:
    number, _, task = job.partition("_")
    return int(number), int(task or 0)
