"""`norm_gate` as a torch operator."""

from typing import Any

import torch
from torch import Tensor

from kernels.dispatch import check_tensors, run
from kernels.norm_gate.reference import norm_gate as norm_gate_reference
from kernels.norm_gate.reference import norm_gate_backward as norm_gate_backward_reference
from kernels.precision import work_dtype


@torch.library.custom_op("resonance::norm_gate", mutates_args=())
def _norm_gate(
    x: Tensor, gate: Tensor, scale: Tensor, num_heads: int, eps: float
) -> tuple[Tensor, Tensor]:
    return run(norm_gate_reference, x, gate, scale, num_heads, eps)


@torch.library.custom_op("resonance::norm_gate_backward", mutates_args=())
def _norm_gate_backward(
    grad: Tensor, x: Tensor, gate: Tensor, scale: Tensor, inverse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return run(norm_gate_backward_reference, grad, x, gate, scale, inverse)


@_norm_gate.register_fake
def _(x: Tensor, gate: Tensor, scale: Tensor, num_heads: int, eps: float) -> tuple[Tensor, Tensor]:
    return gate.new_empty(gate.shape), x.new_empty(x.shape[0], num_heads, dtype=work_dtype(x))


@_norm_gate_backward.register_fake
def _(
    grad: Tensor, x: Tensor, gate: Tensor, scale: Tensor, inverse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), gate.new_empty(gate.shape), scale.new_empty(scale.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:3], output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return *_norm_gate_backward(grad, *ctx.saved_tensors), None, None


_norm_gate.register_autograd(_backward, setup_context=_setup_context)


def norm_gate(x_D: Tensor, gate_D: Tensor, scale_D: Tensor, num_heads: int, eps: float) -> Tensor:
    """Heads normalised and gated; see `reference.norm_gate`. Leading axes are rows.

    Raises:
        ValueError: Shapes or devices do not fit together.
    """
    D = x_D.shape[-1]
    if gate_D.shape != x_D.shape or scale_D.shape != (D,) or num_heads < 1 or D % num_heads:
        raise ValueError(
            "norm_gate: expected x and gate [..., D], scale [D] and a divisor of D as number of "
            f"heads, got {tuple(x_D.shape)}, {tuple(gate_D.shape)}, {tuple(scale_D.shape)}, "
            f"{num_heads}"
        )
    check_tensors("norm_gate", x_D, x=x_D, gate=gate_D, scale=scale_D)
    rows = (i.reshape(-1, D) for i in (x_D, gate_D))
    return _norm_gate(*rows, scale_D, num_heads, eps)[0].view(x_D.shape)
