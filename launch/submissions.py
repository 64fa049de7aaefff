"""`jobs.jsonl` in a launch directory: the submissions of a run."""

import json
import sys
from pathlib import Path
from typing import Literal, NamedTuple

from launch.errors import LaunchError
from launch.json_lines import Record, mend_lines, read_lines

NAME = "jobs.jsonl"


class Submitted(NamedTuple):
    """Submission of a run.

    Attributes:
        launcher: Cluster that it was submitted to.
        job: Slurm's job number, or KIND/NAME of a Kubernetes object.
        namespace: Kubernetes namespace, or Slurm's cluster; empty for the current one.
    """

    launcher: Literal["slurm", "kubernetes"]
    job: str
    namespace: str = ""


def note(directory: Path, submitted: Submitted) -> None:
    """Append a submission.

    Raises:
        LaunchError: The file cannot be written; the message names the job, which is submitted.
    """
    path = directory / NAME
    try:
        # a line that a crash has cut short would swallow the new one
        _mend(path)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(submitted._asdict()) + "\n")
    except OSError as error:
        raise LaunchError(
            f"{path}: cannot be written ({error.strerror}): {submitted.launcher} has accepted job "
            f"{submitted.job}, and `resonance launch status|cancel` do not know of it"
        ) from error


def read(directory: Path) -> list[Submitted]:
    """All submissions, oldest first; lines that cannot be read are put aside with a warning."""
    file = directory / NAME
    _mend(file)
    return [Submitted(**record) for record in read_lines(file, _is_submission)]


def read_some(directory: Path) -> list[Submitted]:
    """All submissions, oldest first; at least one.

    Raises:
        LaunchError: Nothing has been submitted.
    """
    jobs = read(directory)
    if not jobs:
        raise LaunchError(f"{directory / NAME}: nothing has been submitted for this run")
    return jobs


def _mend(file: Path) -> None:
    if problem := mend_lines(file, _is_submission):
        print(f"{problem}; jobs in such lines are not known any more", file=sys.stderr)


def _is_submission(record: Record) -> bool:
    known = {"launcher", "job"} <= set(record) <= set(Submitted._fields)
    texts = all(isinstance(value, str) for value in record.values())
    return known and texts and record["launcher"] in ("slurm", "kubernetes")
