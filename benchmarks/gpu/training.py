"""Whole optimizer steps of a run on one device, in a fresh process."""

import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist

from benchmarks.gpu.device import Device
from data_pipeline.stream.batch import Batch
from pretrain.config import RunConfig


class Steps(NamedTuple):
    """Measurements of a run's steps.

    Attributes:
        seconds: The fastest step after the first.
        peak_bytes: Most memory held, model and optimizer included.
        loss: Loss of the last step.
    """

    seconds: float
    peak_bytes: int
    loss: float


def measure_steps(run: RunConfig, kind: str, steps: int) -> Steps:
    """Steps on random tokens, a window each, as a run of one rank takes them.

    Args:
        run: The run; its batch is one window.
        kind: Kind of the device, "cuda" or "cpu".
        steps: Optimizer steps, at least 2: the first one loads, compiles and tunes.
    """
    from pretrain.parallel.mesh import build_mesh
    from pretrain.resilience.heartbeat import Heartbeat
    from pretrain.runtime.ranks import init_ranks
    from pretrain.training.engine import build_engine, finish_step
    from pretrain.training.gradient import StepContext, compute_gradient

    if kind == "cpu":
        # a quick form on a machine with a GPU stays off it, and off the other cores
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        torch.set_num_threads(1)
    device = Device(kind)
    ranks = init_ranks()
    before = 0 if device.is_gpu else device.start_memory()
    mesh = build_mesh(run.parallel, ranks)
    engine = build_engine(run, ranks, mesh)
    T, losses, seconds = run.data.sequence_length, [], []
    generator = torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        context = StepContext(engine, ranks, mesh, Heartbeat(Path(folder), ranks.rank))

        def step() -> None:
            tokens_BT = torch.randint(run.model.vocab_size, (1, T + 1), generator=generator)
            x_BT, y_BT = tokens_BT[:, :-1], tokens_BT[:, 1:]
            batch = Batch(x_BT, y_BT, torch.zeros_like(x_BT), ())
            losses.append(compute_gradient(context, [batch], float(T), seed=len(losses)).loss)
            finish_step(engine, apply=True)

        for _ in range(steps):
            seconds.append(device.wall_s(step))
    dist.destroy_process_group()
    return Steps(min(seconds[1:]), device.peak_bytes() - before, losses[-1])
