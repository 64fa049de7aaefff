"""Measured optimizer steps on several ranks, for the benchmarks of layouts.

Every measurement is a group of fresh processes, one thread each, so that peak memory is its own.
"""

import os
import tempfile
import time
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from benchmarks.harness.processes import resident_bytes
from data_pipeline.stream.batch import Batch
from pretrain.config import RunConfig
from pretrain.runtime.malloc import allocator_environment


class Measurement(NamedTuple):
    """Time, memory and losses of one group of ranks.

    Attributes:
        seconds: Seconds of each step on the slowest rank.
        tokens_per_s: Speed of the fastest step.
        memory: Peak resident bytes of the largest rank until the end of each step, beyond those
            before the first.
        losses: Loss of each step.
    """

    seconds: list[float]
    tokens_per_s: float
    memory: list[int]
    losses: list[float]


def measure_layout(run: RunConfig, ranks: int, tokens: Tensor, steps: int) -> Measurement:
    """Time and memory of training on consecutive windows, in a group of fresh processes.

    Args:
        run: A step takes train.global_batch_size windows of data.sequence_length tokens.
        ranks: Number of processes.
        tokens: Token ids [n], n at least steps x batch x length + 1.
        steps: Optimizer steps.
    """
    # mimalloc is safe here: these ranks fork no readers
    variables = patch.dict(os.environ, allocator_environment())
    with tempfile.TemporaryDirectory() as folder, variables:
        file = Path(folder) / "measurement.pt"
        mp.spawn(_rank, (ranks, folder, run, tokens, steps, file), nprocs=ranks)
        return Measurement(*torch.load(file))


def _rank(
    rank: int, ranks: int, folder: str, run: RunConfig, tokens: Tensor, steps: int, file: Path
) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=ranks
    )
    # not at the top: Linux counts the memory of the starting process into the peak of its ranks
    from pretrain.parallel.mesh import build_mesh
    from pretrain.parallel.sequence_parallel import own_span
    from pretrain.resilience.heartbeat import Heartbeat
    from pretrain.runtime.ranks import gathered, init_ranks
    from pretrain.training.engine import build_engine, finish_step
    from pretrain.training.gradient import StepContext, compute_gradient

    ranks_here = init_ranks()
    mesh = build_mesh(run.parallel, ranks_here)
    engine = build_engine(run, ranks_here, mesh)
    context = StepContext(engine, ranks_here, mesh, Heartbeat(Path(folder), rank))
    length, batch = run.data.sequence_length, run.train.global_batch_size
    before = resident_bytes()
    seconds, memory, losses = [], [], []
    for step in range(steps):
        begin = step * batch * length
        window = tokens[begin : begin + batch * length + 1]
        local = slice(mesh.data.rank, None, mesh.data.size)
        rows = window[:-1].view(batch, length)[local]
        labels = window[1:].view(batch, length)[local]
        micro = [
            own_span(Batch(x, y, torch.zeros_like(x), ()), mesh.sequence)
            for x, y in zip(
                rows.split(run.train.micro_batch_size),
                labels.split(run.train.micro_batch_size),
                strict=True,
            )
        ]
        dist.barrier()
        start = time.perf_counter()
        gradient = compute_gradient(context, micro, float(batch * length), seed=step)
        finish_step(engine, apply=True)
        seconds.append(time.perf_counter() - start)
        memory.append(float(resident_bytes() - before))
        losses.append(gradient.loss)
    measured = gathered([*seconds, *memory], ranks_here.device)
    if rank == 0:
        largest = [max(column) for column in zip(*measured, strict=True)]
        slowest, peaks = largest[:steps], [int(peak) for peak in largest[steps:]]
        torch.save((slowest, batch * length / min(slowest), peaks, losses), file)
    dist.barrier()
    dist.destroy_process_group()
