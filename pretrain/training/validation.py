"""The loss over the held-out split during training."""

from typing import Any

from data_pipeline.stream.held_out import iterate_valid
from pretrain.config import RunConfig
from pretrain.loss import valid_loss
from pretrain.parallel.evaluator import evaluator
from pretrain.parallel.mesh import Mesh
from pretrain.parallel.sequence_parallel import own_span
from pretrain.resilience.stop_signals import StopPoll
from pretrain.runtime.ranks import Ranks, summed


def validation_loss(run: RunConfig, mesh: Mesh, engine: Any, ranks: Ranks, poll: StopPoll) -> float:
    """Mean loss of the split, or of its first part, in nats per token, the same on all ranks.

    Raises:
        Stopped: A rank was asked to stop.
    """
    batches = iterate_valid(
        run.data.valid,
        sequence_length=run.data.sequence_length,
        micro_batch_size=run.train.micro_batch_size,
        data_rank=mesh.data.rank,
        data_ranks=mesh.data.size,
        config=run.data,
        max_windows=run.train.validate_batches * run.train.global_batch_size or None,
    )
    spans = (own_span(batch, mesh.sequence) for batch in poll.polled(batches))
    loss_sum, num_labels = valid_loss(evaluator(engine), spans, ranks.device)
    loss_sum, num_labels = summed([loss_sum * mesh.counts, num_labels * mesh.counts], ranks.device)
    return loss_sum / max(num_labels, 1.0)
