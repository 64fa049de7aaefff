"""The training objective and the held-out loss: sums over tokens, in nats."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from data_pipeline.stream.batch import Batch
from kernels.linear_cross_entropy.reference import IGNORE
from spectral.lm import LMLoss


def count_labels(batch: Batch) -> int:
    """Number of tokens in a batch that have a next token to predict."""
    return int((batch.labels != IGNORE).sum())


def batch_loss(model: Callable[..., Any], batch: Batch) -> LMLoss:
    """Summed negative log-likelihood of a batch, and its auxiliary losses."""
    return model(batch.tokens, batch.segment_ids, batch.labels)


def objective(loss: LMLoss, num_labels: int) -> Tensor:
    """The minimised quantity: a sum over tokens, with auxiliary losses weighted by their number."""
    return loss.nll + loss.auxiliary * num_labels


@torch.no_grad()
def valid_loss(model: Any, batches: Iterable[Batch], device: torch.device) -> tuple[float, float]:
    """Sum of the loss over this rank's part of a held-out split, and number of predicted tokens.

    Args:
        model: A model or an engine around one; its training mode is restored.
        batches: This rank's batches.
        device: Device of the model.
    """
    was_training = model.training
    model.eval()
    loss = torch.zeros((), dtype=torch.float64, device=device)
    num_labels = 0
    for batch in batches:
        loss += batch_loss(model, batch.to(device)).nll
        num_labels += count_labels(batch)
    model.train(was_training)
    return float(loss), float(num_labels)
