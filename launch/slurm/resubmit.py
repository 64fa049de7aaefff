"""Start of a failed job on other nodes; the batch script runs it on its first node.

Arguments are the nodes to exclude, the mode of the script (`chain` if another job of the same run
waits, which is then changed) and the path of the script.
"""

import os
import sys
from pathlib import Path

from launch.errors import LaunchError
from launch.slurm.commands import rows, run, sbatch
from launch.slurm.script import CHAIN
from launch.submissions import note


def resubmit(nodes: str, script: Path) -> None:
    """Submit a script again, to start after this job, and note the new job.

    Raises:
        LaunchError: Slurm refuses.
    """
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    options = [f"--exclude={nodes}", f"--dependency=afterany:{os.environ['SLURM_JOB_ID']}"]
    note(script.parent, sbatch(script, *options, *([f"--array={task}"] if task else [])))


def exclude_from_next(nodes: str) -> None:
    """Change the waiting jobs of a chain.

    Raises:
        LaunchError: Slurm refuses.
    """
    name = os.environ["SLURM_JOB_NAME"]
    listing = ["squeue", "--noheader", "--me", f"--name={name}", "--states=PENDING"]
    for mark, number in rows(run([*listing, "--format=job|%A"]), 2):
        if mark == "job" and number.isdigit():
            run(["scontrol", "update", f"JobId={number}", f"ExcNodeList={nodes}"])


def main() -> None:
    """Exclude nodes from what runs next."""
    nodes, mode, script = sys.argv[1:]
    try:
        if mode == CHAIN:
            exclude_from_next(nodes)
        else:
            resubmit(nodes, Path(script))
    except LaunchError as error:
        sys.exit(f"resonance: not started again without {nodes}: {error}")


if __name__ == "__main__":
    main()
