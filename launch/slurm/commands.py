"""Slurm's commands, called as from a login node, and the lines of their output that matter.

Sites wrap these commands and print messages around their output, so no output is read as a whole.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from launch.cluster_commands import call
from launch.errors import LaunchError
from launch.slurm_options import overriding_variables
from launch.submissions import Submitted

# variables of the surrounding job or step, and defaults of a user for the display of jobs
SURROUNDING = (
    "SLURM",
    "_SLURM_SPANK_OPTION_",
    "PMI",
    "SACCT_",
    "SALLOC_",
    "SCANCEL_",
    "SCONTROL_",
    "SINFO_",
    "SQUEUE_",
    "SRUN_",
)
# variables by which the commands find a cluster and prove who calls
CLUSTER = (
    "SLURM_CLUSTERS",
    "SLURM_CONF",
    "SLURM_CONF_SERVER",
    "SLURM_JWT",
    "SLURM_SACK_JWKS",
    "SLURM_SACK_KEY",
    "SLURM_SACK_SOCKET",
)
# GPUs of the surrounding job
DEVICES = ("CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")
# a submission that is given up may have succeeded
SUBMISSION_S = 300
# what sbatch prints with --parsable, and without
JOB_NUMBER = re.compile(
    r"(?:Submitted batch job )?(?P<number>[0-9]+)(?:(?:;| on cluster )(?P<cluster>\S+))?"
)


def login_environment(
    environment: Mapping[str, str], options: Sequence[str] = ()
) -> dict[str, str]:
    """An environment without what it inherits from a surrounding job; a pure function.

    sbatch and srun take options from it, and pass it on to the new job.

    Args:
        environment: An environment, in an allocation or not.
        options: Options of the #SBATCH lines, which no variable is to replace.
    """
    left_out = {name for name in environment if name.startswith(SURROUNDING)} - {*CLUSTER}
    left_out |= overriding_variables(environment, options)
    if "SLURM_JOB_ID" in environment:
        left_out |= {*DEVICES}
    kept = {name: value for name, value in environment.items() if name not in left_out}
    if "SBATCH_CLUSTERS" in environment:
        # of all commands, only sbatch reads it
        kept["SLURM_CLUSTERS"] = environment["SBATCH_CLUSTERS"]
    return kept


def run(command: Sequence[str], *, cluster: str = "", timeout_s: float | None = None) -> str:
    """The output of one of Slurm's commands.

    Args:
        command: Program and arguments.
        cluster: Name of the cluster; empty for the one of this environment.
        timeout_s: See `call`.

    Raises:
        LaunchError: See `call`.
    """
    environment = login_environment(os.environ)
    if cluster:
        environment["SLURM_CLUSTERS"] = cluster
    return call(command, environment=environment, timeout_s=timeout_s)


def rows(text: str, columns: int) -> Iterator[list[str]]:
    """The lines of an output that have that many columns, separated by `|`.

    Args:
        text: The output.
        columns: Number of columns; the last one may contain the separator.
    """
    for line in text.splitlines():
        cells = line.split("|", columns - 1)
        if len(cells) == columns:
            yield [cell.strip() for cell in cells]


def sbatch(script: Path, *options: str, arguments: Sequence[str] = ()) -> Submitted:
    """Submit a script.

    Args:
        script: The script.
        options: Options of sbatch in addition to those in the script.
        arguments: Arguments of the script.

    Returns:
        The job, with its cluster if the environment offers several.

    Raises:
        LaunchError: Slurm refuses, or sbatch prints no job number; with its words.
    """
    output = _sbatch(script, "--parsable", *options, arguments=arguments)
    matches = [
        match for line in output.splitlines() if (match := JOB_NUMBER.fullmatch(line.strip()))
    ]
    if not matches:
        raise LaunchError(
            f"sbatch printed no job number; `squeue --me` shows whether there is a new job; it "
            f"said: {output.strip()!r}"
        )
    clusters = login_environment(os.environ).get("SLURM_CLUSTERS")
    cluster = matches[-1]["cluster"] if clusters else None
    return Submitted("slurm", matches[-1]["number"], cluster or "")


def test_only(script: Path) -> str:
    """Slurm's estimate of when it could start a script, which is not submitted.

    Raises:
        LaunchError: Slurm could never start it; the message has Slurm's reason.
    """
    return _sbatch(script, "--test-only").strip()


def _sbatch(script: Path, *options: str, arguments: Sequence[str] = ()) -> str:
    lines = script.read_text(encoding="utf-8").splitlines()
    set_by_script = [
        line.removeprefix("#SBATCH --").partition("=")[0]
        for line in lines
        if line.startswith("#SBATCH --")
    ]
    return call(
        ["sbatch", *options, str(script), *arguments],
        environment=login_environment(os.environ, set_by_script),
        timeout_s=SUBMISSION_S,
        errors_too=True,
    )
