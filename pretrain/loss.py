"""The training objective and the held-out loss: sums over tokens, in nats."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from data_pipeline.stream.batch import Batch
from spectral.lm import LMLoss


class ValidSums(NamedTuple):
    """Sums over a held-out split.

    Attributes:
        nll: Loss, in nats.
        labels: Number of predicted tokens, or of texts with labels.
        correct: Number of texts whose label is predicted right.
    """

    nll: float
    labels: float
    correct: float


def count_labels(batch: Batch) -> int:
    """Number of tokens in a batch to predict, or of texts with labels."""
    return num_labels(batch.labels)


def num_labels(labels: Tensor) -> int:
    """As `count_labels`; further labels of a text are below all others, and count with it."""
    return int((labels >= 0).sum())


def batch_loss(model: Callable[..., Any], batch: Batch) -> LMLoss:
    """Summed negative log-likelihood of a batch, and its auxiliary losses."""
    return model(batch.tokens, batch.segment_ids, batch.labels)


def objective(loss: LMLoss, num_labels: int) -> Tensor:
    """The minimised quantity: a sum over tokens, with auxiliary losses weighted by their number."""
    return loss.nll + loss.auxiliary * num_labels


@torch.no_grad()
def valid_sums(model: Any, batches: Iterable[Batch], device: torch.device) -> ValidSums:
    """Sums over this rank's part of a held-out split.

    Args:
        model: A model or an engine around one; its training mode is restored.
        batches: This rank's batches.
        device: Device of the model.
    """
    was_training = model.training
    model.eval()
    nll, correct = torch.zeros(2, dtype=torch.float64, device=device)
    labels = 0
    for batch in batches:
        loss = batch_loss(model, batch.to(device))
        nll += loss.nll
        if loss.correct is not None:
            correct += loss.correct
        labels += count_labels(batch)
    model.train(was_training)
    return ValidSums(float(nll), float(labels), float(correct))
