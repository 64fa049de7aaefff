"""Running the programs of a cluster: sbatch, squeue, kubectl."""

import subprocess
from collections.abc import Sequence

from launch.errors import LaunchError

TIMEOUT_S = 60.0


def call(
    command: Sequence[str],
    text: str | None = None,
    *,
    timeout_s: float = TIMEOUT_S,
    errors_too: bool = False,
) -> str:
    """Run a program without a shell; returns what it prints.

    Args:
        command: Program and arguments.
        text: What it reads from its standard input.
        timeout_s: Longest time that it may take.
        errors_too: Return its standard error, too: some answer there.

    Raises:
        LaunchError: It is not installed, takes too long, or fails; with its own words.
    """
    try:
        result = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except FileNotFoundError:
        raise LaunchError(
            f"{command[0]}: not found on this machine; run this where the cluster's commands are"
        ) from None
    except subprocess.TimeoutExpired:
        raise LaunchError(f"{command[0]}: no answer within {timeout_s:.0f} s") from None
    if result.returncode:
        words = (result.stderr or result.stdout).strip()
        raise LaunchError(f"{command[0]} failed with status {result.returncode}: {words}")
    return result.stdout + result.stderr if errors_too else result.stdout
