"""`linear_cross_entropy` as a torch operator: the loss of a language model's output layer."""

from typing import Any

import torch
from torch import Tensor

from kernels.dispatch import check_tensors, run
from kernels.linear_cross_entropy.reference import (
    linear_cross_entropy as linear_cross_entropy_reference,
)
from kernels.precision import is_half, work_dtype


@torch.library.custom_op("resonance::linear_cross_entropy", mutates_args=())
def _linear_cross_entropy(
    x: Tensor, weight: Tensor, labels: Tensor, with_grad: bool, z_weight: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return run(linear_cross_entropy_reference, x, weight, labels, with_grad, z_weight)


@_linear_cross_entropy.register_fake
def _(
    x: Tensor, weight: Tensor, labels: Tensor, with_grad: bool, z_weight: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    loss, z_loss = (x.new_empty((), dtype=work_dtype(x)) for _ in range(2))
    if with_grad:
        return loss, z_loss, x.new_empty(x.shape), weight.new_empty(weight.shape)
    return loss, z_loss, x.new_empty(0), weight.new_empty(0)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*output[2:])


def _backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
    dx, dweight = ctx.saved_tensors
    return grad * dx, grad * dweight, None, None, None


_linear_cross_entropy.register_autograd(_backward, setup_context=_setup_context)


def linear_cross_entropy(
    x_ND: Tensor, weight_VD: Tensor, labels_N: Tensor, z_weight: float = 0.0
) -> Tensor:
    """Sum of the negative log-likelihoods in nats; see `reference.linear_cross_entropy`.

    The weight is multiplied in the dtype of half-precision x; sums are float32. Differentiable
    once. Tokens with the label -100 do not count. With a z-loss, the gradient is that of both, and
    the value that of the likelihoods alone.

    Raises:
        ValueError: The shapes do not fit together.
    """
    N, D = x_ND.shape
    if weight_VD.shape[1] != D or labels_N.shape != (N,):
        raise ValueError(
            "linear_cross_entropy: expected x [N, D], weight [V, D] and labels [N], got "
            f"{tuple(x_ND.shape)}, {tuple(weight_VD.shape)}, {tuple(labels_N.shape)}"
        )
    check_tensors("linear_cross_entropy", x_ND, x=x_ND, weight=weight_VD, labels=labels_N)
    if is_half(x_ND):
        weight_VD = weight_VD.to(x_ND.dtype)
    with_grad = torch.is_grad_enabled() and (x_ND.requires_grad or weight_VD.requires_grad)
    loss, z_loss, *_ = _linear_cross_entropy(x_ND, weight_VD, labels_N, with_grad, z_weight)
    return loss - z_loss.detach() if z_weight else loss
