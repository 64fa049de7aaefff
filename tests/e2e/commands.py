"""Calling `resonance` as a user does: in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

COMMAND = [sys.executable, "-m", "pretrain.cli"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def resonance(*arguments: object, status: int = 0) -> str:
    """Run a sub-command and return what it printed; its exit status must be the expected one."""
    result = subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, env=ENVIRONMENT
    )
    assert result.returncode == status, result.stdout + result.stderr
    return result.stdout + result.stderr


def files_below(folder: Path) -> set[str]:
    """Relative paths of all files in a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
