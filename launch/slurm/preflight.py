"""Questions to Slurm before a job is submitted to it."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from launch.errors import LaunchError
from launch.job import Job
from launch.programs import call
from launch.slurm.client import test_only
from launch.slurm.directives import options
from launch.slurm.script import batch_script
from launch.versions import differences, versions

NODE_ANSWER_S = 300
# What chooses the nodes of a job.
PLACE = ("partition", "account", "qos", "reservation", "constraint", "exclude")


def can_start(job: Job) -> Iterator[str]:
    """Whether Slurm knows the partition and could ever give the nodes, and when.

    Raises:
        LaunchError: It could not, in Slurm's words.
    """
    partition = job.config.slurm.partition
    if partition:
        # an unknown name makes an empty answer, a closed partition is queued for ever
        states = call(["sinfo", "--noheader", f"--partition={partition}", "--format=%a"]).split()
        if not states:
            raise LaunchError(f"Slurm has no partition {partition}")
        if "up" not in states:
            raise LaunchError(f"partition {partition} is {states[0]}")
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "job.sh"
        script.write_text(batch_script(job), encoding="utf-8")
        yield test_only(script)


def versions_agree(job: Job) -> Iterator[str]:
    """Whether the nodes have this machine's versions: asked in a job of a minute.

    Raises:
        LaunchError: They differ, or no node answers.
    """
    nodes = [f"--nodes={job.config.nodes}", "--ntasks-per-node=1", "--time=1"]
    table = options(job)
    place = [f"--{key}={table[key]}" for key in PLACE if key in table]
    command = ["srun", *nodes, *place, job.python, "-m", "launch.versions"]
    answers = [json.loads(line) for line in call(command, timeout_s=NODE_ANSWER_S).splitlines()]
    found = list(differences(versions(), answers))
    if found:
        raise LaunchError("; ".join(found))
    yield f"{len(answers)} nodes have the versions of this machine"
