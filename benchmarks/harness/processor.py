"""This machine's processor as a device of the planner: its rates, found by a short run.

A device is one thread, as a rank of these benchmarks has, and its link is gloo over the loopback
interface. Every figure is the fastest of several rounds.
"""

import math
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from benchmarks.harness.processes import fastest, with_environment
from benchmarks.harness.results import machine
from pretrain.planning.devices import Device, Link
from pretrain.runtime.malloc import allocator_environment

# numbers in a stream, and how many a pass keeps: more than caches hold
STREAM, KEPT = (1_024, 1_024), 32
# rows and width of a projection, points of a transform
ROWS, WIDTH, EXPANDED, POINTS = 2_048, 256, 688, 4_096
MESSAGE_BYTES = 16 << 20


def measured_device(rounds: int) -> Device:
    """The rates of one thread of this processor; the overhead of an operation is left at zero.

    Args:
        rounds: Repetitions of each operation.
    """
    # the allocator of measured ranks: new pages would cost more than arithmetic
    rates = with_environment(allocator_environment(), _rates, rounds)
    return Device(
        name=str(machine()["processor"]),
        memory_gib=float(machine()["memory_gib"]),
        link="loopback",
        per_node=os.cpu_count() or 1,
        source="measured by benchmarks/harness/processor.py",
        **rates,
    )


def measured_link(rounds: int) -> Link:
    """Bandwidth and latency between two processes, each with one thread."""
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "link.pt"
        mp.spawn(_exchange, (name, rounds, file), nprocs=2)
        small_s, large_s = torch.load(file)
    # two ranks reduce in two messages, and give each other half of the bytes twice
    latency_us = 1e6 * small_s / 2
    return Link(
        gb_s=MESSAGE_BYTES / max(large_s - small_s, 1e-9) / 1e9,
        latency_us=latency_us,
        source="measured by benchmarks/harness/processor.py",
    )


def _rates(rounds: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    square = torch.randn(1_024, 1_024)
    x, weight, gradient = (
        torch.randn(*shape) for shape in ((ROWS, WIDTH), (WIDTH, EXPANDED), (ROWS, EXPANDED))
    )
    signal = torch.randn(WIDTH, POINTS)
    stream = torch.randn(STREAM)
    seconds = fastest(
        lambda: square @ square,
        # forward product, and both of its backward pass
        lambda: (x @ weight, gradient @ weight.T, x.T @ gradient),
        lambda: torch.fft.rfft(signal),
        lambda: _products(stream),
        lambda: _activations(stream),
        least=rounds,
    )
    product_s, projections_s, transform_s, products_s, activations_s = seconds
    peak = 2 * 1_024**3 / product_s
    projections = 3 * 2 * ROWS * WIDTH * EXPANDED / projections_s
    # of five point logarithms, since the signal is real
    transform_flops = 2.5 * signal.numel() * math.log2(POINTS)
    stream_bytes = KEPT * stream.numel() * stream.element_size()
    bandwidth = 6 * stream_bytes / products_s
    return {
        "tflops": {"float32": peak / 1e12},
        "efficiency": min(projections / peak, 1.0),
        "vector_tflops": transform_flops / transform_s / 1e12,
        "memory_gb_s": bandwidth / 1e9,
        "memory_efficiency": min(8 * stream_bytes / activations_s / bandwidth, 1.0),
    }


def _products(stream: Tensor) -> None:
    """Forward pass whose results stay, and a backward pass over them: six streams of each."""
    results = [stream]
    for _ in range(KEPT):
        results.append(results[-1] * stream)
    gradient = stream
    while len(results) > 1:
        gradient = gradient * results.pop()


def _activations(stream: Tensor) -> None:
    """The same of activations, transposed copies and sums: eight streams of each."""
    results = [stream]
    for _ in range(KEPT):
        results.append(nn.functional.silu(results[-1]).T.contiguous())
    gradient = stream
    while len(results) > 1:
        gradient = torch.ops.aten.silu_backward(gradient, results.pop())
        gradient.sum(0)


def _exchange(rank: int, folder: str, rounds: int, file: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    times = []
    for size, repeats in ((8, 20 * rounds), (MESSAGE_BYTES, rounds)):
        message = torch.zeros(size // 4)
        seconds = float("inf")
        for _ in range(repeats):
            dist.barrier()
            start = time.perf_counter()
            dist.all_reduce(message)
            seconds = min(seconds, time.perf_counter() - start)
        times.append(seconds)
    if rank == 0:
        torch.save(times, file)
    dist.barrier()
    dist.destroy_process_group()
