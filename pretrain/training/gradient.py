"""The gradient of one step over this rank's micro-batches, and the numbers to judge it by."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from data_pipeline.stream.batch import Batch
from data_pipeline.stream.order import hash_integers
from pretrain.loss import batch_loss, count_labels, objective
from pretrain.parallel.mesh import Mesh
from pretrain.parallel.rng import seed_micro_batch
from pretrain.resilience.heartbeat import Heartbeat
from pretrain.runtime.precision import LossScale
from pretrain.runtime.ranks import Ranks, gathered
from pretrain.training.engine import finish_step, gradient_norm
from spectral.lm import LMLoss


class Gradient(NamedTuple):
    """A gradient that lies in the engine and is not yet applied. Equal on all ranks but `losses`.

    Attributes:
        loss: Mean over the tokens of all ranks.
        auxiliary: Losses that are added to it, likewise.
        norm: Of the whole gradient, before clipping.
        losses: Sums over tokens of this rank's micro-batches; none before a pipeline's last stage.
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
    loss_scale: LossScale | None = None,
) -> Gradient:
    """Forward and backward passes, without the optimizer; a collective.

    Done again with a lower loss scale while the gradient, but not the loss, overflows.

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
        loss_scale: Of float16 products; None for no scaling.
    """
    # DeepSpeed divides by accumulation steps and the ranks that it shards over; this undoes it
    divisor = max(num_labels, 1.0)
    whole = len(batches) * mesh.zero.size / divisor
    first = mesh.data.rank * len(batches) + 1
    seeds = [hash_integers(noise, first + number) for number in range(len(batches))]
    labels = [count_labels(batch) for batch in batches]
    passes = _pipelined_passes if mesh.pipeline.size > 1 else _passes
    zero = torch.zeros((), dtype=torch.float64, device=ranks.device)
    while True:
        heartbeat.step_s = data_s
        scale = whole if loss_scale is None else whole * loss_scale.value
        losses = passes(engine, batches, seeds, scale, ranks, heartbeat)
        nll = sum((loss.nll for loss in losses), start=zero)
        auxiliary = sum(
            (loss.auxiliary * count for loss, count in zip(losses, labels, strict=False)),
            start=zero,
        )
        heartbeat.beat("gradient norm")
        numbers: list[float | Tensor] = [
            nll * mesh.counts,
            auxiliary * mesh.counts,
            gradient_norm(engine),
            heartbeat.step_s,
        ]
        nlls, extras, norms, seconds = zip(*gathered(numbers, ranks.device), strict=True)
        gradient = Gradient(
            sum(nlls) / divisor,
            sum(extras) / divisor,
            norms[0],
            [float(loss.nll) for loss in losses],
            list(seconds),
        )
        if loss_scale is None or not loss_scale.rejects(gradient.loss, gradient.norm):
            return gradient
        finish_step(engine, apply=False)


def _passes(
    engine: Any,
    batches: Sequence[Batch],
    seeds: Sequence[int],
    scale: float,
    ranks: Ranks,
    heartbeat: Heartbeat,
) -> list[LMLoss]:
    """One micro-batch after the other."""
    losses = []
    for number, (batch, seed) in enumerate(zip(batches, seeds, strict=True), start=1):
        heartbeat.beat(f"forward pass {number}")
        begin = time.perf_counter()
        seed_micro_batch(engine.module, seed)
        loss = batch_loss(engine, batch.to(ranks.device))
        losses.append(LMLoss(loss.nll.detach(), loss.auxiliary.detach()))
        # backward passes are left out: ranks wait for one another in them
        heartbeat.step_s += time.perf_counter() - begin
        heartbeat.beat(f"backward pass {number}")
        engine.backward(objective(loss, count_labels(batch)) * scale)
        if number < len(batches):
            engine.step()
    return losses


def _pipelined_passes(
    engine: Any,
    batches: Sequence[Batch],
    seeds: Sequence[int],
    scale: float,
    ranks: Ranks,
    heartbeat: Heartbeat,
) -> list[LMLoss]:
    """All micro-batches on their way through the stages; losses on the last stage only."""
    from pretrain.parallel.pipeline_parallel import accumulate_gradient

    heartbeat.beat("passes through the pipeline")
    on_device = [batch.to(ranks.device) for batch in batches]
    return accumulate_gradient(engine, on_device, seeds, scale)
