"""Rows of packed tokens as tensors, for training and for validation."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from data_pipeline.errors import DataError
from data_pipeline.stream.packing import Windows

logger = logging.getLogger(__name__)


class Batch(NamedTuple):
    """Rows of packed tokens for one forward pass.

    Attributes:
        tokens: int64 [b, T].
        labels: int64 [b, T], the next token of the same document; -100 where there is none.
        segment_ids: int64 [b, T], non-decreasing from 0 in each row; padding comes last.
        documents: Per row, the (dataset, document) of each segment; document -1 is padding.
    """

    tokens: Tensor
    labels: Tensor
    segment_ids: Tensor
    documents: tuple[tuple[tuple[int, int], ...], ...]

    def to(self, device: torch.device) -> "Batch":
        """Copy the tensors to a device."""
        return Batch(
            self.tokens.to(device, non_blocking=True),
            self.labels.to(device, non_blocking=True),
            self.segment_ids.to(device, non_blocking=True),
            self.documents,
        )


# no NamedTuple: DataLoader would convert, and pin, what is in it one by one
@dataclass(frozen=True)
class Step:
    """All rows of a rank for one global step, as few tensors, since each costs a message.

    Attributes:
        tokens: int64 [rows, T].
        labels: int64 [rows, T].
        segment_ids: int64 [rows, T].
        documents: Per row, the (dataset, document) of each segment.
        corrupt: Number of masked tokens, by the reason why their shard is unreadable.
    """

    tokens: Tensor
    labels: Tensor
    segment_ids: Tensor
    documents: list[tuple[tuple[int, int], ...]]
    corrupt: dict[str, int]

    def pin_memory(self) -> "Step":
        """Copy the tensors into pinned memory; torch's DataLoader calls this."""
        return Step(
            self.tokens.pin_memory(),
            self.labels.pin_memory(),
            self.segment_ids.pin_memory(),
            self.documents,
            self.corrupt,
        )

    def batches(self, micro_batch_size: int) -> list[Batch]:
        """The rows in micro-batches."""
        batches = []
        for start in range(0, len(self.documents), micro_batch_size):
            rows = slice(start, start + micro_batch_size)
            documents = tuple(self.documents[rows])
            tensors = self.tokens[rows], self.labels[rows], self.segment_ids[rows]
            batches.append(Batch(*tensors, documents))
        return batches


def to_step(windows: Windows) -> Step:
    """The arrays of windows as tensors, without a copy."""
    return Step(
        torch.from_numpy(windows.tokens),
        torch.from_numpy(windows.labels),
        torch.from_numpy(windows.segment_ids),
        windows.documents,
        windows.corrupt,
    )


def report_corrupt(corrupt: Mapping[str, int], total: dict[str, int]) -> None:
    """Log every newly corrupt shard, and add its masked tokens to `total`."""
    for reason, tokens in corrupt.items():
        if reason not in total:
            logger.error("unreadable shard, its tokens are masked: %s", reason)
        total[reason] = total.get(reason, 0) + tokens


def check_rank(data_rank: int, data_ranks: int) -> None:
    """Check that `data_rank` is one of `data_ranks`.

    Raises:
        DataError: It is not.
    """
    if not 0 <= data_rank < data_ranks:
        raise DataError(f"data_rank: {data_rank}; expected 0 to {data_ranks - 1}")
