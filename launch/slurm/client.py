"""Submitting, watching and cancelling batch jobs with Slurm's own commands."""

from collections.abc import Sequence
from pathlib import Path

from launch.cluster_commands import call
from launch.errors import LaunchError
from launch.job import Job
from launch.slurm.job_states import JobState, parse_jobs
from launch.slurm.requeue import attempts_log
from launch.slurm.script import CHAIN, batch_script, failure_logs, script_path
from launch.submissions import Submitted, note


def write_files(job: Job) -> Path:
    """Put the script and the resolved runs where the nodes will read them; returns the script.

    Raises:
        LaunchError: A value cannot be rendered.
    """
    text = batch_script(job)
    Path(job.directory).mkdir(parents=True, exist_ok=True)
    for task, run in enumerate(job.run_files):
        Path(job.run_file(task)).write_text(run, encoding="utf-8")
    script = Path(script_path(job))
    script.write_text(text, encoding="utf-8")
    return script


def test_only(script: Path) -> str:
    """Ask Slurm whether and when it could start a script, without submitting it.

    Raises:
        LaunchError: It never could; Slurm's own words say why.
    """
    return call(["sbatch", "--test-only", str(script)], errors_too=True).strip()


def submit(job: Job, script: Path, chain: int = 1) -> list[str]:
    """Submit a script; returns the job numbers. Failures of earlier submissions are forgotten.

    Args:
        job: What the script was made of.
        script: As `write_files` returned it.
        chain: Number of jobs, each of which begins when the one before has ended, however it
            ended, and goes on from the newest checkpoint.

    Raises:
        LaunchError: Slurm refuses; nothing of the chain is left in the queue then.
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
    """The state of jobs and of their arrays' tasks.

    Jobs that squeue has forgotten are looked up in the accounting database, if there is one.

    Raises:
        LaunchError: Slurm cannot be asked.
    """
    wanted = set(numbers)
    # squeue leaves ended jobs out unless asked for every state
    found = _matching(parse_jobs(call(["squeue", "--json", "--states=all"])), wanted)
    lost = sorted(wanted - {_array(state.job) for state in found})
    if lost:
        try:
            text = call(["sacct", "--json", f"--jobs={','.join(lost)}"])
        except LaunchError:
            # no accounting on this cluster: squeue's memory is all there is
            text = '{"jobs": []}'
        found += _matching(parse_jobs(text), set(lost))
    known = {_array(state.job) for state in found}
    unknown = [
        JobState(number, "", "UNKNOWN", "Slurm has forgotten it", "", None, 0)
        for number in numbers
        if number not in known
    ]
    return sorted([*found, *unknown], key=lambda state: _order(state.job))


def living(numbers: Sequence[str]) -> list[JobState]:
    """Those of some jobs, and of their arrays' tasks, that have not ended.

    Raises:
        LaunchError: Slurm cannot be asked.
    """
    states = status(numbers) if numbers else []
    return [state for state in states if not state.ended and state.state != "UNKNOWN"]


def cancel(numbers: Sequence[str]) -> str:
    """Cancel jobs, those that run and those that wait.

    Raises:
        LaunchError: Slurm refuses.
    """
    return call(["scancel", *numbers])


def logs(directory: Path) -> list[Path]:
    """Logs of a launch directory, oldest first."""
    return sorted(directory.glob("*.log"), key=lambda path: path.stat().st_mtime)


def _matching(states: Sequence[JobState], wanted: set[str]) -> list[JobState]:
    return [state for state in states if _array(state.job) in wanted]


def _array(job: str) -> str:
    return job.partition("_")[0]


def _order(job: str) -> tuple[int, int]:
    number, _, task = job.partition("_")
    return int(number), int(task or 0)
