"""`resonance plan`: memory, time and traffic of a run on GPUs that need not be there."""

import json

from rich.console import Console

from launch.kubernetes.pod import ranks_per_pod
from launch.slurm.directives import ranks_per_node
from pretrain.config import RunConfig
from pretrain.errors import RunError
from pretrain.launch_commands import PlanCommand
from pretrain.planning.devices import Devices, load_devices
from pretrain.planning.dial import propose
from pretrain.planning.figures import GIB, Figures, figures, preload
from pretrain.planning.search import changes, nearest_that_fits, search
from pretrain.planning.show import ranking_table, show, show_ranking
from pretrain.planning.step_time import Machines
from pretrain.run_file import load_run


def plan(command: PlanCommand) -> str | None:
    """Print the figures of a run, or with `--json` return them.

    Raises:
        RunError: The layout is impossible on these GPUs, they differ from those of `[launch]`, a
            device or link is unknown, or the options contradict one another.
    """
    if (command.run_file is None) == (command.tokens == 0):
        raise RunError("expected a run file, or --tokens for a proposed run, and not both")
    if command.run_file is None:
        return propose(command)
    if command.preset or command.write:
        raise RunError("--preset and --write: expected --tokens instead of a run file")
    run = load_run(command.run_file)
    gpus, per_node = _ranks(run, command.gpus)
    devices = load_devices(command.devices)
    machines = machines_of(devices, command.gpu, command.network, per_node)
    # rehearsals begin with their imports done
    preload(run)
    if command.search:
        ranking = search(run, gpus, machines)
        if command.as_json:
            return json.dumps(ranking_table(run, ranking), indent=2)
        show_ranking(run, ranking, machines, Console())
        return None
    result = figures(run, gpus, machines)
    near = None if result.fits else nearest_that_fits(run, gpus, machines)
    if command.as_json:
        nearest = {"nearest_that_fits": changes(run, near.run)} if near else {}
        return json.dumps(result.table() | nearest, indent=2)
    show(result, machines, Console())
    if near is not None:
        print(f"nearest that fits, {near.bytes / GIB:,.1f} GiB: {changes(run, near.run)}")
    return None


def machines_of(devices: Devices, gpu: str, network: str, per_node: int) -> Machines:
    """The hardware of a run.

    Args:
        devices: Known GPUs and links.
        gpu: Name of the GPU.
        network: Name or Gbit/s of the network.
        per_node: Ranks of a machine; 0 for the GPU's usual number.

    Raises:
        RunError: A name is unknown.
    """
    device = devices.gpu(gpu)
    link, between = devices.links[device.link], devices.network(network)
    return Machines(device, link, between, per_node or device.per_node)


def describe_memory(result: Figures, machines: Machines) -> str:
    """A sentence about a run's memory, with its largest parts."""
    parts = sorted(result.memory.items(), key=lambda part: -part[1])[:3]
    verdict = "fits into" if result.fits else "does not fit into"
    return (
        f"{result.bytes / GIB:,.1f} GiB {verdict} the {result.capacity / GIB:,.1f} GiB of "
        f"{machines.device.name}: " + ", ".join(f"{name} {size / GIB:,.1f}" for name, size in parts)
    )


def _ranks(run: RunConfig, asked: int) -> tuple[int, int]:
    """Number of ranks, and of those on a machine as far as `[launch]` says (0 if it does not)."""
    launch = run.launch
    per_node = max(ranks_per_node(launch), ranks_per_pod(launch))
    launched = launch.nodes * per_node
    if launched == 1:
        return asked or 1, 0
    if asked not in (0, launched):
        raise RunError(
            f"--gpus is {asked}, but [launch] starts {launch.nodes} machines x {per_node} ranks = "
            f"{launched}; expected --gpus {launched}, or another launch.nodes"
        )
    return launched, per_node
