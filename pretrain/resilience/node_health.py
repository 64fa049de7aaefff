"""Checks of every rank's machine at the start: memory, disk, clock, device and versions."""

import shutil
import socket
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import psutil
import torch
import torch.distributed as dist

from launch.versions import REMEDY, differences, versions
from pretrain.config import ParallelConfig
from pretrain.errors import RunError
from pretrain.health_config import HealthConfig
from pretrain.runtime.ranks import Ranks, agreed, gathered_objects
from pretrain.train_config import TrainConfig

MOST_SHOWN = 8


class NodeHealth(NamedTuple):
    """Measurements of a rank on its machine.

    Attributes:
        rank: Number of the rank.
        host: Name of the machine.
        free_memory: Free memory in bytes.
        free_disk: Free bytes on the disk of the run directory.
        clock: Seconds since 1970, read by all ranks at the same moment.
        device_problem: Description of a device failure; empty if the device computes.
    """

    rank: int
    host: str
    free_memory: int
    free_disk: int
    clock: float
    device_problem: str


def check_health(config: HealthConfig, directory: Path, ranks: Ranks) -> list[str]:
    """Check every rank's machine: memory, disk, clock, device.

    Returns:
        The findings, the same on all ranks; each names its ranks and hosts.

    Raises:
        RunError: A device does not compute, or findings stop the run (health.on_finding).
    """
    device_problem = _try_device(ranks.device)
    free_memory, free_disk = psutil.virtual_memory().available, shutil.disk_usage(directory).free
    # all ranks leave a barrier within milliseconds of one another
    dist.barrier()
    health = gathered_objects(
        NodeHealth(
            ranks.rank, socket.gethostname(), free_memory, free_disk, time.time(), device_problem
        )
    )
    broken = [f"rank {h.rank} ({h.host}): {h.device_problem}" for h in health if h.device_problem]
    if broken:
        raise agreed(RunError("; ".join(broken)))
    findings = judge_health(config, health)
    if findings and config.on_finding == "stop":
        raise agreed(RunError("; ".join(findings) + " (health.on_finding is stop)"))
    return findings


def require_same_versions() -> None:
    """Compare the installed versions on every rank's machine with rank 0's, before building.

    Raises:
        RunError: Versions differ; names machines and versions, on all ranks.
    """
    first, *others = gathered_objects(versions())
    # several ranks of one machine report the same
    unique = list(dict.fromkeys(differences(first, others)))
    if unique:
        shown = "; ".join(unique[:MOST_SHOWN]) + ("; ..." if len(unique) > MOST_SHOWN else "")
        raise agreed(RunError(f"versions differ from {first['host']}'s: {shown}. To do: {REMEDY}"))


def require_offload_folder(config: ParallelConfig) -> None:
    """Create the folder of ZeRO's nvme offload on every rank's machine, before building.

    Raises:
        RunError: It cannot be written on some machine; on all ranks.
    """
    if "nvme" not in (config.offload_optimizer, config.offload_parameters):
        return
    problem = ""
    try:
        config.nvme_path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=config.nvme_path) as file:
            file.write(b"resonance")
    except OSError as error:
        problem = (
            f"parallel.nvme_path {config.nvme_path} cannot be written on {socket.gethostname()} "
            f"({error}); expected a folder, or a place for one, on the disk of every machine"
        )
    _raise_together(problem)


def require_compiler(config: TrainConfig, device: torch.device) -> None:
    """Compile a small function on every rank's machine if blocks are compiled, before building.

    Raises:
        RunError: It cannot be compiled on some machine; on all ranks.
    """
    if not config.compile:
        return
    problem = _try_compiler(device)
    if problem:
        problem = (
            f"train.compile is true, and torch.compile does not work on {socket.gethostname()} "
            f"({problem}); expected a C++ compiler there (g++, or the one that the variable CXX "
            "names), or train.compile = false"
        )
    _raise_together(problem)


def judge_health(config: HealthConfig, health: Sequence[NodeHealth]) -> list[str]:
    """Findings about measurements beyond the limits; one per kind and machine."""
    findings = []
    for host, node in {h.host: h for h in reversed(health)}.items():
        for name, free, least in (
            ("memory", node.free_memory, config.min_free_memory_gib),
            ("disk", node.free_disk, config.min_free_disk_gib),
        ):
            if free < least * 2**30:
                findings.append(
                    f"{host} (rank {node.rank}): {free / 2**30:.2f} GiB of free {name}; expected "
                    f"{least:g} (health.min_free_{name}_gib)"
                )
    first, last = (choose(health, key=lambda node: node.clock) for choose in (min, max))
    if last.clock - first.clock > config.max_clock_skew_s:
        findings.append(
            f"the clock of {last.host} (rank {last.rank}) is {last.clock - first.clock:.1f} s "
            f"ahead of that of {first.host} (rank {first.rank}); expected at most "
            f"{config.max_clock_skew_s:g} (health.max_clock_skew_s)"
        )
    return sorted(findings)


def _try_device(device: torch.device) -> str:
    """Multiply two small matrices whose product is known.

    Returns:
        The problem; empty if there is none.
    """
    try:
        ones = torch.ones(64, 64, device=device)
        product = float((ones @ ones).sum())
    except RuntimeError as error:
        return f"{device} does not compute: {error}"
    if product != 64.0**3:
        return f"{device} computes wrongly: found {product}; expected {64.0**3}"
    return ""


def _raise_together(problem: str) -> None:
    """Raise the problems of all ranks' machines on every rank; none are empty."""
    # several ranks of one machine report the same
    problems = list(dict.fromkeys(text for text in gathered_objects(problem) if text))
    if problems:
        raise agreed(RunError("; ".join(problems[:MOST_SHOWN])))


def _try_compiler(device: torch.device) -> str:
    """Compile a function of a small tensor and its gradient, as blocks are.

    Returns:
        The problem in a line; empty if there is none.
    """
    from torch._dynamo.exc import TorchDynamoException

    x = torch.ones(8, device=device, requires_grad=True)
    # a number of its own: machine code that an earlier run left says nothing about the compiler
    number = float(time.time_ns() % 2**31)
    try:
        torch.compile(lambda x: (x.sin() * number).sum())(x).backward()
    except (TorchDynamoException, OSError, RuntimeError) as error:
        return (str(error).splitlines() or [type(error).__name__])[0]
    return ""
