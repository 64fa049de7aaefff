"""Checks of a model's inputs; errors name the value found and those expected.

Shape letters: B batch, T time (tokens), D channels.
"""

import torch
from torch import Tensor

INDEX_TYPES = (torch.int64, torch.int32)


def check_tokens(tokens_BT: Tensor, num_dims: int) -> None:
    """Refuse anything but token ids [B, T], T >= 1, or [B]; costs no synchronisation.

    Raises:
        ValueError: They have another shape, or are not integers.
    """
    expected = "[B, T] with T >= 1" if num_dims == 2 else "[B]"
    if tokens_BT.ndim != num_dims or tokens_BT.numel() == 0:
        raise ValueError(f"tokens: expected {expected}, got {tuple(tokens_BT.shape)}")
    if tokens_BT.dtype not in INDEX_TYPES:
        raise ValueError(f"tokens: expected int64 or int32, got {tokens_BT.dtype}")


def check_labels(labels_BT: Tensor, shape: torch.Size) -> None:
    """Refuse labels that do not have the tokens' shape; costs no synchronisation.

    Raises:
        ValueError: They have another shape, or are not integers.
    """
    if labels_BT.shape != shape:
        raise ValueError(f"labels: expected shape {tuple(shape)}, got {tuple(labels_BT.shape)}")
    if labels_BT.dtype not in INDEX_TYPES:
        raise ValueError(f"labels: expected int64 or int32, got {labels_BT.dtype}")


def check_label_range(labels_BT: Tensor, vocab_size: int) -> None:
    """Refuse labels that have no logit.

    Raises:
        ValueError: A label is not below the vocabulary's size, or is negative and not -100.
    """
    wrong_BT = (labels_BT != -100) & ((labels_BT < 0) | (labels_BT >= vocab_size))
    if wrong_BT.any():
        label = int(labels_BT[wrong_BT][0])
        raise ValueError(f"labels: expected -100 or 0 to {vocab_size - 1}, got {label}")


def check_state(batch: int, position: int, rows: int) -> None:
    """Refuse a state of other sequences.

    Raises:
        ValueError: It has another number of rows.
    """
    if rows != batch:
        raise ValueError(
            f"state: expected {batch} rows, as the tokens have, got {rows} at position {position}"
        )


def check_vocabulary(tokens_BT: Tensor, vocab_size: int) -> None:
    """Refuse token ids that have no embedding.

    Raises:
        ValueError: An id is below zero or not below the vocabulary's size.
    """
    low, high = (int(i) for i in tokens_BT.aminmax())
    if low < 0 or high >= vocab_size:
        raise ValueError(f"tokens: expected ids from 0 to {vocab_size - 1}, got {low} to {high}")


def check_finite(x_BTD: Tensor, name: str) -> None:
    """Refuse NaN and infinity: a spectrum would spread them over the whole sequence.

    Raises:
        ValueError: There is one; names the first.
    """
    finite_BT = x_BTD.isfinite().all(-1)
    if not finite_BT.all():
        place = tuple((~finite_BT).nonzero()[0].tolist())
        value = x_BTD[place][~x_BTD[place].isfinite()][0].item()
        raise ValueError(f"{name}: expected finite numbers, got {value} at {place}")
