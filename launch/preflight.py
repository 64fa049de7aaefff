"""Checks before a run is submitted; every finding that would stop it has a remedy."""

import contextlib
import math
import os
import shutil
import socket
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Literal, NamedTuple

from launch.errors import LaunchError
from launch.slurm_config import SlurmConfig, deadline_time, time_limit_seconds
from launch.versions import unmet_requirements


class Finding(NamedTuple):
    """Result of one check.

    Attributes:
        level: `bad` stops a submission, `warn` does not.
        subject: Name of what was checked.
        text: Description of its state.
        remedy: Instruction for the user; empty if all is well.
    """

    level: Literal["ok", "warn", "bad"]
    subject: str
    text: str
    remedy: str = ""


class Plan(NamedTuple):
    """Remaining work of a run.

    Attributes:
        steps: Remaining steps.
        seconds_per_step: Time per step in an earlier part of the run; None if unknown.
        jobs: Number of jobs in the chain.
    """

    steps: int
    seconds_per_step: float | None
    jobs: int


def report(findings: list[Finding]) -> str:
    """Text for a terminal: a line per finding, and below it the remedy."""
    width = max([12, *(len(finding.subject) for finding in findings)])
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:<4} {finding.subject:<{width}} {finding.text}")
        if finding.remedy:
            lines.append(f"     {'':<{width}} -> {finding.remedy}")
    return "\n".join(lines)


def check_output(output: Path, needed_bytes: int | None) -> Iterator[Finding]:
    """Whether a run can write its checkpoints.

    Args:
        output: Directory of the run; need not exist.
        needed_bytes: Size of the checkpoints still to be written; None if unknown.
    """
    existing = next(path for path in (output, *output.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        yield Finding(
            "bad",
            "output",
            f"{existing} cannot be written",
            "choose another train.output, or get permission to write there",
        )
        return
    yield Finding("ok", "output", f"{existing} can be written")
    free = shutil.disk_usage(existing).free
    if needed_bytes is None:
        yield Finding(
            "warn",
            "disk",
            f"{free / 2**30:.1f} GiB free; the size of a checkpoint is unknown here",
            "check where PyTorch is installed",
        )
    elif free < needed_bytes:
        yield Finding(
            "bad",
            "disk",
            f"{free / 2**30:.2f} GiB free at {existing}; future checkpoints need "
            f"{needed_bytes / 2**30:.2f} GiB",
            "lower checkpoint.keep_last, raise checkpoint.keep_every, free space, or choose "
            "another train.output",
        )
    else:
        text = f"{free / 2**30:.1f} GiB free, {needed_bytes / 2**30:.2f} GiB needed"
        yield Finding("ok", "disk", text)


def check_time(slurm: SlurmConfig, stop_lead_s: int, plan: Plan, now: datetime) -> Finding:
    """Whether the planned steps fit into the time limit of the jobs and before the deadline."""
    limit_s = time_limit_seconds(slurm.time_limit)
    if slurm.deadline:
        left_s = (deadline_time(slurm.deadline) - now).total_seconds()
        if left_s < limit_s:
            return Finding(
                "bad",
                "time",
                f"launch.slurm.deadline {slurm.deadline} is "
                + ("past" if left_s <= 0 else f"in {left_s:.0f} s, before the time limit ends"),
                "choose a later deadline or a shorter launch.slurm.time_limit",
            )
    if plan.seconds_per_step is None:
        return Finding(
            "warn",
            "time",
            f"no step has been timed yet, so {plan.steps} steps cannot be compared with a limit "
            f"of {slurm.time_limit}",
            "jobs are requeued at the limit and resume; time a few steps to know how often",
        )
    needed_s = plan.steps * plan.seconds_per_step
    jobs = max(1, math.ceil(int(needed_s) / (limit_s - stop_lead_s)))
    text = f"{plan.steps} steps of {plan.seconds_per_step:.2f} s need {needed_s / 3600:.1f} h"
    # nothing is requeued in a chain
    jobs_to_run = plan.jobs if plan.jobs > 1 else 1 + slurm.max_requeues
    if jobs > jobs_to_run:
        return Finding(
            "bad",
            "time",
            f"{text}, {jobs} jobs of {slurm.time_limit}; {jobs_to_run} will run",
            f"--chain {jobs}, a higher launch.slurm.max_requeues or a longer time_limit",
        )
    return Finding("ok", "time", f"{text}: {jobs} jobs of {slurm.time_limit}")


def check_port(port: int) -> Finding:
    """Whether the port of the rendezvous can be used on this machine."""
    if port == 0:
        return Finding("ok", "port", "chosen when the run starts")
    with contextlib.closing(socket.socket()) as probe:
        try:
            probe.bind(("", port))
        except OSError as error:
            return Finding(
                "bad",
                "port",
                f"launch.port {port} cannot be used on this machine: {error.strerror}",
                "choose another launch.port above 1024, or 0 for a free one",
            )
    return Finding("ok", "port", f"{port} is free on this machine")


def check_versions(package: str) -> Finding:
    """Whether the libraries that a package requires are installed here."""
    unmet = list(unmet_requirements(package))
    if unmet:
        return Finding("bad", "versions", "; ".join(unmet), "make setup")
    return Finding("ok", "versions", f"every library meets the requirements of {package}")


def judged(subject: str, check: Iterator[str], remedy: str) -> Finding:
    """The finding of a check that yields descriptions, or raises LaunchError if all is not well."""
    try:
        text = "; ".join(check)
    except LaunchError as error:
        return Finding("bad", subject, str(error), remedy)
    return Finding("ok", subject, text)
