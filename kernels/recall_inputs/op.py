"""`recall_inputs` as a torch operator with its own backward."""

from typing import Any

import torch
from torch import Tensor

from kernels.dispatch import check_tensors, run
from kernels.recall_inputs.reference import recall_inputs as recall_inputs_reference
from kernels.recall_inputs.reference import (
    recall_inputs_backward as recall_inputs_backward_reference,
)


@torch.library.custom_op("resonance::recall_inputs", mutates_args=())
def _recall_inputs(
    q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, num_heads: int, chunk: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return run(recall_inputs_reference, q, k, v, cos, sin, num_heads, chunk)


@torch.library.custom_op("resonance::recall_inputs_backward", mutates_args=())
def _recall_inputs_backward(
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    turned_q: Tensor,
    turned_k: Tensor,
    inverse_q: Tensor,
    inverse_k: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    return run(
        recall_inputs_backward_reference,
        *(dq, dk, dv, q, k, v, cos, sin, turned_q, turned_k, inverse_q, inverse_k),
    )


@_recall_inputs.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, num_heads: int, chunk: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    B, T, R = q.shape
    shape = (B * -(-T // chunk), num_heads, chunk)
    turned_q, turned_k, values = (q.new_empty(*shape, R // num_heads) for _ in range(3))
    work = torch.promote_types(q.dtype, torch.float32)
    inverse_q, inverse_k = (q.new_empty(shape, dtype=work) for _ in range(2))
    return turned_q, turned_k, values, inverse_q, inverse_k


@_recall_inputs_backward.register_fake
def _(dq: Tensor, dk: Tensor, dv: Tensor, q: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
    return q.new_empty(q.shape), q.new_empty(q.shape), q.new_empty(q.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    q, k, _, inverse_q, inverse_k = output
    ctx.save_for_backward(*inputs[:5], q, k, inverse_q, inverse_k)
    ctx.mark_non_differentiable(inverse_q, inverse_k)


def _backward(
    ctx: Any, dq: Tensor, dk: Tensor, dv: Tensor, *_: Tensor
) -> tuple[Tensor | None, ...]:
    gradients = _recall_inputs_backward(dq, dk, dv, *ctx.saved_tensors)
    return *gradients, None, None, None, None


_recall_inputs.register_autograd(_backward, setup_context=_setup_context)


def recall_inputs(
    q_BTR: Tensor,
    k_BTR: Tensor,
    v_BTR: Tensor,
    cos_TF: Tensor,
    sin_TF: Tensor,
    num_heads: int,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of recall heads, in chunks; see `reference.recall_inputs`.

    Raises:
        ValueError: Shapes, dtypes or devices do not fit together.
    """
    _, T, R = q_BTR.shape
    if not q_BTR.shape == k_BTR.shape == v_BTR.shape or R % (2 * num_heads) or chunk < 1:
        raise ValueError(
            "recall_inputs: expected q, k and v [B, T, R] of one shape, R a multiple of twice the "
            f"heads, and a chunk of 1 or more, got {tuple(q_BTR.shape)}, {tuple(k_BTR.shape)}, "
            f"{tuple(v_BTR.shape)}, {num_heads} heads, chunk {chunk}"
        )
    phases = (T, R // num_heads // 2)
    if cos_TF.shape != phases or sin_TF.shape != phases:
        raise ValueError(
            f"recall_inputs: expected phases {phases}, got {tuple(cos_TF.shape)} and "
            f"{tuple(sin_TF.shape)}"
        )
    dtypes = {i.dtype for i in (q_BTR, k_BTR, v_BTR, cos_TF, sin_TF)}
    if len(dtypes) > 1:
        raise ValueError(f"recall_inputs: expected one dtype, got {sorted(map(str, dtypes))}")
    tensors = {"q": q_BTR, "k": k_BTR, "v": v_BTR, "cos": cos_TF, "sin": sin_TF}
    check_tensors("recall_inputs", q_BTR, **tensors)
    q, k, v, *_ = _recall_inputs(q_BTR, k_BTR, v_BTR, cos_TF, sin_TF, num_heads, chunk)
    return q, k, v
