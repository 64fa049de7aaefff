"""Checks with Slurm before a job is submitted."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from launch.cluster_commands import call
from launch.errors import LaunchError
from launch.job import Job
from launch.slurm import container
from launch.slurm.client import test_only
from launch.slurm.directives import node_choice
from launch.slurm.script import batch_script
from launch.versions import differences, versions

NODE_ANSWER_S = 300


def can_start(job: Job) -> Iterator[str]:
    """Check that Slurm has the partition and could start the job; yields when.

    Raises:
        LaunchError: Slurm could never start the job; the message has Slurm's reason.
    """
    partition = job.config.slurm.partition
    if partition:
        # an unknown partition gives an empty answer; in a closed one a job would wait forever
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
    """Check, in a job of a minute, that all nodes have the same versions; yields a description.

    Unless the ranks run in a container, this machine must have the same versions, too.

    Raises:
        LaunchError: The versions differ, or a node does not answer.
    """
    placement = {f"--{key}": value for key, value in node_choice(job).items()}
    srun_options = {
        "--nodes": str(job.config.nodes),
        "--ntasks-per-node": "1",
        "--time": "1",
        **placement,
        **container.srun_options(job),
    }
    words = [f"{name}={value}" for name, value in srun_options.items()]
    ranks = [*container.prefix(job), container.python(job), "-m", "launch.versions"]
    text = call(["srun", *words, *ranks], timeout_s=NODE_ANSWER_S)
    answers = _answers(text)
    if len(answers) != job.config.nodes:
        raise LaunchError(
            f"{len(answers)} of {job.config.nodes} nodes reported their versions; found {text!r}"
        )
    outside = job.config.slurm.container == "none"
    mismatches = list(differences(versions() if outside else answers[0], answers))
    if mismatches:
        raise LaunchError("; ".join(mismatches))
    yield f"{len(answers)} nodes have the versions " + (
        "of this machine" if outside else f"of {answers[0]['host']} in the container"
    )


def _answers(text: str) -> list[dict[str, str]]:
    """The output of `launch.versions`, without the lines of login banners and modules."""
    answers = []
    for line in text.splitlines():
        try:
            answer = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(answer, dict) and "host" in answer:
            answers.append(answer)
    return answers
