"""Rows of packed tokens as tensors, for training and for validation."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from data_pipeline.errors import DataError
from data_pipeline.stream.packing import Windows

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """Rows of packed tokens for one forward pass.

    Attributes:
        tokens: int64 [b, T].
        labels: int64 [b, T], the next token of the same document; -100 where there is none.
        segment_ids: int64 [b, T], non-decreasing from 0 in each row; padding comes last.
        documents: By row, the (dataset, document) of each segment; document -1 is padding.
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


@dataclass
class Step:
    """What a worker hands over: all of a rank's rows, as few tensors, since each costs a message.

    `corrupt` holds the tokens that had to be masked, by the reason.
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
        """Cut the rows into micro-batches."""
        found = []
        for start in range(0, len(self.documents), micro_batch_size):
            rows = slice(start, start + micro_batch_size)
            documents = tuple(self.documents[rows])
            tensors = self.tokens[rows], self.labels[rows], self.segment_ids[rows]
            found.append(Batch(*tensors, documents))
        return found


def to_step(windows: Windows) -> Step:
    """The windows' arrays as tensors, without a copy."""
    return Step(
        torch.from_numpy(windows.tokens),
        torch.from_numpy(windows.labels),
        torch.from_numpy(windows.segment_ids),
        windows.documents,
        windows.corrupt,
    )


def report_corrupt(corrupt: Mapping[str, int], known: dict[str, int]) -> None:
    """Log a shard the first time, and count its masked tokens every time."""
    for reason, tokens in corrupt.items():
        if reason not in known:
            logger.error("unreadable shard, its tokens are masked: %s", reason)
        known[reason] = known.get(reason, 0) + tokens


def check_rank(data_rank: int, data_ranks: int) -> None:
    """Raise a DataError unless there is such a data-parallel rank."""
    if not 0 <= data_rank < data_ranks:
        raise DataError(f"data_rank: {data_rank}; expected 0 to {data_ranks - 1}")
