"""`resonance plan`: memory, time and traffic of a run on GPUs that need not be there."""

import json
import multiprocessing

from rich.console import Console
from rich.table import Table

from launch.kubernetes.pod import ranks_per_pod
from launch.slurm.directives import ranks_per_node
from pretrain.commands import PlanCommand
from pretrain.config import RunConfig
from pretrain.errors import RunError
from pretrain.planning.devices import load_devices
from pretrain.planning.figures import GIB, Figures, figures
from pretrain.planning.step_time import Machines
from pretrain.run_file import load_run


def plan(command: PlanCommand) -> str | None:
    """Print the figures of a run, or with `--json` return them.

    Raises:
        RunError: The layout is impossible on these GPUs, they differ from those of `[launch]`, or a
            device or link is unknown.
    """
    run = load_run(command.run_file)
    devices = load_devices(command.devices)
    device = devices.gpu(command.gpu)
    gpus, per_node = _ranks(run, command.gpus)
    machines = Machines(
        device,
        devices.links[device.link],
        devices.network(command.network),
        per_node or device.per_node,
    )
    # rehearsals begin with their imports done
    multiprocessing.set_forkserver_preload(["pretrain.planning.rehearsal"])
    result = figures(run, gpus, machines)
    if command.as_json:
        return json.dumps(result.table(), indent=2)
    show(result, machines, Console())
    return None


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


def show(result: Figures, machines: Machines, console: Console) -> None:
    """Print the figures as tables as wide as the terminal at most."""
    run, parallel = result.run, result.run.parallel
    console.print(
        f"{result.gpus:,} x {machines.device.name}, {machines.per_node} in a machine; "
        f"{describe_layout(run)}; {run.train.precision}"
    )
    memory = Table("memory of the fullest GPU", "GiB", box=None)
    memory.columns[1].justify = "right"
    for part, size in result.memory.items():
        memory.add_row(part, f"{size / GIB:,.2f}")
    memory.add_row(f"together, in the {result.moment}", f"{sum(result.memory.values()) / GIB:,.2f}")
    memory.add_row("at the start", f"{result.start / GIB:,.2f}")
    place = (
        "disk" if "nvme" in (parallel.offload_optimizer, parallel.offload_parameters) else "host"
    )
    for part, size in result.host.items():
        memory.add_row(f"{part} on the {place}, per rank", f"{size / GIB:,.2f}")
    console.print(memory)
    verdict = "fits into" if result.fits else "does not fit into"
    console.print(
        f"{result.bytes / GIB:,.2f} GiB {verdict} the {result.capacity / GIB:,.1f} GiB that a run "
        f"can use of {machines.device.memory_gib:g}\n"
    )
    time = Table("time of a step", "s", "%", box=None)
    for column in time.columns[1:]:
        column.justify = "right"
    for part, seconds in result.seconds.items():
        time.add_row(part, f"{seconds:,.4g}", f"{100 * seconds / result.step_s:.1f}")
    time.add_row("together", f"{result.step_s:,.4g}", "")
    console.print(time)
    console.print(
        f"{result.tokens_per_s:,.0f} tokens/s, {100 * result.utilisation:.1f}% of peak (MFU); "
        f"{run.train.steps:,} steps: {result.days:,.2f} days, {result.gpu_hours:,.0f} GPU-hours\n"
    )
    sent = Table("rank 0 gives to a step's", "MiB", box=None)
    sent.columns[1].justify = "right"
    for name, size in result.sent.items():
        sent.add_row(name, f"{size / 2**20:,.1f}")
    console.print(sent)


def describe_layout(run: RunConfig) -> str:
    """A layout in a few words."""
    parallel, train = run.parallel, run.train
    words = [
        f"{axis} {getattr(parallel, axis)}"
        for axis in ("tensor", "sequence", "pipeline", "expert")
        if getattr(parallel, axis) > 1
    ]
    words.append(f"ZeRO {parallel.zero_stage}")
    if parallel.shard_activations:
        words.append("activations sharded")
    words.append(f"{train.micro_batch_size} x {run.data.sequence_length:,} tokens a pass")
    if train.activation_checkpointing != "none":
        words.append(f"{train.activation_checkpointing} recomputation")
    for what in ("optimizer", "parameters"):
        place = getattr(parallel, f"offload_{what}")
        if place != "none":
            words.append(f"{what} on {place}")
    return ", ".join(words)
