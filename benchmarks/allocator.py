"""Memory and time of training on CPU by allocator.

    python -m benchmarks.allocator

A model of 12 recomputed blocks on one long row, one thread, two passes forward and backward: glibc
with its defaults, glibc told to keep freed memory, and mimalloc, as `pretrain.runtime.malloc` sets
them. Memory is the peak of resident bytes beyond those before the first pass, over the peak of
tensors' bytes; every row is measured in a fresh process.
"""

import resource
from typing import NamedTuple

import torch

from benchmarks.harness.command import run_benchmark
from benchmarks.harness.processes import in_fresh_process, resident_bytes, with_environment
from benchmarks.harness.thresholds import Figure, Outcome
from pretrain.parallel.activation_checkpointing import checkpoint_activations
from pretrain.runtime.malloc import allocator_environment, reuse_freed_memory
from pretrain.train_config import TrainConfig
from spectral.config import ModelConfig
from spectral.lm import SpectralLM

VOCAB, PASSES = 256, 2


class Sizes(NamedTuple):
    """Tokens of the row, layers and width of the model."""

    tokens: int
    num_layers: int
    dim: int


FULL = Sizes(12_800, 12, 256)
QUICK = Sizes(128, 2, 32)


class Usage(NamedTuple):
    """Peak bytes beyond those before, and seconds of the processor."""

    num_bytes: int
    user_s: float
    system_s: float


def resident_usage(sizes: Sizes, reuse: bool) -> Usage:
    """Resident bytes and seconds of some passes; in a fresh process.

    Args:
        sizes: Model and row.
        reuse: Whether glibc keeps freed memory.
    """
    if reuse:
        reuse_freed_memory()
    model, tokens = _model_and_row(sizes)
    before, held = resource.getrusage(resource.RUSAGE_SELF), resident_bytes()
    for _ in range(PASSES):
        _forward_backward(model, tokens)
    after = resource.getrusage(resource.RUSAGE_SELF)
    user_s, system_s = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    return Usage(resident_bytes() - held, user_s, system_s)


def tensor_bytes(sizes: Sizes) -> int:
    """Peak bytes of all tensors during one pass."""
    model, tokens = _model_and_row(sizes)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        _forward_backward(model, tokens)
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def _model_and_row(sizes: Sizes) -> tuple[SpectralLM, torch.Tensor]:
    torch.set_num_threads(1)
    model = SpectralLM(
        ModelConfig(
            vocab_size=VOCAB,
            dim=sizes.dim,
            num_layers=sizes.num_layers,
            num_heads=4,
            ffn_dim=sizes.dim * 43 // 16,
        )
    )
    checkpoint_activations(model.blocks, TrainConfig(activation_checkpointing="full"))
    return model, torch.randint(VOCAB, (1, sizes.tokens + 1))


def _forward_backward(model: SpectralLM, tokens: torch.Tensor) -> None:
    loss = model(tokens[:, :-1], labels_BT=tokens[:, 1:])
    (loss.nll / (tokens.shape[1] - 1)).backward()
    model.zero_grad()


def measure(quick: bool) -> Outcome:
    """Measure all allocators and print the table."""
    sizes = QUICK if quick else FULL
    peak = in_fresh_process(tensor_bytes, sizes)
    rows = {
        "glibc": in_fresh_process(resident_usage, sizes, reuse=False),
        "glibc, keeping freed memory": in_fresh_process(resident_usage, sizes, reuse=True),
    }
    mimalloc = allocator_environment()
    if mimalloc:
        rows["mimalloc"] = with_environment(mimalloc, resident_usage, sizes, reuse=False)
    else:
        print("mimalloc: not installed, or another library is preloaded already")
    per_token = peak / sizes.tokens / 1024
    print(f"peak of tensors: {per_token:.0f} KiB/token")
    print(f"{'':>28} {'KiB/token':>10} {'over tensors':>13} {'user s':>7} {'system s':>9}")
    figures = [Figure("peak of tensors per token", per_token, "KiB")]
    for name, usage in rows.items():
        print(
            f"{name:>28} {usage.num_bytes / sizes.tokens / 1024:>10.0f} "
            f"{usage.num_bytes / peak:>13.2f} {usage.user_s:>7.1f} {usage.system_s:>9.1f}"
        )
        figures += [
            Figure(f"{name}: resident memory over tensors'", usage.num_bytes / peak),
            Figure(f"{name}: user time", usage.user_s, "s"),
            Figure(f"{name}: system time", usage.system_s, "s"),
        ]
    return Outcome(
        f"{sizes.num_layers} recomputed blocks of width {sizes.dim}, one row of {sizes.tokens:,} "
        f"tokens, {PASSES} passes, one thread.",
        figures,
    )


if __name__ == "__main__":
    run_benchmark("allocator", __doc__, measure)
