"""Starting the ranks of a run on this machine with torchrun."""

import sys
from collections.abc import Sequence
from pathlib import Path

from launch.config import LaunchConfig


def local_command(run_file: Path, config: LaunchConfig, arguments: Sequence[str] = ()) -> list[str]:
    """The command that starts every rank of a run here; a pure function of its arguments.

    Args:
        run_file: The run's TOML file.
        config: Number of processes.
        arguments: Further arguments of `resonance pretrain`.
    """
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={config.processes}",
        "--module",
        "pretrain.cli",
        "pretrain",
        str(run_file),
        *arguments,
    ]


def local_environment(config: LaunchConfig) -> dict[str, str]:
    """What the ranks' environment holds beyond this process's own."""
    return {"OMP_NUM_THREADS": str(config.threads)}
