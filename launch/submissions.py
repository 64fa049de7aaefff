"""`jobs.jsonl` in a launch directory: the submissions of a run."""

import json
from pathlib import Path
from typing import Literal, NamedTuple

from launch.errors import LaunchError

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
    """Append a submission."""
    with (directory / NAME).open("a", encoding="utf-8") as file:
        file.write(json.dumps(submitted._asdict()) + "\n")


def read(directory: Path) -> list[Submitted]:
    """All submissions, oldest first.

    Raises:
        LaunchError: Nothing has been submitted, or the file is damaged.
    """
    file = directory / NAME
    if not file.exists():
        raise LaunchError(f"{file}: no such file: nothing has been submitted for this run")
    try:
        return [Submitted(**json.loads(line)) for line in file.read_text("utf-8").splitlines()]
    except (json.JSONDecodeError, TypeError) as error:
        raise LaunchError(f"{file}: damaged: {error}; remove it to forget these jobs") from error
