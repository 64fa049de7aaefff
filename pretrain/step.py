"""The gradient of one step over this rank's micro-batches, and the numbers to judge it by."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from data_pipeline.loader import Batch
from data_pipeline.order import hash_integers
from pretrain.distributed import Ranks, gathered
from pretrain.engine import gradient_norm
from pretrain.heartbeat import Heartbeat
from pretrain.loss import batch_loss, count_labels, objective
from pretrain.parallel.mesh import Mesh


class Gradient(NamedTuple):
    """A gradient that lies in the engine and is not yet applied. Equal on all ranks but `losses`.

    Attributes:
        loss: Mean over the tokens of all ranks.
        auxiliary: Losses that are added to it, likewise.
        norm: Of the whole gradient, before clipping.
        losses: Sums over tokens of this rank's micro-batches.
        rank_seconds: By rank, the time for data and forward passes.
    """

    loss: float
    auxiliary: float
    norm: float
    losses: list[float]
    rank_seconds: list[float]


def compute_gradient(
    engine: Any,
    batches: Sequence[Batch],
    num_labels: float,
    ranks: Ranks,
    mesh: Mesh,
    heartbeat: Heartbeat,
    data_s: float,
    noise: int,
) -> Gradient:
    """Forward and backward passes, without the optimizer; a collective.

    The loss of every rank and micro-batch is divided by the tokens of the whole step, so the
    step is the same however its rows are spread.

    Args:
        engine: The DeepSpeed engine.
        batches: This rank's micro-batches.
        num_labels: Tokens that are predicted in the step, on all ranks.
        ranks: This process among the others.
        mesh: Its place in the layout.
        heartbeat: Beats with every pass.
        data_s: Seconds that this rank waited for the batches.
        noise: Seed of this step's random numbers (dropout, Gumbel noise). Each micro-batch gets its
            own from it, by its place in the whole step: nothing of it needs to be saved.
    """
    # DeepSpeed divides by accumulation steps and the ranks that it shards over; this undoes it
    divisor = max(num_labels, 1.0)
    scale = len(batches) * mesh.zero.size / divisor
    losses: list[Tensor] = []
    auxiliary = torch.zeros((), dtype=torch.float64, device=ranks.device)
    heartbeat.step_s = data_s
    for number, batch in enumerate(batches, start=1):
        heartbeat.beat(f"forward pass {number}")
        begin = time.perf_counter()
        torch.manual_seed(hash_integers(noise, mesh.data.rank * len(batches) + number))
        labels = count_labels(batch)
        loss = batch_loss(engine, batch.to(ranks.device))
        losses.append(loss.nll.detach().double())
        auxiliary += loss.auxiliary.detach() * labels
        # backward passes are left out: ranks wait for one another in them
        heartbeat.step_s += time.perf_counter() - begin
        heartbeat.beat(f"backward pass {number}")
        engine.backward(objective(loss, labels) * scale)
        if number < len(batches):
            engine.step()
    heartbeat.beat("gradient norm")
    own = torch.stack(losses)
    numbers: list[float | Tensor] = [
        own.sum() * mesh.counts,
        auxiliary * mesh.counts,
        gradient_norm(engine),
        heartbeat.step_s,
    ]
    nll, extra, norms, seconds = zip(*gathered(numbers, ranks.device), strict=True)
    return Gradient(sum(nll) / divisor, sum(extra) / divisor, norms[0], own.tolist(), list(seconds))
