"""Refusing what a model cannot take, with what was found and what was expected.

Shape letters: B batch, T time (tokens), D channels.
"""

import torch
from torch import Tensor


def check_tokens(tokens_BT: Tensor, num_dims: int) -> None:
    """Refuse anything but token ids [B, T], T >= 1, or [B]; costs no synchronisation.

    Raises:
        ValueError: Another shape, or not integers.
    """
    expected = "[B, T] with T >= 1" if num_dims == 2 else "[B]"
    if tokens_BT.ndim != num_dims or tokens_BT.numel() == 0:
        raise ValueError(f"tokens: expected {expected}, got {tuple(tokens_BT.shape)}")
    if tokens_BT.is_floating_point() or tokens_BT.is_complex() or tokens_BT.dtype == torch.bool:
        raise ValueError(f"tokens: expected integers, got {tokens_BT.dtype}")


def check_vocabulary(tokens_BT: Tensor, vocab_size: int) -> None:
    """Refuse token ids that have no embedding.

    Raises:
        ValueError: An id below zero or not below the vocabulary's size.
    """
    low, high = (int(i) for i in tokens_BT.aminmax())
    if low < 0 or high >= vocab_size:
        raise ValueError(f"tokens: expected ids from 0 to {vocab_size - 1}, got {low} to {high}")


def check_finite(x_BTD: Tensor, name: str) -> None:
    """Refuse NaN and infinity: a spectrum would spread them over the whole sequence.

    Raises:
        ValueError: The first place where there is one.
    """
    finite_BT = x_BTD.isfinite().all(-1)
    if not finite_BT.all():
        place = tuple((~finite_BT).nonzero()[0].tolist())
        found = x_BTD[place][~x_BTD[place].isfinite()][0].item()
        raise ValueError(f"{name}: expected finite numbers, got {found} at {place}")
