"""Bytes, memory and loss of bfloat16 runs over those of float32 runs.

    python -m benchmarks.precision [--folder DIR]

Bytes that a rank gives to collectives in an optimizer step of two gloo ranks, by layout; bytes of
the tensors that the main job's model keeps for its backward pass; loss of the main job on the
held-out split after 300 steps, by seed. Training takes hours: what is finished stays in the folder,
and the same command continues.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from benchmarks.harness.command import benchmark_parser, run_parsed
from benchmarks.harness.results import ROOT
from benchmarks.harness.thresholds import Figure, Outcome
from pretrain.config import RunConfig
from pretrain.quickstart import stages
from pretrain.run_file import dump_run, load_run
from spectral.config import ModelConfig

RECIPE = ROOT / "pretrain" / "recipes" / "stdlib.toml"
PRECISIONS = ("float32", "bf16")
MODEL = {"vocab_size": 2_048, "dim": 256, "num_layers": 4, "num_heads": 4, "ffn_dim": 688}
LAYOUTS: dict[str, dict[str, int]] = {
    **{f"ZeRO {stage}": {"zero_stage": stage} for stage in (1, 2, 3)},
    "tensor ranks": {"tensor": 2},
    "sequence ranks": {"sequence": 2},
    "stages": {"pipeline": 2},
}


class Sizes(NamedTuple):
    """Tokens of a window, and steps and seeds of the main job."""

    length: int
    steps: int
    seeds: int


FULL = Sizes(512, 300, 3)
QUICK = Sizes(128, 2, 1)


def run_config(precision: str, layout: dict[str, int], length: int) -> RunConfig:
    """A run whose step is two windows."""
    return RunConfig.model_validate(
        {
            "model": MODEL,
            "data": {"sequence_length": length},
            "train": {"precision": precision, "global_batch_size": 2, "micro_batch_size": 1},
            "parallel": layout,
        }
    )


def _rank(rank: int, run: RunConfig, folder: Path, file: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}.meeting", rank=rank, world_size=2)
    # imports of DeepSpeed take seconds, which other parts of the benchmark do not need
    from data_pipeline.stream.batch import Batch
    from pretrain.parallel.mesh import build_mesh
    from pretrain.parallel.sequence_parallel import own_span
    from pretrain.planning.traffic import TrafficCounter
    from pretrain.resilience.heartbeat import Heartbeat
    from pretrain.runtime.ranks import init_ranks
    from pretrain.training.engine import build_engine, finish_step
    from pretrain.training.gradient import StepContext, compute_gradient

    ranks = init_ranks()
    mesh = build_mesh(run.parallel, ranks)
    context = StepContext(build_engine(run, ranks, mesh), ranks, mesh, Heartbeat(folder, rank))
    length = run.data.sequence_length
    rows = torch.randint(run.model.vocab_size, (2, length + 1)).split(1)
    local = rows[mesh.data.rank :: mesh.data.size]
    batches = [Batch(x[:, :-1], x[:, 1:], torch.zeros_like(x[:, 1:]), ()) for x in local]
    with TrafficCounter() as wire:
        compute_gradient(
            context,
            [own_span(batch, mesh.sequence) for batch in batches],
            2.0 * length,
            seed=0,
        )
        finish_step(context.engine, apply=True)
    if rank == 0:
        file.write_text(json.dumps(dict(wire.bytes)), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


def count_traffic(length: int) -> list[Figure]:
    """Bytes of a step of each layout in both precisions."""
    figures = []
    print(f"{'layout':16} {'float32':>12} {'bfloat16':>12}  bytes given to collectives in a step")
    with tempfile.TemporaryDirectory() as name:
        for layout, keys in LAYOUTS.items():
            totals = []
            for precision in PRECISIONS:
                file = Path(name) / f"{layout}-{precision}.json"
                run = run_config(precision, keys, length)
                mp.spawn(_rank, (run, Path(name), file), nprocs=2)
                totals.append(sum(json.loads(file.read_text(encoding="utf-8")).values()))
            print(f"{layout:16} {totals[0]:12,} {totals[1]:12,}")
            figures.append(
                Figure(f"bytes given to collectives over float32's, {layout}",
                       totals[1] / totals[0], limit=0.55, at_most=True)
            )  # fmt: skip
    return figures


def saved_bytes(config: ModelConfig, precision: str, tokens: Tensor) -> int:
    """Bytes of the tensors that a training pass keeps for its backward pass, without parameters.

    A storage counts once, whole.
    """
    from pretrain.runtime.precision import autocast, product_dtype
    from spectral.lm import SpectralLM

    model = SpectralLM(config)
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in parameters:
            kept[place] = tensor
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, autocast(product_dtype(precision)):
        model(tokens[:, :-1], torch.zeros_like(tokens[:, 1:]), tokens[:, 1:])
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def count_saved(length: int) -> list[Figure]:
    """Bytes that the main job's model keeps in both precisions."""
    run = load_run(RECIPE)
    tokens = torch.randint(run.model.vocab_size, (run.train.micro_batch_size, length + 1))
    totals = [saved_bytes(run.model, precision, tokens) for precision in PRECISIONS]
    sizes = ", ".join(f"{total / 2**20:,.1f} MiB" for total in totals)
    print(f"kept for the backward pass of {tokens[:, 1:].numel():,} tokens: {sizes}")
    return [
        Figure("bytes kept for the backward pass over float32's", totals[1] / totals[0],
               limit=0.6, at_most=True)
    ]  # fmt: skip


def train(folder: Path, precision: str, seed: int, steps: int) -> float:
    """Loss of the main job on the held-out split, trained here unless the folder has it."""
    recipe = load_run(RECIPE)
    output = folder / f"{precision}-{seed}-{steps}"
    for stage in stages(RECIPE)[:2]:
        if stage.result is not None and not (folder / stage.result).exists():
            _resonance(folder, *stage.arguments)
    changes = {"output": output.name, "steps": steps, "seed": seed, "precision": precision}
    table = recipe.train.model_copy(update=changes | {"validate_every": steps, "wandb": "disabled"})
    warmup = recipe.optim.model_copy(update={"warmup_steps": min(50, steps // 2)})
    run = recipe.model_copy(update={"train": table, "optim": warmup})
    file = folder / f"{output.name}.toml"
    file.write_text(dump_run(run), encoding="utf-8")
    metrics = output / "metrics.jsonl"
    if not (metrics.exists() and "valid_loss" in metrics.read_text(encoding="utf-8")):
        _resonance(folder, "pretrain", file.name, "--auto-resume")
    lines = metrics.read_text(encoding="utf-8").splitlines()
    return float(next(record["valid_loss"] for record in map(json.loads, lines[::-1])
                      if "valid_loss" in record))  # fmt: skip


def _resonance(folder: Path, *arguments: str) -> None:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "pretrain.cli", *arguments]
    subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        check=True,
        stdout=subprocess.DEVNULL,
    )


def compare_losses(folder: Path, sizes: Sizes) -> list[Figure]:
    """Loss of the main job in both precisions, for each seed."""
    figures = []
    print(f"{'seed':16} {'float32':>12} {'bfloat16':>12}  held-out loss, nats per token")
    for seed in range(sizes.seeds):
        losses = [train(folder, precision, seed, sizes.steps) for precision in PRECISIONS]
        print(f"{seed:<16} {losses[0]:12.4f} {losses[1]:12.4f}", flush=True)
        figures.append(
            Figure(f"held-out loss after {sizes.steps} steps minus float32's, seed {seed}",
                   losses[1] - losses[0], "nats per token", limit=0.02, at_most=True)
        )  # fmt: skip
    return figures


def measure(folder: Path, sizes: Sizes) -> Outcome:
    """Count bytes, then train."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = count_traffic(sizes.length) + count_saved(sizes.length)
    figures += compare_losses(folder.resolve(), sizes)
    return Outcome("Two gloo ranks; the main job on one rank.", figures)


def main() -> None:
    """Measure as the command line says."""
    parser = benchmark_parser(__doc__)
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/precision"), help="data and finished runs"
    )
    arguments = parser.parse_args()
    if not arguments.quick:
        run_parsed("precision", __doc__, arguments, lambda: measure(arguments.folder, FULL))
    with tempfile.TemporaryDirectory() as name:
        run_parsed("precision", __doc__, arguments, lambda: measure(Path(name), QUICK))


if __name__ == "__main__":
    main()
