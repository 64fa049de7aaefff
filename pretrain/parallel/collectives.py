"""Collectives that gradients pass through."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pretrain.parallel.mesh import Axis


def all_reduce(x: Tensor, axis: Axis) -> Tensor:
    """The sum over an axis, in a new tensor; not differentiable."""
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total, group=axis.group)
    return total


def summed_over(part: Tensor, axis: Axis) -> Tensor:
    """The sum over an axis, differentiably: every rank's loss may depend on it."""
    total: Tensor = _Sum.apply(part, axis)
    return total


def gathered_along(part: Tensor, dim: int, axis: Axis) -> Tensor:
    """All ranks' parts one after the other; the gradient of a part is summed over ranks."""
    whole: Tensor = _Gather.apply(part, dim, axis)
    return whole


def shifted(x: Tensor, axis: Axis, step: int) -> Tensor:
    """The tensor of the rank `step` places before this one; zeros if there is no such rank."""
    received = torch.zeros_like(x, memory_format=torch.contiguous_format)
    operations = []
    for peer, operation, tensor in (
        (axis.rank + step, dist.isend, x.contiguous()),
        (axis.rank - step, dist.irecv, received),
    ):
        if 0 <= peer < axis.size:
            operations.append(dist.P2POp(operation, tensor, group=axis.group, group_peer=peer))
    for work in dist.batch_isend_irecv(operations):
        work.wait()
    return received


def exchanged_rows(x_RD: Tensor, sent: list[int], received: list[int], axis: Axis) -> Tensor:
    """Rows from all ranks of an axis, exchanged for this rank's rows; differentiable.

    Megatron-core's function of this kind needs a GPU, DeepSpeed's needs parts of equal size.

    Args:
        x_RD: Rows to send, those for the first rank first.
        sent: Number of rows for each rank.
        received: Number of rows from each rank.
        axis: Ranks that exchange rows.

    Returns:
        The received rows, those from the first rank first.
    """
    received_RD: Tensor = _Rows.apply(x_RD, sent, received, axis)
    return received_RD


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_RD: Tensor, sent: list[int], received: list[int], axis: Axis) -> Tensor:
        ctx.sent, ctx.received, ctx.axis = sent, received, axis
        return _deal(x_RD, sent, received, axis)

    @staticmethod
    def backward(ctx: Any, grad_RD: Tensor) -> tuple[Tensor, None, None, None]:
        return _deal(grad_RD, ctx.received, ctx.sent, ctx.axis), None, None, None


def _deal(x_RD: Tensor, sent: list[int], received: list[int], axis: Axis) -> Tensor:
    received_RD = x_RD.new_empty(sum(received), *x_RD.shape[1:])
    dist.all_to_all_single(received_RD, x_RD.contiguous(), received, sent, group=axis.group)
    return received_RD


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, axis: Axis) -> Tensor:
        ctx.axis = axis
        return all_reduce(part, axis)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return all_reduce(grad, ctx.axis), None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, dim: int, axis: Axis) -> Tensor:
        ctx.dim, ctx.axis = dim, axis
        part = part.contiguous()
        parts = [torch.empty_like(part) for _ in range(axis.size)]
        dist.all_gather(parts, part, group=axis.group)
        return torch.cat(parts, dim)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        part = all_reduce(grad, ctx.axis).chunk(ctx.axis.size, ctx.dim)[ctx.axis.rank]
        return part.contiguous(), None, None
