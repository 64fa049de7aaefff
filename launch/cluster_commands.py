"""Calls of a cluster's programs: sbatch, squeue, kubectl."""

import subprocess
from collections.abc import Mapping, Sequence

from launch.errors import LaunchError

TIMEOUT_S = 60.0


def call(
    command: Sequence[str],
    text: str | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
    errors_too: bool = False,
) -> str:
    """Run a program without a shell.

    Args:
        command: Program and arguments.
        text: Standard input of the program.
        environment: Environment of the program; None for this process's.
        timeout_s: Time limit of the program; None for a minute.
        errors_too: Whether to return standard error, too, before the output.

    Returns:
        The program's output.

    Raises:
        LaunchError: The program is not installed, takes too long, or fails; with its message.
    """
    timeout_s = timeout_s or TIMEOUT_S
    try:
        result = subprocess.run(
            command,
            input=text,
            capture_output=True,
            encoding="utf-8",
            # a site's message may be in another encoding
            errors="replace",
            env=environment,
            timeout=timeout_s,
            check=False,
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
    return result.stderr + result.stdout if errors_too else result.stdout
