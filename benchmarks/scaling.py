"""Speed gained by more ranks, and cost of DeepSpeed's engine.

    python -m benchmarks.scaling

One thread per rank, float32. Tokens per second of two sequence ranks and of two data ranks over
those of one rank at 65,536 tokens, every block recomputed; the engine against plain PyTorch, at
steps of about half a second. Runs alternate and the fastest of each counts, because these machines
are shared. Needs two idle cores.
"""

import time
from typing import NamedTuple

import torch

from benchmarks.harness.command import run_benchmark
from benchmarks.harness.layout_runner import measure_layout
from benchmarks.harness.thresholds import Figure, Outcome
from data_pipeline.stream.batch import Batch
from pretrain.config import RunConfig
from pretrain.loss import batch_loss, objective
from pretrain.training.optimizer import parameter_groups
from pretrain.training.schedule import learning_rate_factor
from spectral.lm import SpectralLM

MODEL = {"vocab_size": 256, "dim": 256, "num_layers": 4, "num_heads": 4, "ffn_dim": 688}


class Sizes(NamedTuple):
    """Tokens per sequence for layouts and for the engine, rounds, and steps of the engine."""

    length: int
    engine_length: int
    rounds: int
    engine_steps: int


FULL = Sizes(65_536, 512, 2, 8)
QUICK = Sizes(256, 64, 1, 2)


def run_config(length: int, batch: int, recompute: str = "full", **parallel: int) -> RunConfig:
    """A run of `batch` windows per step, one per micro-batch."""
    return RunConfig.model_validate(
        {
            "model": MODEL,
            "data": {"sequence_length": length},
            "train": {
                "global_batch_size": batch,
                "micro_batch_size": 1,
                "activation_checkpointing": recompute,
            },
            "parallel": {"zero_stage": 1} | parallel,
        }
    )


def plain_seconds(run: RunConfig, tokens: torch.Tensor, steps: int) -> list[float]:
    """Seconds of each step of the same training, without any engine."""
    torch.set_num_threads(1)
    torch.manual_seed(run.train.seed)
    model = SpectralLM(run.model)
    optimizer = torch.optim.AdamW(parameter_groups(model, run.optim.weight_decay), lr=1e-3)
    length, seconds = run.data.sequence_length, []
    for step in range(steps):
        begin = time.perf_counter()
        optimizer.param_groups[0]["lr"] = 1e-3 * learning_rate_factor(step, run)
        for row in range(run.train.global_batch_size):
            at = (step * run.train.global_batch_size + row) * length
            x, y = tokens[at : at + length][None], tokens[at + 1 : at + length + 1][None]
            loss = batch_loss(model, Batch(x, y, torch.zeros_like(x), ()))
            (objective(loss, length) / (length * run.train.global_batch_size)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), run.optim.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - begin)
    return seconds


def compare_layouts(sizes: Sizes, tokens: torch.Tensor) -> list[Figure]:
    """Measure tokens per second of every layout and print the table."""
    length = sizes.length
    layouts: dict[str, tuple[RunConfig, int]] = {
        "1 rank": (run_config(length, 1), 1),
        "2 sequence ranks": (run_config(length, 1, sequence=2), 2),
        "2 data ranks": (run_config(length, 2), 2),
    }
    rates = dict.fromkeys(layouts, 0.0)
    for _ in range(sizes.rounds):
        for name, (run, ranks) in layouts.items():
            measured = measure_layout(run, ranks, tokens, steps=2)
            rates[name] = max(rates[name], measured.tokens_per_s)
    print(f"{'layout':>18} {'tokens/s':>10} {'ratio':>6}")
    for name, rate in rates.items():
        print(f"{name:>18} {rate:>10,.0f} {rate / rates['1 rank']:>6.2f}")
    return [
        Figure(f"tokens/s of {name} over one rank's, {length:,} tokens",
               rates[name] / rates["1 rank"], limit=1.7)
        for name in ("2 sequence ranks", "2 data ranks")
    ]  # fmt: skip


def compare_engine(sizes: Sizes, tokens: torch.Tensor) -> list[Figure]:
    """Measure a step in DeepSpeed's engine and in plain PyTorch, and print both."""
    short = run_config(sizes.engine_length, 3, recompute="none")
    engine_s, plain_s = float("inf"), float("inf")
    for _ in range(sizes.rounds):
        measured = measure_layout(short, 1, tokens, steps=sizes.engine_steps)
        engine_s = min(engine_s, *measured.seconds)
        plain_s = min(plain_s, *plain_seconds(short, tokens, sizes.engine_steps))
    print(
        f"a step of {plain_s:.2f} s in plain PyTorch takes {engine_s:.2f} s in DeepSpeed's engine"
    )
    name = "time of a step in DeepSpeed's engine over one in plain PyTorch"
    return [Figure(name, engine_s / plain_s, limit=1.1, at_most=True)]


def measure(quick: bool) -> Outcome:
    """Measure layouts and the engine."""
    sizes = QUICK if quick else FULL
    num_tokens = max(4 * sizes.length, 3 * sizes.engine_steps * sizes.engine_length) + 1
    tokens = torch.randint(256, (num_tokens,), generator=torch.Generator().manual_seed(0))
    figures = compare_layouts(sizes, tokens) + compare_engine(sizes, tokens)
    return Outcome("A model of 4 layers of width 256, one thread per rank, float32.", figures)


if __name__ == "__main__":
    run_benchmark("scaling", __doc__, measure)
