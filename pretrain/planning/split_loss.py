"""A stand-in for the loss over a split vocabulary: one block of tokens for all that equal it.

The loss of a long sequence is hundreds of equal blocks, each computed twice, one after the other.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kernels.linear_cross_entropy.reference import BLOCK
from pretrain.planning.tracer import Tracer

# fewer blocks are rehearsed one by one
FEW = 8


def replace_loss(replace: Callable[..., None], tracer: Tracer) -> None:
    """Replace the loss, and label its logits.

    Args:
        replace: Replaces an attribute for the time of a rehearsal.
        tracer: Records what one block does as often as there are blocks.
    """
    from megatron.core.tensor_parallel.mappings import copy_to_tensor_model_parallel_region

    from pretrain.parallel.vocab_parallel import VocabParallelLoss

    block, whole = VocabParallelLoss._block, VocabParallelLoss.__call__

    def labelled(*arguments: Any) -> Tensor:
        with tracer.labelled("logits"):
            return block(*arguments)

    def sampled(
        loss: VocabParallelLoss,
        x_ND: Tensor,
        weight_UD: Tensor,
        labels_N: Tensor,
        z_weight: float = 0.0,
    ) -> Any:
        blocks, others = divmod(x_ND.shape[0], BLOCK)
        if blocks < FEW or others:
            return whole(loss, x_ND, weight_UD, labels_N, z_weight)
        if not loss.shard:
            x_ND = copy_to_tensor_model_parallel_region(x_ND, loss.axis.group)
        return _Sampled.apply(x_ND, weight_UD, labels_N, z_weight, loss, tracer, blocks)

    replace(VocabParallelLoss, "_block", labelled)
    replace(VocabParallelLoss, "__call__", sampled)


class _Sampled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, weight_UD: Tensor, labels_N: Tensor, z_weight: float, *others: Any
    ) -> Tensor:
        ctx.save_for_backward(x_ND, weight_UD, labels_N)
        ctx.z_weight = z_weight
        ctx.others = loss, tracer, blocks = others
        with tracer.repeated(blocks):
            value: Tensor = loss._block(x_ND[:BLOCK], weight_UD, labels_N[:BLOCK], z_weight)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x_ND, weight_UD, labels_N = ctx.saved_tensors
        loss, tracer, blocks = ctx.others
        with tracer.repeated(blocks), torch.enable_grad():
            x_nD = x_ND[:BLOCK].detach().requires_grad_()
            weight = weight_UD.detach().requires_grad_()
            value = loss._block(x_nD, weight, labels_N[:BLOCK], ctx.z_weight)
            _, dweight = torch.autograd.grad(value, (x_nD, weight), grad)
        return torch.zeros_like(x_ND), dweight, None, None, *[None] * len(ctx.others)
