"""Rows of a batch without their padding, and the documents in them.

transformers names padding and packed documents in several ways; here they become columns to compute
and document numbers.

Shape letters: B batch, T time (tokens of a row, padding included).
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad


class RowPacking(NamedTuple):
    """The tokens of each row, moved together.

    Attributes:
        column_BT: Column of each token, those of padding last.
        count_B: Number of tokens that are no padding.
        segment_ids_BT: Document number of each moved token; padding is a document.
    """

    column_BT: Tensor
    count_B: Tensor
    segment_ids_BT: Tensor

    def at_the_end(self) -> "RowPacking":
        """The same rows with the padding first, so that all end with a token."""
        T = self.column_BT.shape[1]
        time_T = torch.arange(T, device=self.column_BT.device)
        source_BT = (time_T + self.count_B[:, None]) % T
        # moved padding has the highest number
        is_token_BT = time_T >= T - self.count_B[:, None]
        segments_BT = (self.segment_ids_BT.gather(1, source_BT) + 1) * is_token_BT
        return RowPacking(self.column_BT.gather(1, source_BT), self.count_B, segments_BT)


def pack_rows(
    shape: torch.Size,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    seq_idx: Tensor | None = None,
    cu_seq_lens: Tensor | None = None,
) -> RowPacking | None:
    """Padding and documents of a batch; None if every row is one document without padding.

    A document begins where any of the arguments says so.

    Args:
        shape: (B, T).
        attention_mask: 0 for padding; other numbers that change from token to token separate
            documents. May be longer than T, by tokens that came before.
        position_ids: [B, T] or [1, T]; a document begins where the position is not the last one
            plus 1.
        seq_idx: [B, T] or [1, T], another number for each document.
        cu_seq_lens: First token of every document among the B T tokens, and their number.

    Raises:
        ValueError: A shape or a value does not fit.
    """
    mask_BT = _mask(attention_mask, shape)
    numbers_BT = [
        _numbers(name, value, shape)
        for name, value in (("position_ids", position_ids), ("seq_idx", seq_idx))
    ]
    numbers_BT.append(None if cu_seq_lens is None else _packed_numbers(cu_seq_lens, shape))
    if mask_BT is None and all(numbers is None for numbers in numbers_BT):
        return None
    given = next(i for i in (mask_BT, *numbers_BT) if i is not None)
    if mask_BT is None:
        mask_BT = torch.ones(shape, dtype=torch.long, device=given.device)
    real_BT = mask_BT != 0
    count_B = real_BT.sum(1)
    column_BT = (~real_BT).to(torch.uint8).argsort(dim=1, stable=True)
    begins_BT = _changes(mask_BT.gather(1, column_BT), 0)
    for numbers, step in zip(numbers_BT, (1, 0, 0), strict=True):
        if numbers is not None:
            begins_BT |= _changes(numbers.gather(1, column_BT), step)
    time_T = torch.arange(shape[1], device=mask_BT.device)
    begins_BT = torch.where(time_T < count_B[:, None], begins_BT, time_T == count_B[:, None])
    if not begins_BT.any():
        return None
    return RowPacking(column_BT, count_B, begins_BT.cumsum(1))


def _changes(numbers_BT: Tensor, step: int) -> Tensor:
    """Where a number is not the last one plus `step`."""
    return pad(numbers_BT.diff(dim=1) != step, (1, 0))


def _mask(attention_mask: Tensor | None, shape: torch.Size) -> Tensor | None:
    if attention_mask is None:
        return None
    B, T = shape
    if attention_mask.ndim != 2 or attention_mask.shape[0] != B or attention_mask.shape[1] < T:
        raise ValueError(
            f"attention_mask: expected [{B}, {T}] or more columns, for tokens in the cache, got "
            f"{list(attention_mask.shape)}: a model without attention has no other masks"
        )
    return attention_mask[:, attention_mask.shape[1] - T :].long()


def _numbers(name: str, value: Tensor | None, shape: torch.Size) -> Tensor | None:
    if value is None:
        return None
    if value.ndim != 2 or value.shape[1] != shape[1] or value.shape[0] not in (1, shape[0]):
        raise ValueError(f"{name}: expected {list(shape)}, got {list(value.shape)}")
    return value.expand(shape)


def _packed_numbers(cu_seq_lens: Tensor, shape: torch.Size) -> Tensor:
    total = shape[0] * shape[1]
    ends = cu_seq_lens.flatten().long()
    if (
        cu_seq_lens.ndim != 1
        or len(ends) < 2
        or ends[0] != 0
        or ends[-1] != total
        or (ends.diff() < 0).any()
    ):
        raise ValueError(
            f"cu_seq_lens: expected numbers that rise from 0 to {total}, the number of tokens, got "
            f"{cu_seq_lens.tolist()}"
        )
    time = torch.arange(total, device=ends.device)
    return torch.bucketize(time, ends[1:-1], right=True).view(shape)
