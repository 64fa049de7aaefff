"""Cost of asynchronous checkpoints.

    python -m benchmarks.checkpoint

One run of a model of about 50M parameters on one rank: 40 steps without saving and 40 steps with
two asynchronous saves, alternating every four steps, so that other load hits both. The time for
which training waits (the copy to host memory, the probe) and the time that the writer takes from it
are both counted.
"""

import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.harness.command import run_benchmark
from benchmarks.harness.thresholds import Figure, Outcome
from data_pipeline.stream.batch import Batch
from pretrain.checkpoint.retention import Retention
from pretrain.checkpoint.save import Saver
from pretrain.config import RunConfig
from pretrain.parallel.mesh import build_mesh
from pretrain.resilience.heartbeat import Heartbeat
from pretrain.runtime.ranks import init_ranks
from pretrain.training.engine import build_engine, finish_step
from pretrain.training.gradient import StepContext, compute_gradient

SLOWER = 1.05


class Sizes(NamedTuple):
    """A model's dimensions, steps on each side, steps per turn, saves, and tokens per step."""

    vocab_size: int
    dim: int
    num_layers: int
    ffn_dim: int
    steps: int
    turn: int
    saves: int
    tokens: int


FULL = Sizes(16_384, 640, 8, 1_792, 40, 4, 2, 256)
QUICK = Sizes(256, 64, 2, 128, 4, 1, 2, 32)


class Seconds(NamedTuple):
    """Seconds of all steps without and with saves, and of each `Saver.begin`."""

    without: float
    with_saves: float
    waits: list[float]


def run_config(sizes: Sizes, folder: Path) -> RunConfig:
    """A run of that model."""
    return RunConfig.model_validate(
        {
            "model": {
                "vocab_size": sizes.vocab_size,
                "dim": sizes.dim,
                "num_layers": sizes.num_layers,
                "num_heads": 8,
                "conv_heads": [4],
                "ffn_dim": sizes.ffn_dim,
            },
            "data": {"sequence_length": sizes.tokens},
            "train": {
                "output": folder,
                "global_batch_size": 1,
                "micro_batch_size": 1,
                "steps": 10_000,
            },
        }
    )


def alternate(sizes: Sizes, engine: Any, saver: Saver, step: Callable[[], None]) -> Seconds:
    """Train alternately without and with saves."""
    without = with_saves = 0.0
    turns = sizes.steps // sizes.turn
    save_at = {turns * (2 * i + 1) // (2 * sizes.saves) for i in range(sizes.saves)}
    waits: list[float] = []
    for turn in range(turns):
        begin = time.perf_counter()
        for _ in range(sizes.turn):
            step()
        middle = time.perf_counter()
        without += middle - begin
        if turn in save_at:
            saver.begin(engine, {"step": len(waits) + 1})
            waits.append(time.perf_counter() - middle)
        for _ in range(sizes.turn):
            step()
        # all the time that the writer takes belongs to this side
        saver.wait()
        with_saves += time.perf_counter() - middle
    return Seconds(without, with_saves, waits)


def measure(quick: bool) -> Outcome:
    """Train, save, compare."""
    sizes = QUICK if quick else FULL
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = run_config(sizes, folder)
        ranks = init_ranks()
        mesh = build_mesh(run.parallel, ranks)
        engine = build_engine(run, ranks, mesh)
        saver = Saver(run, None, ranks, Retention(run, print))
        context = StepContext(engine, ranks, mesh, Heartbeat(folder, 0))
        tokens = torch.randint(sizes.vocab_size, (1, sizes.tokens + 1))
        segments = torch.zeros(1, sizes.tokens, dtype=torch.long)
        batch = Batch(tokens[:, :-1], tokens[:, 1:], segments, (((0, 0),),))

        def step() -> None:
            compute_gradient(context, [batch], sizes.tokens, seed=0)
            finish_step(engine, apply=True)

        num_parameters = sum(parameter.numel() for parameter in engine.module.parameters())
        print(f"{num_parameters:,} parameters")
        for _ in range(2):
            step()
        seconds = alternate(sizes, engine, saver, step)
        files = list(folder.glob("checkpoints/step-*/tensors/*"))
        size_mib = sum(file.stat().st_size for file in files) / sizes.saves / 2**20
        torch.distributed.destroy_process_group()
    print(f"{sizes.steps} steps without saving: {seconds.without:.1f} s")
    print(f"{sizes.steps} steps with {sizes.saves} saves of {size_mib:,.1f} MiB: ", end="")
    waits = ", ".join(f"{wait:.2f}" for wait in seconds.waits)
    print(f"{seconds.with_saves:.1f} s; training waited {waits} s")
    name = f"time of {sizes.steps} steps with {sizes.saves} asynchronous saves over without"
    return Outcome(
        f"{num_parameters:,} parameters, one rank, {sizes.tokens} tokens per step.",
        [
            Figure(name, seconds.with_saves / seconds.without, limit=SLOWER, at_most=True),
            Figure("longest wait of training for a save", max(seconds.waits), "s"),
            Figure("size of a checkpoint's tensors", size_mib, "MiB"),
        ],
    )


if __name__ == "__main__":
    run_benchmark("checkpoint", __doc__, measure)
