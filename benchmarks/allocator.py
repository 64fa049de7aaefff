"""What training on CPU holds and how long it takes, by who hands out its memory.

    python benchmarks/allocator.py

A model of 12 recomputed blocks on one long row, one thread, two passes forward and backward: glibc
as it is, glibc told to keep freed memory, mimalloc, as `pretrain.runtime.malloc` has it. Memory is
the peak of resident bytes beyond those before the first pass, over the peak of what tensors held;
every row is a process of its own. Prints a table.
"""

import argparse
import os
import resource
import subprocess
import sys

import bars  # noqa: F401 (finds the package that a script here bears the name of)
import torch

from pretrain.config import TrainConfig
from pretrain.parallel.activation_checkpointing import checkpoint_activations
from pretrain.runtime.malloc import allocator_environment, reuse_freed_memory
from spectral.config import ModelConfig
from spectral.lm import SpectralLM

TOKENS = 12_800
MODEL = ModelConfig(vocab_size=256, dim=256, num_layers=12, num_heads=4, ffn_dim=688)
PASSES = 2


def train(*, reuse: bool, count: bool) -> None:
    """Print resident bytes (or, if asked to count, tensors' bytes), user and system seconds."""
    torch.set_num_threads(1)
    if reuse:
        reuse_freed_memory()
    model = SpectralLM(MODEL)
    checkpoint_activations(model.blocks, TrainConfig(activation_checkpointing="full"))
    tokens = torch.randint(256, (1, TOKENS + 1))
    before = resource.getrusage(resource.RUSAGE_SELF)
    profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU],
                                      profile_memory=True) if count else None  # fmt: skip
    if profiler is not None:
        profiler.start()
    for _ in range(1 if count else PASSES):
        loss = model(tokens[:, :-1], labels_BT=tokens[:, 1:])
        (loss.nll / TOKENS).backward()
        model.zero_grad()
    after = resource.getrusage(resource.RUSAGE_SELF)
    held = (after.ru_maxrss - before.ru_maxrss) * 1024
    if profiler is not None:
        profiler.stop()
        held = _peak(profiler)
    print(held, after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime)


def _peak(profiler: torch.profiler.profile) -> int:
    """The most bytes that tensors held at once."""
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def alone(*options: str, **environment: str) -> tuple[float, float, float]:
    """One measurement in a process of its own."""
    command = [sys.executable, __file__, "--alone", *options]
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | environment
    )
    held, user, system = map(float, done.stdout.split()[-3:])
    return held, user, system


def main() -> None:
    """Print the table, or measure one row of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for option in ("--alone", "--reuse", "--count"):
        parser.add_argument(option, action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        train(reuse=arguments.reuse, count=arguments.count)
        return
    live, *_ = alone("--count")
    rows = {
        "glibc": alone(),
        "glibc, keeping freed memory": alone("--reuse"),
        "mimalloc": alone(**allocator_environment()),
    }
    print(f"tensors hold {live / TOKENS / 1024:.0f} KiB/token at most")
    print(f"{'':>28} {'KiB/token':>10} {'over tensors':>13} {'user s':>7} {'system s':>9}")
    for name, (held, user, system) in rows.items():
        print(
            f"{name:>28} {held / TOKENS / 1024:>10.0f} {held / live:>13.2f} {user:>7.1f} "
            f"{system:>9.1f}"
        )


if __name__ == "__main__":
    main()
