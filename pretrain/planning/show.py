"""Figures and rankings as tables that fit the terminal, and as JSON."""

from typing import Any

from rich.console import Console
from rich.table import Table

from pretrain.config import RunConfig
from pretrain.planning.figures import GIB, Figures
from pretrain.planning.search import Ranking, changes
from pretrain.planning.step_time import Machines


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


def show_ranking(run: RunConfig, ranking: Ranking, machines: Machines, console: Console) -> None:
    """Print the rehearsed layouts, the best first, and the keys of the best."""
    if not ranking.places:
        console.print(
            f"{ranking.possible} layouts are possible, {ranking.too_big} of them far too big for "
            f"{machines.device.name}: use more GPUs, or offloading"
        )
        return
    table = Table("layout", "GiB", "s/step", "tokens/s", "MFU", "why not", box=None)
    for column in table.columns[1:5]:
        column.justify = "right"
    for place in ranking.places:
        result = place.figures
        table.add_row(
            describe_layout(result.run),
            f"{result.bytes / GIB:,.0f}",
            f"{result.step_s:,.3g}",
            f"{result.tokens_per_s:,.0f}",
            f"{100 * result.utilisation:.0f}%",
            place.reason,
        )
    console.print(table)
    best = ranking.places[0].figures
    if best.fits:
        console.print(f"best: {changes(run, best.run) or 'the run as it is'}", markup=False)
    console.print(
        f"{ranking.possible} layouts are possible; {ranking.too_big} are far too big, the others "
        "that are not shown are slower by a rough estimate"
    )


def ranking_table(run: RunConfig, ranking: Ranking) -> dict[str, Any]:
    """A ranking as JSON-able values."""
    return {
        "possible": ranking.possible,
        "far_too_big": ranking.too_big,
        "layouts": [
            place.figures.table()
            | {"changes": changes(run, place.figures.run), "why_not": place.reason}
            for place in ranking.places
        ],
    }
