"""`modal_state` and `modal_read` as torch operators; their gradients reach λ by its logarithm."""

from typing import Any

import torch
from torch import Tensor

from kernels.dispatch import check_tensors, run
from kernels.modal.reference import ModePowers
from kernels.modal.reference import modal_read as modal_read_reference
from kernels.modal.reference import modal_read_backward as modal_read_backward_reference
from kernels.modal.reference import modal_state as modal_state_reference
from kernels.modal.reference import modal_state_backward as modal_state_backward_reference


@torch.library.custom_op("resonance::modal_state", mutates_args=())
def _modal_state(
    u: Tensor, log_lambda: Tensor, fine: Tensor, coarse: Tensor, mask: Tensor | None
) -> Tensor:
    return run(modal_state_reference, u, fine, coarse, mask)


@torch.library.custom_op("resonance::modal_state_backward", mutates_args=())
def _modal_state_backward(
    grad: Tensor, u: Tensor, fine: Tensor, coarse: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    return run(modal_state_backward_reference, grad, u, fine, coarse, mask)


@torch.library.custom_op("resonance::modal_read", mutates_args=())
def _modal_read(
    state: Tensor,
    log_lambda: Tensor,
    fine: Tensor,
    coarse: Tensor,
    rest: Tensor,
    mask: Tensor | None,
) -> Tensor:
    return run(modal_read_reference, state, fine, coarse, rest, mask)


@torch.library.custom_op("resonance::modal_read_backward", mutates_args=())
def _modal_read_backward(
    grad: Tensor, state: Tensor, fine: Tensor, coarse: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    return run(modal_read_backward_reference, grad, state, fine, coarse, mask)


@_modal_state.register_fake
def _(u: Tensor, log_lambda: Tensor, fine: Tensor, coarse: Tensor, mask: Tensor | None) -> Tensor:
    return fine.new_empty(u.shape[0], u.shape[1], fine.shape[2])


@_modal_state_backward.register_fake
def _(
    grad: Tensor, u: Tensor, fine: Tensor, coarse: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    return u.new_empty(u.shape), _gradient_of_log(fine)


@_modal_read.register_fake
def _(
    state: Tensor,
    log_lambda: Tensor,
    fine: Tensor,
    coarse: Tensor,
    rest: Tensor,
    mask: Tensor | None,
) -> Tensor:
    return rest.new_empty(rest.shape)


@_modal_read_backward.register_fake
def _(
    grad: Tensor, state: Tensor, fine: Tensor, coarse: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    return state.new_empty(state.shape), _gradient_of_log(fine)


def _gradient_of_log(fine: Tensor) -> Tensor:
    return fine.new_empty(fine.shape[0], fine.shape[2], dtype=torch.complex128)


def _setup_state(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    u, _, fine, coarse, mask = inputs
    ctx.save_for_backward(u, fine, coarse, mask)


def _backward_state(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_modal_state_backward(grad.contiguous(), *ctx.saved_tensors), None, None, None


def _setup_read(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    state, _, fine, coarse, _, mask = inputs
    ctx.save_for_backward(state, fine, coarse, mask)


def _backward_read(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    # a transpose leaves it in strides that are slow for products and FFTs
    grad = grad.contiguous()
    return *_modal_read_backward(grad, *ctx.saved_tensors), None, None, grad, None


_modal_state.register_autograd(_backward_state, setup_context=_setup_state)
_modal_read.register_autograd(_backward_read, setup_context=_setup_read)


def modal_state(u_DNC: Tensor, powers: ModePowers, mask_NC: Tensor | None = None) -> Tensor:
    """State [D, N, M] at the end of every chunk; see `reference.modal_state`.

    Raises:
        ValueError: Shapes, dtypes or devices do not fit together.
    """
    _check("modal_state", u_DNC, powers, mask_NC)
    return _modal_state(u_DNC, *powers, mask_NC)


def modal_read(
    state_DNM: Tensor, powers: ModePowers, rest_DNC: Tensor, mask_NC: Tensor | None = None
) -> Tensor:
    """Sum of `rest` and the read-out of states; see `reference.modal_read`.

    Raises:
        ValueError: Shapes, dtypes or devices do not fit together.
    """
    _check("modal_read", rest_DNC, powers, mask_NC)
    expected = (*rest_DNC.shape[:2], powers.fine_DfM.shape[2])
    if state_DNM.shape != expected or state_DNM.dtype != powers.fine_DfM.dtype:
        raise ValueError(
            f"modal_read: expected states {expected} of {powers.fine_DfM.dtype}, got "
            f"{tuple(state_DNM.shape)} of {state_DNM.dtype}"
        )
    check_tensors("modal_read", rest_DNC, state=state_DNM)
    return _modal_read(state_DNM, *powers, rest_DNC, mask_NC)


def _check(op: str, x_DNC: Tensor, powers: ModePowers, mask_NC: Tensor | None) -> None:
    log_lambda, fine, coarse = powers
    if x_DNC.ndim != 3 or x_DNC.shape[0] != fine.shape[0]:
        raise ValueError(
            f"{op}: expected a signal [D, N, C] of D = {fine.shape[0]} channels, "
            f"got {tuple(x_DNC.shape)}"
        )
    if x_DNC.shape[2] > fine.shape[1] * coarse.shape[1]:
        raise ValueError(
            f"{op}: expected a chunk of at most {fine.shape[1] * coarse.shape[1]} tokens, for "
            f"which there are powers, got {x_DNC.shape[2]}"
        )
    if mask_NC is not None and (mask_NC.shape != x_DNC.shape[1:] or mask_NC.dtype != torch.bool):
        raise ValueError(
            f"{op}: expected a mask {tuple(x_DNC.shape[1:])} of torch.bool, got "
            f"{tuple(mask_NC.shape)} of {mask_NC.dtype}"
        )
    check_tensors(op, x_DNC, signal=x_DNC, log_lambda=log_lambda, fine=fine, mask=mask_NC)
