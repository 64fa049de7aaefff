"""Optimizer steps of a model on some ranks, measured: what the benchmarks of layouts share.

Every measurement is a group of fresh processes, one thread each, so that peak memory is its own.
"""

import os
import resource
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from data_pipeline.stream.batch import Batch
from pretrain.config import RunConfig
from pretrain.runtime.malloc import allocator_environment


class Measurement(NamedTuple):
    """What one group of ranks needed.

    Attributes:
        seconds: Of each step, of the slowest rank.
        tokens_per_s: In the fastest step.
        memory: Peak resident bytes of the largest rank until the end of each step, beyond those
            before the first.
        losses: Of the steps.
    """

    seconds: list[float]
    tokens_per_s: float
    memory: list[int]
    losses: list[float]


def measure(run: RunConfig, ranks: int, tokens: Tensor, steps: int) -> Measurement:
    """Train on windows that follow one another in `tokens` [n], in a group of fresh processes.

    Args:
        run: Its batch is train.global_batch_size windows of data.sequence_length tokens.
        ranks: Processes.
        tokens: At least steps x batch x length + 1 of them.
        steps: Optimizer steps.
    """
    # these ranks fork no readers
    os.environ.update(allocator_environment())
    with tempfile.TemporaryDirectory() as folder:
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
    from pretrain.parallel.build_model import build_model
    from pretrain.parallel.mesh import build_mesh
    from pretrain.parallel.sequence_parallel import own_span
    from pretrain.resilience.heartbeat import Heartbeat
    from pretrain.runtime.ranks import gathered, init_ranks
    from pretrain.training.engine import build_engine, finish_step
    from pretrain.training.gradient import compute_gradient

    joined = init_ranks()
    mesh = build_mesh(run.parallel, joined)
    engine = build_engine(run, build_model(run, mesh), joined, mesh)
    heartbeat = Heartbeat(Path(folder), rank)
    length, batch = run.data.sequence_length, run.train.global_batch_size
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seconds, memory, losses = [], [], []
    for step in range(steps):
        begin = step * batch * length
        window = tokens[begin : begin + batch * length + 1]
        own = slice(mesh.data.rank, None, mesh.data.size)
        rows, labels = window[:-1].view(batch, length)[own], window[1:].view(batch, length)[own]
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
        gradient = compute_gradient(
            engine, micro, float(batch * length), joined, mesh, heartbeat, 0.0, step
        )
        finish_step(engine, apply=True)
        seconds.append(time.perf_counter() - start)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
        memory.append(float(peak))
        losses.append(gradient.loss)
    every = gathered([*seconds, *memory], joined.device)
    if rank == 0:
        largest = [max(column) for column in zip(*every, strict=True)]
        slowest, peaks = largest[:steps], [int(peak) for peak in largest[steps:]]
        torch.save((slowest, batch * length / min(slowest), peaks, losses), file)
    dist.barrier()
    dist.destroy_process_group()
