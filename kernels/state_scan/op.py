"""`state_scan` as a torch operator: one node in the graph instead of J."""

from typing import Any

import torch
from torch import Tensor

from kernels.dispatch import check_tensors, run
from kernels.state_scan.reference import state_scan as state_scan_reference
from kernels.state_scan.reference import state_scan_backward as state_scan_backward_reference


@torch.library.custom_op("resonance::state_scan", mutates_args=())
def _state_scan(decay: Tensor, update: Tensor, initial: Tensor) -> tuple[Tensor, Tensor]:
    return run(state_scan_reference, decay, update, initial)


@torch.library.custom_op("resonance::state_scan_backward", mutates_args=())
def _state_scan_backward(
    grad_incoming: Tensor, grad_final: Tensor, decay: Tensor, incoming: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return run(state_scan_backward_reference, grad_incoming, grad_final, decay, incoming)


@_state_scan.register_fake
def _(decay: Tensor, update: Tensor, initial: Tensor) -> tuple[Tensor, Tensor]:
    return update.new_empty(update.shape), initial.new_empty(initial.shape)


@_state_scan_backward.register_fake
def _(
    grad_incoming: Tensor, grad_final: Tensor, decay: Tensor, incoming: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        decay.new_empty(decay.shape),
        incoming.new_empty(incoming.shape),
        grad_final.new_empty(grad_final.shape),
    )


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[0], output[0])


def _backward(ctx: Any, grad_incoming: Tensor, grad_final: Tensor) -> tuple[Tensor, ...]:
    decay, incoming = ctx.saved_tensors
    return _state_scan_backward(grad_incoming, grad_final, decay, incoming)


_state_scan.register_autograd(_backward, setup_context=_setup_context)


def state_scan(
    decay_BJN: Tensor, update_BJNF: Tensor, initial_BNF: Tensor
) -> tuple[Tensor, Tensor]:
    """Incoming state of every chunk and the final one; see `reference.state_scan`.

    Raises:
        ValueError: The shapes do not fit together, or the dtypes differ.
    """
    B, J, N, F = update_BJNF.shape
    if decay_BJN.shape != (B, J, N) or initial_BNF.shape != (B, N, F):
        raise ValueError(
            "state_scan: expected decay [B, J, N], update [B, J, N, F] and initial [B, N, F], got "
            f"{tuple(decay_BJN.shape)}, {tuple(update_BJNF.shape)}, {tuple(initial_BNF.shape)}"
        )
    if not decay_BJN.dtype == update_BJNF.dtype == initial_BNF.dtype:
        raise ValueError(
            "state_scan: decay, update and initial must share one dtype, got "
            f"{decay_BJN.dtype}, {update_BJNF.dtype}, {initial_BNF.dtype}"
        )
    check_tensors("state_scan", update_BJNF, decay=decay_BJN, initial=initial_BNF)
    return _state_scan(decay_BJN, update_BJNF, initial_BNF)
