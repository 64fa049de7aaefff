"""The gradient of one step over this rank's micro-batches, and the figures to judge it by."""

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
from pretrain.training.noise_scale import NoiseScale
from spectral.lm import LMLoss


class StepContext(NamedTuple):
    """Everything about a rank that stays the same from step to step.

    Attributes:
        engine: The DeepSpeed engine.
        ranks: This process among the ranks.
        mesh: Its place in the layout.
        heartbeat: Beats with every pass.
        loss_scale: Scale of the loss of float16 products; None for no scaling.
        noise: Measures the norms of single micro-batches; None for no measurement.
    """

    engine: Any
    ranks: Ranks
    mesh: Mesh
    heartbeat: Heartbeat
    loss_scale: LossScale | None = None
    noise: NoiseScale | None = None


class Gradient(NamedTuple):
    """A gradient in the engine that is not yet applied. Equal on all ranks except `losses`.

    Attributes:
        loss: Mean loss over the tokens of all ranks.
        auxiliary: Mean of the auxiliary losses, which are added to the loss.
        norm: Norm of the whole gradient before clipping.
        losses: Loss of each of this rank's micro-batches, summed over its tokens; empty before a
            pipeline's last stage.
        rank_seconds: Seconds of each rank for data and forward passes.
    """

    loss: float
    auxiliary: float
    norm: float
    losses: list[float]
    rank_seconds: list[float]


def compute_gradient(
    context: StepContext,
    batches: Sequence[Batch],
    num_labels: float,
    *,
    seed: int,
    step: int = 0,
    data_s: float = 0.0,
) -> Gradient:
    """Run forward and backward passes, without the optimizer; a collective.

    Repeats them with a lower loss scale while the gradient, but not the loss, overflows.

    The loss of every rank and micro-batch is divided by the tokens of the whole step, so the
    step is the same however its rows are spread.

    Args:
        context: The rank's engine and its place among the ranks.
        batches: This rank's micro-batches.
        num_labels: Tokens that are predicted in the step, on all ranks.
        seed: Seed of this step's random numbers (dropout, Gumbel noise). Each micro-batch derives
            a separate seed from its place in the whole step, so no random state is saved.
        step: Number of the step, counted from 1.
        data_s: Seconds that this rank waited for the batches.
    """
    engine, ranks, mesh, heartbeat, loss_scale, noise = context
    # DeepSpeed divides by accumulation steps and the ranks that it shards over; this undoes it
    divisor = max(num_labels, 1.0)
    whole = len(batches) * mesh.zero.size / divisor
    first = mesh.data.rank * len(batches) + 1
    seeds = [hash_integers(seed, first + number) for number in range(len(batches))]
    labels = [count_labels(batch) for batch in batches]
    passes = _pipelined_passes if mesh.pipeline.size > 1 else _passes
    zero = torch.zeros((), dtype=torch.float64, device=ranks.device)
    while True:
        heartbeat.step_s = data_s
        if noise is not None:
            noise.begin(step)
        scale = whole if loss_scale is None else whole * loss_scale.value
        losses = passes(context, batches, seeds, scale)
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
    context: StepContext, batches: Sequence[Batch], seeds: Sequence[int], scale: float
) -> list[LMLoss]:
    """Run one micro-batch after the other."""
    engine, heartbeat, noise = context.engine, context.heartbeat, context.noise
    losses = []
    for number, (batch, seed) in enumerate(zip(batches, seeds, strict=True), start=1):
        heartbeat.beat(f"forward pass {number}")
        begin = time.perf_counter()
        seed_micro_batch(engine.module, seed)
        loss = batch_loss(engine, batch.to(context.ranks.device))
        losses.append(LMLoss(loss.nll.detach(), loss.auxiliary.detach()))
        # backward passes are left out: ranks wait for each other in them
        heartbeat.step_s += time.perf_counter() - begin
        heartbeat.beat(f"backward pass {number}")
        engine.backward(objective(loss, count_labels(batch)) * scale)
        if noise is not None:
            noise.end_pass(count_labels(batch))
        if number < len(batches):
            engine.step()
    return losses


def _pipelined_passes(
    context: StepContext, batches: Sequence[Batch], seeds: Sequence[int], scale: float
) -> list[LMLoss]:
    """Run all micro-batches through the stages; losses on the last stage only."""
    from pretrain.parallel.pipeline_parallel import accumulate_gradient

    context.heartbeat.beat("passes through the pipeline")
    on_device = [batch.to(context.ranks.device) for batch in batches]
    return accumulate_gradient(context.engine, on_device, seeds, scale)
