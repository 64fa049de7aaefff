"""The held-out split during training."""

from typing import Any

from data_pipeline.stream.held_out import iterate_valid
from pretrain.config import RunConfig
from pretrain.loss import valid_sums
from pretrain.objectives.build import preparing_of, report_of
from pretrain.parallel.evaluator import evaluator
from pretrain.parallel.mesh import Mesh
from pretrain.parallel.sequence_parallel import own_span
from pretrain.resilience.stop_signals import StopPoll
from pretrain.runtime.ranks import Ranks, summed


def validation(
    run: RunConfig, mesh: Mesh, engine: Any, ranks: Ranks, poll: StopPoll
) -> dict[str, float]:
    """Figures of the split, or of its first part, by the objective; the same on all ranks.

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
        preparing=preparing_of(run),
        max_windows=run.train.validate_batches * run.train.global_batch_size or None,
    )
    spans = (own_span(batch, mesh.sequence) for batch in poll.polled(batches))
    sums = valid_sums(evaluator(engine), spans, ranks.device)
    nll, labels, correct = summed([value * mesh.counts for value in sums], ranks.device)
    return report_of(run, nll, labels, correct)
