"""Checks with Slurm before a job is submitted."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from launch.errors import LaunchError
from launch.job import Job
from launch.slurm import container
from launch.slurm.commands import rows, run, test_only
from launch.slurm.directives import node_choice
from launch.slurm.script import batch_script
from launch.versions import differences, versions

NODE_ANSWER_S = 300


def can_start(job: Job) -> Iterator[str]:
    """Check that Slurm has the partition and could start the job; yields when.

    Raises:
        LaunchError: Slurm could never start the job; the message has Slurm's reason.
    """
    if job.config.slurm.partition:
        _require_partitions(job.config.slurm.partition)
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
        "--ntasks": str(job.config.nodes),
        "--ntasks-per-node": "1",
        "--time": "1",
        "--export": "ALL",
        **placement,
        **container.srun_options(job),
    }
    words = [f"{name}={value}" for name, value in srun_options.items()]
    ranks = [*container.prefix(job), container.python(job), "-m", "launch.versions"]
    text = run(["srun", *words, *ranks], timeout_s=NODE_ANSWER_S)
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


def _require_partitions(names: str) -> None:
    """Check partitions: one that is unknown is an error; Slurm takes any that is up.

    Raises:
        LaunchError: A partition is unknown, or all are closed, where a job would wait forever.
    """
    listing = run(["sinfo", "--noheader", f"--partition={names}", "--format=%R|%a"])
    states = {name: state for name, state in rows(listing, 2) if name in names.split(",")}
    unknown = [name for name in names.split(",") if name not in states]
    if unknown:
        raise LaunchError(f"Slurm has no partition {' and no partition '.join(unknown)}")
    if "up" not in states.values():
        closed = [f"partition {name} is {state}" for name, state in states.items()]
        raise LaunchError(", ".join(closed))


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
