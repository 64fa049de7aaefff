"""Calling `resonance` as a user does: in a process that ends with the command."""

import os
import subprocess
import sys
from pathlib import Path

from pretrain import cli
from tests.distributed.ranks import run_ranks
from tests.processes import run_command

COMMAND = [sys.executable, "-m", "pretrain.cli"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def resonance(*arguments: object, status: int = 0, fresh: bool = False, stdin: str = "") -> str:
    """The output of a sub-command; its exit status must be the expected one.

    Args:
        arguments: The sub-command and its flags.
        status: Its exit status.
        fresh: Start Python as a shell does, instead of forking a process that has imported torch.
        stdin: What it reads.
    """
    words = [str(argument) for argument in arguments]
    if fresh:
        result = subprocess.run(
            [*COMMAND, *words], capture_output=True, text=True, env=ENVIRONMENT, input=stdin
        )
    else:
        result = run_command(words, ENVIRONMENT, stdin)
    assert result.returncode == status, result.stdout + result.stderr
    return result.stdout + result.stderr


def pretrain_on_two_ranks(run_file: Path, *flags: str) -> None:
    """Train as `resonance launch local` does, on ranks that have imported torch already."""
    run_ranks(_pretrain, 2, run_file.parent, [str(run_file), *flags])


def _pretrain(_rank: int, arguments: list[str]) -> None:
    cli.main(["pretrain", *arguments])


def files_below(folder: Path) -> set[str]:
    """Relative paths of all files in a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
