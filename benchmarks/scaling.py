"""What more ranks bring, and what DeepSpeed's engine costs.

    python benchmarks/scaling.py

One thread per rank, float32. Two sequence ranks and two data ranks against one rank's tokens per
second at 65,536 tokens, every block recomputed; the engine against plain PyTorch, at steps of about
half a second.
Runs are interleaved and the best of each counts, because these machines are shared. Prints a table
and a line per bar; exits with 1 when one falls short.
"""

import time

import torch
from bars import Bar, judge
from layout_worker import measure

from pretrain.config import RunConfig
from pretrain.loss import batch_loss, objective
from pretrain.training.optimizer import parameter_groups
from pretrain.training.schedule import learning_rate_factor
from spectral.lm import SpectralLM

LENGTH = 65_536
MODEL = {"vocab_size": 256, "dim": 256, "num_layers": 4, "num_heads": 4, "ffn_dim": 688}
ROUNDS = 2


def run_config(length: int, batch: int, recompute: str = "full", **parallel: int) -> RunConfig:
    """A run of that many windows, one in each micro-batch."""
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
    from data_pipeline.stream.batch import Batch

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


def main() -> None:
    """Measure, print, judge."""
    tokens = torch.randint(256, (4 * LENGTH + 1,), generator=torch.Generator().manual_seed(0))
    layouts: dict[str, tuple[RunConfig, int]] = {
        "1 rank": (run_config(LENGTH, 1), 1),
        "2 sequence ranks": (run_config(LENGTH, 1, sequence=2), 2),
        "2 data ranks": (run_config(LENGTH, 2), 2),
    }
    rates = dict.fromkeys(layouts, 0.0)
    for _ in range(ROUNDS):
        for name, (run, ranks) in layouts.items():
            rates[name] = max(rates[name], measure(run, ranks, tokens, steps=2).tokens_per_s)
    print(f"{'layout':>18} {'tokens/s':>10} {'ratio':>6}")
    for name, rate in rates.items():
        print(f"{name:>18} {rate:>10,.0f} {rate / rates['1 rank']:>6.2f}")

    short = run_config(512, 3, recompute="none")
    engine, plain = float("inf"), float("inf")
    for _ in range(ROUNDS):
        engine = min(engine, *measure(short, 1, tokens, steps=8).seconds)
        plain = min(plain, *plain_seconds(short, tokens, steps=8))
    print(f"\na step of {plain:.2f} s in plain PyTorch takes {engine:.2f} s in DeepSpeed's engine")
    judge(
        [
            Bar("2 sequence ranks over 1", rates["2 sequence ranks"] / rates["1 rank"], 1.7),
            Bar("2 data ranks over 1", rates["2 data ranks"] / rates["1 rank"], 1.7),
            Bar("engine over plain PyTorch, seconds", engine / plain, 1.1, at_most=True),
        ]
    )


if __name__ == "__main__":
    main()
