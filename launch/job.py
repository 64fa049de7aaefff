"""Description of a job for launchers: plain values, so that rendering is a pure function."""

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from launch.config import LaunchConfig
from launch.field_types import digest_of, name_of

# longest part of a job's name from a directory's name: suffixes of operators must fit, too
MADE_OF_PATH = 39


class Job(NamedTuple):
    """A run, or a sweep of runs that differ in a few values.

    Attributes:
        config: The `[launch]` table.
        name: Name of the job.
        directory: Directory on the nodes for scripts, run files and logs of the launch.
        working_directory: Directory where relative paths of the run start.
        python: Python interpreter on the nodes.
        run_files: Resolved runs as TOML; more than one is a sweep.
        output: Directory of the run.
    """

    config: LaunchConfig
    name: str
    directory: PurePosixPath
    working_directory: PurePosixPath
    python: str
    run_files: Sequence[str]
    output: PurePosixPath

    @property
    def sweep(self) -> bool:
        """Whether the job has more than one run."""
        return len(self.run_files) > 1

    def run_file(self, task: int = 0) -> PurePosixPath:
        """Path of the resolved run of a task."""
        return self.directory / (f"run-{task}.toml" if self.sweep else "run.toml")


def job_name(config: LaunchConfig, output: PurePosixPath) -> str:
    """The configured name, or one made from the run's directory.

    It has a digest of the whole path, because clusters treat jobs of the same name as one job.
    """
    return (
        config.name or f"{name_of(output.name)[:MADE_OF_PATH].rstrip('-')}-{digest_of(str(output))}"
    )
