"""Activations between layers, sharded over tensor ranks: each holds some of the tokens.

Norms, residuals and activations kept for the backward pass shrink by the number of tensor ranks.
Where a layer needs all tokens they are gathered, and its output is summed and scattered again: as
many bytes as the all-reduce that these replace.

Shape letters: B batch, T time (tokens of the span), D channels.

Source: Korthikanti et al. 2022, Reducing Activation Recomputation (arXiv 2205.05198).
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pretrain.parallel.collectives import all_reduce, gathered_along
from pretrain.parallel.mesh import Axis
from spectral.block import Block
from spectral.feed_forward.mlp import FrequencyFeedForward
from spectral.lm import SpectralLM

TOKENS = 1


def local_tokens(x_BTD: Tensor, axis: Axis) -> Tensor:
    """This rank's tokens of a tensor that every rank has; their gradients are gathered."""
    part: Tensor = _Local.apply(x_BTD, axis)
    return part


def summed_tokens(x_BTD: Tensor, axis: Axis) -> Tensor:
    """This rank's tokens of the sum over ranks; their gradients are gathered."""
    part: Tensor = _Summed.apply(x_BTD, axis)
    return part


def all_tokens(x_BTD: Tensor, axis: Axis) -> Tensor:
    """All ranks' tokens; their gradients are summed over ranks."""
    return gathered_along(x_BTD, TOKENS, axis)


def joined_tokens(x_BTD: Tensor, axis: Axis) -> Tensor:
    """All ranks' tokens, for functions that every rank computes alike: no gradients are summed."""
    whole: Tensor = _Joined.apply(x_BTD, axis)
    return whole


def share_activations(model: SpectralLM, axis: Axis) -> None:
    """Shard the activations between layers of a model that is split over tensor ranks.

    Its column and row layers must have no reductions of activations: `Splitter` makes them so.
    """

    def shard(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        return local_tokens(output, axis)

    def join(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        if model.config.classes:
            return joined_tokens(output, axis)
        return all_tokens(output, axis)

    def sum_up(grad: Tensor) -> Tensor:
        return all_reduce(grad, axis)

    if hasattr(model, "embedding"):
        model.embedding.register_forward_hook(shard)
    partial = []
    if hasattr(model, "final_norm"):
        model.final_norm.register_forward_hook(join)
        partial.append(model.final_norm)
    for block in model.blocks:
        if not isinstance(block, Block):
            raise TypeError(f"expected a block that is not wrapped yet, got {type(block).__name__}")
        partial += [block.mixer_norm, block.feed_forward_norm]
        if isinstance(block.feed_forward, FrequencyFeedForward):
            # its spectral path reads this rank's tokens only
            block.feed_forward.filters_2F2.register_hook(sum_up)
            block.feed_forward.blend.register_hook(sum_up)
    for norm in partial:
        for parameter in norm.parameters():
            parameter.register_hook(sum_up)


class _Local(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BTD: Tensor, axis: Axis) -> Tensor:
        ctx.axis = axis
        return x_BTD.chunk(axis.size, TOKENS)[axis.rank].contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _gather(grad, ctx.axis), None


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BTD: Tensor, axis: Axis) -> Tensor:
        ctx.axis = axis
        return _gather(x_BTD, axis)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.chunk(ctx.axis.size, TOKENS)[ctx.axis.rank].contiguous(), None


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BTD: Tensor, axis: Axis) -> Tensor:
        ctx.axis = axis
        parts = [part.contiguous() for part in x_BTD.chunk(axis.size, TOKENS)]
        local = torch.empty_like(parts[0])
        dist.reduce_scatter(local, parts, group=axis.group)
        return local

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _gather(grad, ctx.axis), None


def _gather(part: Tensor, axis: Axis) -> Tensor:
    local = part.contiguous()
    parts = [torch.empty_like(local) for _ in range(axis.size)]
    dist.all_gather(parts, local, group=axis.group)
    return torch.cat(parts, TOKENS)
