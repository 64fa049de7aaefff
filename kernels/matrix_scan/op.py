"""`matrix_scan` as a torch operator: one node in the graph instead of J."""

from typing import Any

import torch
from torch import Tensor

from kernels.dispatch import check_tensors, run
from kernels.matrix_scan.reference import matrix_scan as matrix_scan_reference
from kernels.matrix_scan.reference import matrix_scan_backward as matrix_scan_backward_reference


@torch.library.custom_op("resonance::matrix_scan", mutates_args=())
def _matrix_scan(transition: Tensor, update: Tensor, initial: Tensor) -> tuple[Tensor, Tensor]:
    return run(matrix_scan_reference, transition, update, initial)


@torch.library.custom_op("resonance::matrix_scan_backward", mutates_args=())
def _matrix_scan_backward(
    grad_incoming: Tensor, grad_final: Tensor, transition: Tensor, incoming: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return run(matrix_scan_backward_reference, grad_incoming, grad_final, transition, incoming)


@_matrix_scan.register_fake
def _(transition: Tensor, update: Tensor, initial: Tensor) -> tuple[Tensor, Tensor]:
    return update.new_empty(update.shape), initial.new_empty(initial.shape)


@_matrix_scan_backward.register_fake
def _(
    grad_incoming: Tensor, grad_final: Tensor, transition: Tensor, incoming: Tensor
) -> tuple[Tensor, ...]:
    return tuple(i.new_empty(i.shape) for i in (transition, incoming, grad_final))


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[0], output[0])


def _backward(ctx: Any, grad_incoming: Tensor, grad_final: Tensor) -> tuple[Tensor, ...]:
    return _matrix_scan_backward(grad_incoming, grad_final, *ctx.saved_tensors)


_matrix_scan.register_autograd(_backward, setup_context=_setup_context)


def matrix_scan(
    transition_BJHKK: Tensor, update_BJHKV: Tensor, initial_BHKV: Tensor
) -> tuple[Tensor, Tensor]:
    """Incoming state of every chunk and the final one; see `reference.matrix_scan`.

    Raises:
        ValueError: The shapes do not fit together, or the dtypes differ.
    """
    B, J, H, K, V = update_BJHKV.shape
    if transition_BJHKK.shape != (B, J, H, K, K) or initial_BHKV.shape != (B, H, K, V):
        raise ValueError(
            "matrix_scan: expected transitions [B, J, H, K, K], updates [B, J, H, K, V] and "
            f"initial [B, H, K, V], got {tuple(transition_BJHKK.shape)}, "
            f"{tuple(update_BJHKV.shape)}, {tuple(initial_BHKV.shape)}"
        )
    dtypes = [i.dtype for i in (transition_BJHKK, update_BJHKV, initial_BHKV)]
    if len(set(dtypes)) > 1:
        raise ValueError(f"matrix_scan: expected one dtype, got {dtypes}")
    check_tensors("matrix_scan", update_BJHKV, transition=transition_BJHKK, initial=initial_BHKV)
    return _matrix_scan(transition_BJHKK, update_BJHKV, initial_BHKV)
