"""The job of a run, as the launchers need it, and the jobs submitted for a run."""

import functools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from launch import submissions
from launch.errors import LaunchError
from launch.job import Job, job_name
from launch.kubernetes import client as kubernetes
from launch.slurm import client as slurm
from pretrain.config import RunConfig
from pretrain.errors import RunError
from pretrain.launch_commands import LaunchCancelCommand, LaunchLogsCommand, LaunchStatusCommand
from pretrain.run_file import dump_run, load_run, private_keys


def job_of(
    run: RunConfig, sweep: Sequence[RunConfig] = (), *, root: PurePosixPath | None = None
) -> Job:
    """The launchers' description of a run or of a sweep.

    Args:
        run: The run, or the base of the sweep.
        sweep: The runs of the sweep's tasks.
        root: Folder on the machines at which relative paths start; None for this directory.

    Raises:
        RunError: A URL has credentials, which others could read in a job's files.
    """
    for task in sweep or [run]:
        if keys := private_keys(task):
            raise RunError(
                f"{', '.join(keys)}: found a URL with credentials, which a job's run file would "
                "show to others; expected one without: credentials come by the environment of the "
                "submission, a Secret (launch.kubernetes.secret) or files such as ~/.aws "
                "(docs/security.md)"
            )
    root = root or PurePosixPath(Path.cwd())
    output = root / run.train.output
    return Job(
        config=run.launch,
        name=job_name(run.launch, output),
        directory=PurePosixPath(launch_directory(run)),
        working_directory=root,
        python=sys.executable,
        run_files=[dump_run(task) for task in sweep or [run]],
        output=output,
    )


def pods_job_of(run: RunConfig) -> Job:
    """The job of a run in pods, where relative paths start in the volume claim."""
    return job_of(run, root=PurePosixPath(run.launch.kubernetes.mount_path))


def launch_directory(run: RunConfig) -> Path:
    """Folder of a run's scripts, resolved run files, logs and list of jobs."""
    return run.train.output.absolute() / "launch"


def require_ended(run: RunConfig) -> Iterator[str]:
    """Message that all jobs of a run have ended, so that nothing writes into its directory.

    Raises:
        LaunchError: A job has not ended, or the cluster cannot be queried.
    """
    jobs = submissions.read(launch_directory(run))
    alive = [
        f"slurm {state.job} ({state.state})"
        for cluster, numbers in _slurm_numbers(jobs).items()
        for state in slurm.living(numbers, cluster)
    ]
    alive += [f"kubernetes {job.job}" for job in _kubernetes_jobs(jobs) if kubernetes.lives(job)]
    if alive:
        raise LaunchError(f"{run.train.output} is in use: {', '.join(alive)} has not ended")
    yield "no earlier job of this run is left"


def _slurm_numbers(jobs: Sequence[submissions.Submitted]) -> dict[str, list[str]]:
    """The numbers of Slurm's jobs by their cluster, which is empty for the current one."""
    numbers: dict[str, list[str]] = {}
    for job in jobs:
        if job.launcher == "slurm":
            numbers.setdefault(job.namespace, []).append(job.job)
    return numbers


def _kubernetes_jobs(jobs: Sequence[submissions.Submitted]) -> list[submissions.Submitted]:
    """The Kubernetes jobs, each once: a job that is submitted again has the same name."""
    return list(dict.fromkeys(job for job in jobs if job.launcher == "kubernetes"))


def launch_status(command: LaunchStatusCommand) -> str:
    """The state of a run's jobs, a line for each (`resonance launch status`).

    Raises:
        LaunchError: Nothing was submitted, or the cluster cannot be queried.
    """
    jobs = submissions.read_some(launch_directory(load_run(command.run_file)))
    lines = []
    states = [
        state
        for cluster, numbers in _slurm_numbers(jobs).items()
        for state in slurm.status(numbers, cluster)
    ]
    for state in states:
        ended = "" if state.status is None else f" status {state.status}"
        back = f" requeued {state.requeues} times" if state.requeues else ""
        where = " ".join(part for part in (state.nodes, state.reason) if part)
        lines.append(f"slurm {state.job:<12} {state.state:<12} {where}{ended}{back}".rstrip())
    lines += [kubernetes.status(job) for job in _kubernetes_jobs(jobs)]
    return "\n".join(lines)


def launch_logs(command: LaunchLogsCommand) -> str:
    """The end of the newest log of a run's jobs (`resonance launch logs`).

    Raises:
        LaunchError: Nothing was submitted, or there is no log yet.
    """
    directory = launch_directory(load_run(command.run_file))
    newest = submissions.read_some(directory)[-1]
    if newest.launcher == "kubernetes":
        return kubernetes.logs(newest, command.lines)
    files = slurm.logs(directory)
    if not files:
        raise LaunchError(f"{directory}: no log yet; `resonance launch status` shows what waits")
    text = files[-1].read_text(encoding="utf-8", errors="replace")
    return "\n".join([f"{files[-1]}:", *text.splitlines()[-command.lines :]])


def launch_cancel(command: LaunchCancelCommand) -> str:
    """Cancel all jobs that have not ended (`resonance launch cancel`).

    Returns:
        A line per cancelled job.

    Raises:
        LaunchError: Nothing was submitted, or a cluster refuses; the message also names the jobs
            that were cancelled.
    """
    jobs = submissions.read_some(launch_directory(load_run(command.run_file)))
    cancellations = [
        *(
            functools.partial(_cancel_slurm, numbers, cluster)
            for cluster, numbers in _slurm_numbers(jobs).items()
        ),
        *(functools.partial(kubernetes.delete, job) for job in _kubernetes_jobs(jobs)),
    ]
    done, failed = [], []
    for cancel in cancellations:
        try:
            done.append(cancel())
        except LaunchError as error:
            failed.append(f"not cancelled: {error}")
    text = "\n".join(line for line in [*done, *failed] if line)
    if failed:
        raise LaunchError(text)
    return text or "nothing to cancel: every job has ended"


def _cancel_slurm(numbers: Sequence[str], cluster: str) -> str:
    alive = [state.job for state in slurm.living(numbers, cluster)]
    if alive:
        slurm.cancel(alive, cluster)
    return "\n".join(f"cancelled {job}" for job in alive)
