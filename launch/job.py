"""What a launcher needs to know of a run: plain values, so that rendering is a pure function."""

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from launch.config import LaunchConfig
from launch.field_types import digest_of, name_of

# Characters of a directory's name in that of a job: what operators append must fit in, too.
MADE_OF_PATH = 39


class Job(NamedTuple):
    """One run, or one sweep of runs that differ in a few values.

    Attributes:
        config: The `[launch]` table.
        name: Of the job.
        directory: Where scripts, run files and logs of the launch are kept, on the nodes' disk.
        working_directory: Relative paths of the run start here.
        python: The interpreter on the nodes.
        run_files: The resolved runs as TOML; more than one is a sweep.
        output: The run's directory.
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
        """Whether this is more than one run."""
        return len(self.run_files) > 1

    def run_file(self, task: int = 0) -> PurePosixPath:
        """Where the resolved run of a task is kept."""
        return self.directory / (f"run-{task}.toml" if self.sweep else "run.toml")


def job_name(config: LaunchConfig, output: PurePosixPath) -> str:
    """The configured name, or one made of the run's directory.

    Clusters take two jobs of one name for the same: the whole path is told by its digest.
    """
    return (
        config.name or f"{name_of(output.name)[:MADE_OF_PATH].rstrip('-')}-{digest_of(str(output))}"
    )
