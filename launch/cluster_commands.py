"""Calls of a cluster's programs: sbatch, squeue, kubectl."""

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
    """Run a program without a shell.

    Args:
        command: Program and arguments.
        text: Standard input of the program.
        timeout_s: Time limit of the program.
        errors_too: Whether to return standard error, too: some programs answer there.

    Returns:
        The program's output.

    Raises:
        LaunchError: The program is not installed, takes too long, or fails; with its message.
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
        message = (result.stderr or result.stdout).strip()
        raise LaunchError(f"{command[0]} failed with status {result.returncode}: {message}")
    return result.stdout + result.stderr if errors_too else result.stdout
