"""From a run file to what the launchers need, and the jobs that were submitted for it."""

import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from launch import ledger
from launch.errors import LaunchError
from launch.job import Job, job_name
from launch.kubernetes import client as kubernetes
from launch.slurm import client as slurm
from pretrain.config import RunConfig
from pretrain.launch_commands import LaunchCancelCommand, LaunchLogsCommand, LaunchStatusCommand
from pretrain.run_file import dump_run, load_run


def job_of(run: RunConfig, sweep: Sequence[RunConfig] = ()) -> Job:
    """What the launchers need to know of a run, or of a sweep that it is the base of."""
    output = run.train.output.absolute()
    return Job(
        config=run.launch,
        name=job_name(run.launch, PurePosixPath(output)),
        directory=PurePosixPath(launch_directory(run)),
        working_directory=PurePosixPath(Path.cwd()),
        python=sys.executable,
        run_files=[dump_run(one) for one in sweep or [run]],
        output=PurePosixPath(output),
    )


def launch_directory(run: RunConfig) -> Path:
    """Where scripts, resolved runs, logs and the list of jobs are kept."""
    return run.train.output.absolute() / "launch"


def launch_status(command: LaunchStatusCommand) -> str:
    """A line per job.

    Raises:
        LaunchError: Nothing was submitted, or the cluster cannot be asked.
    """
    jobs = ledger.read(launch_directory(load_run(command.run_file)))
    lines = []
    numbers = [job.job for job in jobs if job.launcher == "slurm"]
    for state in slurm.status(numbers) if numbers else []:
        ended = "" if state.status is None else f" status {state.status}"
        back = f" requeued {state.requeues} times" if state.requeues else ""
        where = " ".join(part for part in (state.nodes, state.reason) if part)
        lines.append(f"slurm {state.job:<12} {state.state:<12} {where}{ended}{back}".rstrip())
    for job in jobs:
        if job.launcher == "kubernetes":
            lines.append(kubernetes.status(job))
    return "\n".join(lines)


def launch_logs(command: LaunchLogsCommand) -> str:
    """The end of the newest log.

    Raises:
        LaunchError: Nothing was submitted, or nothing has been written yet.
    """
    directory = launch_directory(load_run(command.run_file))
    newest = ledger.read(directory)[-1]
    if newest.launcher == "kubernetes":
        return kubernetes.logs(newest, command.lines)
    files = slurm.logs(directory)
    if not files:
        raise LaunchError(f"{directory}: no log yet; `resonance launch status` shows what waits")
    text = files[-1].read_text(encoding="utf-8", errors="replace")
    return "\n".join([f"{files[-1]}:", *text.splitlines()[-command.lines :]])


def launch_cancel(command: LaunchCancelCommand) -> str:
    """Cancel what has not ended.

    Raises:
        LaunchError: Nothing was submitted, or the cluster refuses.
    """
    jobs = ledger.read(launch_directory(load_run(command.run_file)))
    numbers = [job.job for job in jobs if job.launcher == "slurm"]
    states = slurm.status(numbers) if numbers else []
    alive = [state.job for state in states if not state.ended and state.state != "UNKNOWN"]
    if alive:
        slurm.cancel(alive)
    deleted = [kubernetes.delete(job) for job in jobs if job.launcher == "kubernetes"]
    lines = [f"cancelled {job}" for job in alive] + deleted
    return "\n".join(lines) or "nothing to cancel: every job has ended"
