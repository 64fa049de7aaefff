"""Start of the ranks of a run on this machine."""

import sys
from collections.abc import Sequence
from pathlib import Path

from launch.config import LaunchConfig
from launch.torchrun import torchrun_command


def local_command(run_file: Path, config: LaunchConfig, arguments: Sequence[str] = ()) -> list[str]:
    """The command that starts every rank of a run here; a pure function of its arguments.

    Args:
        run_file: The run's TOML file.
        config: Number of processes, and the port of their rendezvous if it is configured.
        arguments: Further arguments of `resonance pretrain`.
    """
    rendezvous = ["--standalone"]
    if config.port:
        endpoint = f"--rdzv-endpoint=localhost:{config.port}"
        rendezvous = ["--nnodes=1", "--rdzv-backend=c10d", endpoint]
    return torchrun_command(
        sys.executable,
        rendezvous,
        run_file,
        processes=config.processes,
        max_restarts=config.max_restarts,
        arguments=arguments,
    )


def rank_environment(config: LaunchConfig) -> dict[str, str]:
    """Environment variables of the ranks, in addition to those that they inherit."""
    environment = {"OMP_NUM_THREADS": str(config.threads)}
    if config.network_interface:
        environment["GLOO_SOCKET_IFNAME"] = config.network_interface
        environment["NCCL_SOCKET_IFNAME"] = config.network_interface
    return {**environment, **config.environment}
