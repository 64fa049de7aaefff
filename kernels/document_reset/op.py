"""`document_reset` as a torch operator."""

from typing import Any

import torch
from torch import Tensor

from kernels.dispatch import check_tensors, run
from kernels.document_reset.reference import document_reset as document_reset_reference
from kernels.document_reset.reference import (
    document_reset_backward as document_reset_backward_reference,
)
from kernels.modal.reference import ModePowers


@torch.library.custom_op("resonance::document_reset", mutates_args=())
def _document_reset(
    y: Tensor,
    u: Tensor,
    scale: Tensor,
    log_lambda: Tensor,
    fine: Tensor,
    coarse: Tensor,
    row: Tensor,
    start: Tensor,
    stop: Tensor,
) -> Tensor:
    return run(document_reset_reference, y, u, scale, fine, coarse, row, start, stop)


@torch.library.custom_op("resonance::document_reset_backward", mutates_args=())
def _document_reset_backward(
    grad: Tensor,
    u: Tensor,
    scale: Tensor,
    fine: Tensor,
    coarse: Tensor,
    row: Tensor,
    start: Tensor,
    stop: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    return run(document_reset_backward_reference, grad, u, scale, fine, coarse, row, start, stop)


@_document_reset.register_fake
def _(y: Tensor, *inputs: Tensor) -> Tensor:
    return y.new_empty(y.shape)


@_document_reset_backward.register_fake
def _(grad: Tensor, u: Tensor, scale: Tensor, *tables: Tensor) -> tuple[Tensor, ...]:
    dlog = scale.new_empty(scale.shape, dtype=torch.complex128)
    return u.new_empty(u.shape), scale.new_empty(scale.shape), dlog


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    _, u, scale, _, *tables = inputs
    ctx.save_for_backward(u, scale, *tables)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    gradients = _document_reset_backward(grad, *ctx.saved_tensors)
    return grad, *gradients, None, None, None, None, None


_document_reset.register_autograd(_backward, setup_context=_setup_context)


def document_reset(
    y_DNC: Tensor,
    u_DNC: Tensor,
    scale_DM: Tensor,
    powers: ModePowers,
    row_E: Tensor,
    start_E: Tensor,
    stop_E: Tensor,
) -> Tensor:
    """The signal `y` without leaks between its documents; see `reference.document_reset`.

    Raises:
        ValueError: Shapes, dtypes or devices do not fit together.
    """
    D, _, C = u_DNC.shape
    M = powers.fine_DfM.shape[2]
    if y_DNC.shape != u_DNC.shape or y_DNC.dtype != u_DNC.dtype or scale_DM.shape != (D, M):
        raise ValueError(
            f"document_reset: expected y and u [D, N, C] of one dtype and a scale {(D, M)}, got "
            f"{tuple(y_DNC.shape)}, {tuple(u_DNC.shape)}, {tuple(scale_DM.shape)}, {y_DNC.dtype}, "
            f"{u_DNC.dtype}"
        )
    if not row_E.shape == start_E.shape == stop_E.shape == (row_E.numel(),):
        raise ValueError(
            "document_reset: expected row, start and stop of one axis and length, got "
            f"{tuple(row_E.shape)}, {tuple(start_E.shape)}, {tuple(stop_E.shape)}"
        )
    if powers.fine_DfM.shape[1] * powers.coarse_DsM.shape[1] < C:
        raise ValueError(f"document_reset: expected powers up to {C}, the chunk")
    borders = {"row": row_E, "start": start_E, "stop": stop_E}
    check_tensors("document_reset", u_DNC, y=y_DNC, scale=scale_DM, fine=powers.fine_DfM, **borders)
    if row_E.numel() == 0:
        return y_DNC
    return _document_reset(y_DNC, u_DNC, scale_DM, *powers, row_E, start_E, stop_E)
