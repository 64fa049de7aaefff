"""`resonance plan`: the memory, traffic and operations of a layout's ranks before it runs."""

import itertools
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from pretrain.commands import PlanCommand
from pretrain.config import RunConfig
from pretrain.errors import RunError
from pretrain.planning.simulate import Simulation, simulate
from pretrain.run_file import load_run, with_chunk
from spectral.presets import PRESETS

AXES = ("tensor", "pipeline", "sequence")


def plan(command: PlanCommand) -> None:
    """Print a table of a run's layout or, without a run, of layouts of every preset.

    Raises:
        RunError: The run's layout is impossible on this number of ranks.
    """
    table = Table(title=f"rank 0 of {command.ranks:,}, an optimizer step")
    for title in ("model", "layout", "parameters", "state GiB", "PFLOP", "sent MiB"):
        table.add_column(title, justify="left" if title in ("model", "layout") else "right")
    if command.run_file is not None:
        run = with_chunk(load_run(command.run_file), None)
        _add(table, command.run_file.stem, run, simulate(run, command.ranks))
    else:
        layouts = list(preset_layouts(command.ranks))
        for name, run in tqdm(layouts, desc="plan", unit="layout", disable=None):
            try:
                _add(table, name, run, simulate(run, command.ranks))
            except RunError:
                # heads or layers that this layout cannot share
                continue
    Console().print(table)


def preset_layouts(ranks: int) -> Iterator[tuple[str, RunConfig]]:
    """Every preset at its context length, with every combination of the axes."""
    for name, preset in PRESETS.items():
        for sizes in itertools.product((1, 8), (1, 4), (1, 8)):
            parallel = dict(zip(AXES, sizes, strict=True))
            model_ranks = sizes[0] * sizes[1] * sizes[2]
            if ranks % model_ranks:
                continue
            data = ranks // model_ranks
            batch = {"global_batch_size": 4 * data, "micro_batch_size": 1}
            yield (
                name,
                RunConfig.model_validate(
                    {
                        "model": preset.model.model_dump(),
                        "data": {"sequence_length": preset.context_length},
                        "train": batch,
                        "parallel": parallel | {"zero_stage": 1 if sizes[1] > 1 else 3},
                    }
                ),
            )


def _add(table: Table, name: str, run: RunConfig, figures: Simulation) -> None:
    parallel = run.parallel
    layout = " ".join(f"{axis} {getattr(parallel, axis)}" for axis in AXES)
    sent = "\n".join(
        f"{kind} {count / 2**20:,.1f}" for kind, count in sorted(figures.sent.items()) if count
    )
    table.add_row(
        f"{name}, {run.data.sequence_length:,} tokens",
        f"{layout}, ZeRO {parallel.zero_stage}",
        f"{figures.parameters:,}",
        f"{figures.state_bytes / 2**30:,.2f}",
        f"{figures.flops / 1e15:,.2f}",
        sent,
    )
