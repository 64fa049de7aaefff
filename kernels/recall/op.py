"""`recall_state`, `recall_read` and `recall_local` as torch operators."""

from typing import Any

import torch
from torch import Tensor

from kernels.dispatch import check_tensors, run
from kernels.precision import work_dtype
from kernels.recall.reference import recall_local as recall_local_reference
from kernels.recall.reference import recall_local_backward as recall_local_backward_reference
from kernels.recall.reference import recall_read as recall_read_reference
from kernels.recall.reference import recall_read_backward as recall_read_backward_reference
from kernels.recall.reference import recall_state as recall_state_reference
from kernels.recall.reference import recall_state_backward as recall_state_backward_reference


@torch.library.custom_op("resonance::recall_state", mutates_args=())
def _recall_state(k: Tensor, v: Tensor, weight: Tensor) -> Tensor:
    return run(recall_state_reference, k, v, weight)


@torch.library.custom_op("resonance::recall_state_backward", mutates_args=())
def _recall_state_backward(
    grad: Tensor, k: Tensor, v: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return run(recall_state_backward_reference, grad, k, v, weight)


@torch.library.custom_op("resonance::recall_read", mutates_args=())
def _recall_read(q: Tensor, weight: Tensor, state: Tensor, rest: Tensor) -> Tensor:
    return run(recall_read_reference, q, weight, state, rest)


@torch.library.custom_op("resonance::recall_read_backward", mutates_args=())
def _recall_read_backward(
    grad: Tensor, q: Tensor, weight: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return run(recall_read_backward_reference, grad, q, weight, state)


@torch.library.custom_op("resonance::recall_local", mutates_args=())
def _recall_local(q: Tensor, k: Tensor, v: Tensor, total: Tensor, segment: Tensor | None) -> Tensor:
    return run(recall_local_reference, q, k, v, total, segment)


@torch.library.custom_op("resonance::recall_local_backward", mutates_args=())
def _recall_local_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, total: Tensor, segment: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return run(recall_local_backward_reference, grad, q, k, v, total, segment)


@_recall_state.register_fake
def _(k: Tensor, v: Tensor, weight: Tensor) -> Tensor:
    return weight.new_empty(*k.shape[:2], k.shape[3], v.shape[3])


@_recall_read.register_fake
def _(q: Tensor, weight: Tensor, state: Tensor, rest: Tensor) -> Tensor:
    return rest.new_empty(rest.shape)


@_recall_local.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, total: Tensor, segment: Tensor | None) -> Tensor:
    return v.new_empty(v.shape)


def _like_inputs(grad: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    return tuple(i.new_empty(i.shape) for i in inputs)


_recall_state_backward.register_fake(_like_inputs)
_recall_read_backward.register_fake(_like_inputs)


@_recall_local_backward.register_fake
def _(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, total: Tensor, segment: Tensor | None
) -> tuple[Tensor, ...]:
    return _like_inputs(grad, q, k, v, total)


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _save_but_rest(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])


def _backward_state(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
    return _recall_state_backward(grad, *ctx.saved_tensors)


def _backward_read(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
    return *_recall_read_backward(grad, *ctx.saved_tensors), grad


def _backward_local(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_recall_local_backward(grad, *ctx.saved_tensors), None


_recall_state.register_autograd(_backward_state, setup_context=_save_inputs)
_recall_read.register_autograd(_backward_read, setup_context=_save_but_rest)
_recall_local.register_autograd(_backward_local, setup_context=_save_inputs)


def recall_state(k_NHCK: Tensor, v_NHCV: Tensor, weight_NHC: Tensor) -> Tensor:
    """State [N, H, K, V] that every chunk writes; see `reference.recall_state`.

    Raises:
        ValueError: Shapes, dtypes or devices do not fit together.
    """
    _check("recall_state", k=k_NHCK, v=v_NHCV, weight=weight_NHC)
    return _recall_state(k_NHCK, v_NHCV, weight_NHC)


def recall_read(
    q_NHCK: Tensor, weight_NHC: Tensor, state_NHKV: Tensor, rest_NHCV: Tensor
) -> Tensor:
    """Sum of `rest` and the state's read-out; see `reference.recall_read`.

    Raises:
        ValueError: Shapes, dtypes or devices do not fit together.
    """
    _check("recall_read", q=q_NHCK, rest=rest_NHCV, weight=weight_NHC)
    expected = (*q_NHCK.shape[:2], q_NHCK.shape[3], rest_NHCV.shape[3])
    if state_NHKV.shape != expected or state_NHKV.dtype != weight_NHC.dtype:
        raise ValueError(
            f"recall_read: expected a state {expected} of {weight_NHC.dtype}, got "
            f"{tuple(state_NHKV.shape)} of {state_NHKV.dtype}"
        )
    check_tensors("recall_read", q_NHCK, state=state_NHKV)
    return _recall_read(q_NHCK, weight_NHC, state_NHKV, rest_NHCV)


def recall_local(
    q_NHCK: Tensor,
    k_NHCK: Tensor,
    v_NHCV: Tensor,
    total_NHC: Tensor,
    segment_NC: Tensor | None = None,
) -> Tensor:
    """Read-out of each token's own chunk; see `reference.recall_local`.

    Raises:
        ValueError: Shapes, dtypes or devices do not fit together.
    """
    _check("recall_local", q=q_NHCK, k=k_NHCK, v=v_NHCV, total=total_NHC)
    if q_NHCK.shape != k_NHCK.shape:
        raise ValueError(
            f"recall_local: expected k like q {tuple(q_NHCK.shape)}, got {tuple(k_NHCK.shape)}"
        )
    N, _, C, _ = q_NHCK.shape
    if segment_NC is not None and segment_NC.shape != (N, C):
        raise ValueError(f"recall_local: expected segments {(N, C)}, got {tuple(segment_NC.shape)}")
    check_tensors("recall_local", q_NHCK, segment=segment_NC)
    return _recall_local(q_NHCK, k_NHCK, v_NHCV, total_NHC, segment_NC)


def _check(op: str, **tensors: Tensor) -> None:
    *vectors, last = tensors.values()
    first = vectors[0]
    shapes = {name: tuple(t.shape) for name, t in tensors.items()}
    if any(t.ndim != 4 or t.shape[:3] != first.shape[:3] for t in vectors):
        raise ValueError(f"{op}: expected vectors [N, H, C, channels], got {shapes}")
    if last.shape != first.shape[:3]:
        raise ValueError(f"{op}: expected the last of {shapes} to be [N, H, C]")
    work = work_dtype(first)
    if {t.dtype for t in vectors} != {first.dtype} or last.dtype != work:
        dtypes = {name: str(t.dtype) for name, t in tensors.items()}
        raise ValueError(f"{op}: expected one dtype and for the last {work}, got {dtypes}")
    check_tensors(op, first, **tensors)
