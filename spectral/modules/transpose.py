"""Transposition between time-first signals of projections and channels-first ones of filters.

PyTorch copies a transposed matrix in tiles, which is several times as fast as its copy of
three-dimensional tensors or the one inside a product; so rows and time are one dimension here, for
the gradient too.

Shape letters: B batch, T time (tokens), D channel.
"""

from typing import Any

import torch
from torch import Tensor


class _Transposed(torch.autograd.Function):
    """A transposed matrix, contiguous."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        del ctx
        return x.t().contiguous()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        del ctx
        transposed: Tensor = _Transposed.apply(grads[0])
        return transposed


def channels_first(x_BTD: Tensor) -> Tensor:
    """The same signal [B, D, T], with all rows of a channel together in memory."""
    B, T, D = x_BTD.shape
    x_DR: Tensor = _Transposed.apply(x_BTD.reshape(B * T, D))
    return x_DR.view(D, B, T).transpose(0, 1)


def time_first(x_BDT: Tensor) -> Tensor:
    """The same signal [B, T, D], contiguous."""
    B, D, T = x_BDT.shape
    x_RD: Tensor = _Transposed.apply(x_BDT.transpose(0, 1).reshape(D, B * T))
    return x_RD.view(B, T, D)
