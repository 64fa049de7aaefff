"""Removal of the signal that a chunk's convolution leaks from ended documents into later ones.

A convolution inside a chunk ignores document borders. The leak into a document is itself a read-out
of modes: the state that the chunk's earlier tokens have built up at the document's start, read as
it decays. So it is computed and subtracted, from each start to the next one.

Shape letters: D channel, N rows (batch times chunks), C time inside a chunk, M modes, E document
starts that lie strictly inside a chunk, f and s the two tables of `kernels.modal`.
"""

import torch
from torch import Tensor

from kernels.modal.reference import (
    modal_read,
    modal_read_backward,
    modal_state,
    modal_state_backward,
)


def document_reset(
    y_DNC: Tensor,
    u_DNC: Tensor,
    scale_DM: Tensor,
    fine_DfM: Tensor,
    coarse_DsM: Tensor,
    row_E: Tensor,
    start_E: Tensor,
    stop_E: Tensor,
) -> Tensor:
    """The convolved chunks without leaks between documents.

    Args:
        y_DNC: Convolved chunks.
        u_DNC: Chunks before the convolution.
        scale_DM: Factor of a mode's state when it is read one token later: a_m λ_m.
        fine_DfM: Table of `kernels.modal.reference.ModePowers`.
        coarse_DsM: Table of `kernels.modal.reference.ModePowers`.
        row_E: Row of each document start, ascending.
        start_E: Place of the start in the chunk, above 0.
        stop_E: Place of the row's next start, or C.

    Returns:
        y_DNC.

    Cost: 8 E D C M FLOPs, so rows of many tiny documents cost more.
    """
    past_DEC = _past(u_DNC, row_E, start_E)
    state_DEM = modal_state(past_DEC, fine_DfM, coarse_DsM, None)
    index_EC, inside_EC = _lag(y_DNC, start_E, stop_E)
    zero_DEC = torch.zeros_like(past_DEC)
    leak_DEC = modal_read(scale_DM[:, None] * state_DEM, fine_DfM, coarse_DsM, zero_DEC, None)
    leak_DEC = leak_DEC.gather(-1, index_EC.expand_as(leak_DEC)) * inside_EC
    return y_DNC.index_add(1, row_E, leak_DEC.to(y_DNC.dtype), alpha=-1)


def document_reset_backward(
    grad_DNC: Tensor,
    u_DNC: Tensor,
    scale_DM: Tensor,
    fine_DfM: Tensor,
    coarse_DsM: Tensor,
    row_E: Tensor,
    start_E: Tensor,
    stop_E: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `document_reset`: (du_DNC, dscale_DM, dlog_lambda_DM in complex128)."""
    C = u_DNC.shape[-1]
    past_DEC = _past(u_DNC, row_E, start_E)
    state_DEM = modal_state(past_DEC, fine_DfM, coarse_DsM, None)
    time_C = torch.arange(C, device=u_DNC.device)
    index_EC = (time_C + start_E[:, None]).clamp(max=C - 1)
    inside_EC = time_C < (stop_E - start_E)[:, None]
    dleak_DEC = grad_DNC[:, row_E].gather(-1, index_EC.expand_as(past_DEC)).mul_(inside_EC).neg_()
    dread_DEM, dlog_read_DM = modal_read_backward(
        dleak_DEC, scale_DM[:, None] * state_DEM, fine_DfM, coarse_DsM, None
    )
    dscale_DM = (dread_DEM * state_DEM.conj()).sum(1)
    dstate_DEM = dread_DEM * scale_DM[:, None].conj()
    dpast_DEC, dlog_state_DM = modal_state_backward(
        dstate_DEM, past_DEC, fine_DfM, coarse_DsM, None
    )
    index_EC = (time_C + C - start_E[:, None]).clamp(max=C - 1)
    dpast_DEC = dpast_DEC.gather(-1, index_EC.expand_as(dpast_DEC)) * (time_C < start_E[:, None])
    du_DNC = torch.zeros_like(u_DNC, memory_format=torch.contiguous_format)
    du_DNC.index_add_(1, row_E, dpast_DEC.to(u_DNC.dtype))
    return du_DNC, dscale_DM, dlog_read_DM + dlog_state_DM


def _past(u_DNC: Tensor, row_E: Tensor, start_E: Tensor) -> Tensor:
    """Tokens before each start, shifted so that the last one is at C - 1, after zeros."""
    C = u_DNC.shape[-1]
    index_EC = torch.arange(C, device=u_DNC.device) - (C - start_E[:, None])
    rows_DEC = u_DNC[:, row_E]
    return rows_DEC.gather(-1, index_EC.clamp(min=0).expand_as(rows_DEC)).mul_(index_EC >= 0)


def _lag(y_DNC: Tensor, start_E: Tensor, stop_E: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens since each start, and a mask of the document's own tokens."""
    time_C = torch.arange(y_DNC.shape[-1], device=y_DNC.device)
    inside_EC = (time_C >= start_E[:, None]) & (time_C < stop_E[:, None])
    return (time_C - start_E[:, None]).clamp(min=0), inside_EC
