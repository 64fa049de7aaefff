"""`recall_inputs` as a torch operator with its own backward."""

from typing import Any

import torch
from torch import Tensor

from kernels.dispatch import check_tensors, run
from kernels.precision import work_dtype
from kernels.recall_qkv.reference import recall_inputs as recall_inputs_reference
from kernels.recall_qkv.reference import (
    recall_inputs_backward as recall_inputs_backward_reference,
)


@torch.library.custom_op("resonance::recall_inputs", mutates_args=())
def _recall_inputs(
    qkv: Tensor, cos: Tensor, sin: Tensor, num_heads: int, chunk: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return run(recall_inputs_reference, qkv, cos, sin, num_heads, chunk)


@torch.library.custom_op("resonance::recall_inputs_backward", mutates_args=())
def _recall_inputs_backward(
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    q: Tensor,
    k: Tensor,
    inverse_q: Tensor,
    inverse_k: Tensor,
) -> Tensor:
    return run(
        recall_inputs_backward_reference,
        *(dq, dk, dv, qkv, cos, sin, q, k, inverse_q, inverse_k),
    )


@_recall_inputs.register_fake
def _(
    qkv: Tensor, cos: Tensor, sin: Tensor, num_heads: int, chunk: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    B, T, _, R = qkv.shape
    shape = (B * -(-T // chunk), num_heads, chunk)
    q, k, v = (qkv.new_empty(*shape, R // num_heads) for _ in range(3))
    inverse_q, inverse_k = (qkv.new_empty(shape, dtype=work_dtype(qkv)) for _ in range(2))
    return q, k, v, inverse_q, inverse_k


@_recall_inputs_backward.register_fake
def _(dq: Tensor, dk: Tensor, dv: Tensor, qkv: Tensor, *rest: Tensor) -> Tensor:
    return qkv.new_empty(qkv.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    q, k, _, inverse_q, inverse_k = output
    ctx.save_for_backward(*inputs[:3], q, k, inverse_q, inverse_k)
    ctx.mark_non_differentiable(inverse_q, inverse_k)


def _backward(
    ctx: Any, dq: Tensor, dk: Tensor, dv: Tensor, *_: Tensor
) -> tuple[Tensor | None, ...]:
    return _recall_inputs_backward(dq, dk, dv, *ctx.saved_tensors), None, None, None, None


_recall_inputs.register_autograd(_backward, setup_context=_setup_context)


def recall_inputs(
    qkv_BT3R: Tensor, cos_TF: Tensor, sin_TF: Tensor, num_heads: int, chunk: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of recall heads in chunks; see `reference.recall_inputs`.

    Raises:
        ValueError: Shapes, dtypes or devices do not fit together.
    """
    _, T, parts, R = qkv_BT3R.shape
    if parts != 3 or R % (2 * num_heads) or chunk < 1:
        raise ValueError(
            "recall_inputs: expected q, k and v [B, T, 3, R], R a multiple of twice the heads, and "
            f"a chunk of 1 or more, got {tuple(qkv_BT3R.shape)}, {num_heads} heads, chunk {chunk}"
        )
    phases = (T, R // num_heads // 2)
    if cos_TF.shape != phases or sin_TF.shape != phases:
        raise ValueError(
            f"recall_inputs: expected phases {phases}, got {tuple(cos_TF.shape)} and "
            f"{tuple(sin_TF.shape)}"
        )
    work = work_dtype(qkv_BT3R)
    if {cos_TF.dtype, sin_TF.dtype} != {work}:
        raise ValueError(
            f"recall_inputs: expected phases of {work}, got {cos_TF.dtype} and {sin_TF.dtype}"
        )
    check_tensors("recall_inputs", qkv_BT3R, qkv=qkv_BT3R, cos=cos_TF, sin=sin_TF)
    q, k, v, *_ = _recall_inputs(qkv_BT3R, cos_TF, sin_TF, num_heads, chunk)
    return q, k, v
