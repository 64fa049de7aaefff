"""`document_reset` on a GPU: one program per channel and document start.

Documents of a row do not overlap, so each writes its own part of the output. The backward pass
computes the states of all starts first; then each token sums over the starts after it.

Shape letters: D channel, N rows, C time inside a chunk, M modes, E document starts, P rows with
starts; BT and BM edges of tiles.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.modal.triton import MAX_MODES, powers_tile, served_modes
from kernels.triton_common import (
    block_of,
    cmul,
    load_complex,
    operand_type,
    pairs,
    store_complex,
    tuned,
)

TIME = 64


@triton.jit
def _state_at(
    u, fine, coarse, d, row, start, m, N, C, M, F, S, BT: tl.constexpr, WEIGHTED: tl.constexpr
):
    """State of the tokens before `start`: (re, im) [modes]; tokens times their lag if WEIGHTED."""
    sum_re = tl.zeros_like(m).to(tl.float32)
    sum_im = tl.zeros_like(m).to(tl.float32)
    for begin in range(0, start, BT):
        t = begin + tl.arange(0, BT)
        U = tl.load(u + (d * N + row) * C + t, mask=t < start, other=0.0).to(tl.float32)
        lag = start - 1 - t
        p_re, p_im = powers_tile(fine, coarse, d, lag, m, F, S, M, C)
        if WEIGHTED:
            U *= lag.to(tl.float32)
        sum_re += tl.sum(U[:, None] * p_re, axis=0)
        sum_im += tl.sum(U[:, None] * p_im, axis=0)
    return sum_re, sum_im


@tuned(4, 2, key=["C", "M"])
@triton.jit
def reset_kernel(
    y, u, scale, fine, coarse, rows, starts, stops, N, C, M, F, S,
    BT: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """Subtract from y, in place, the leak across one document start."""
    e, d, m = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.arange(0, BM)
    row, start, stop = tl.load(rows + e), tl.load(starts + e), tl.load(stops + e)
    s_re, s_im = _state_at(u, fine, coarse, d, row, start, m, N, C, M, F, S, BT, False)
    a_re, a_im = load_complex(scale, d * M + m, m < M)
    z_re, z_im = cmul(a_re, a_im, s_re, s_im)
    for begin in range(start, stop, BT):
        t = begin + tl.arange(0, BT)
        p_re, p_im = powers_tile(fine, coarse, d, t - start, m, F, S, M, C)
        leak = tl.sum(z_re[None, :] * p_re - z_im[None, :] * p_im, axis=1)
        place = y + (d * N + row) * C + t
        kept = tl.load(place, mask=t < stop, other=0.0).to(tl.float32) - leak
        tl.store(place, kept.to(y.dtype.element_ty), mask=t < stop)


@tuned(4, 2, key=["C", "M"])
@triton.jit
def state_gradient_kernel(
    grad, u, scale, fine, coarse, rows, starts, stops, dstate, dscale, dlog, N, C, M, F, S,
    BT: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """Gradient of the state at one document start, and its share of those of scale and log λ."""
    e, d, m = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.arange(0, BM)
    row, start, stop = tl.load(rows + e), tl.load(starts + e), tl.load(stops + e)
    g_re = tl.zeros((BM,), tl.float32)
    g_im = tl.zeros((BM,), tl.float32)
    w_re = tl.zeros((BM,), tl.float32)
    w_im = tl.zeros((BM,), tl.float32)
    for begin in range(start, stop, BT):
        t = begin + tl.arange(0, BT)
        G = tl.load(grad + (d * N + row) * C + t, mask=t < stop, other=0.0).to(tl.float32)
        p_re, p_im = powers_tile(fine, coarse, d, t - start, m, F, S, M, C)
        # the leak is subtracted, and gradients of complex numbers are conjugate
        g_re -= tl.sum(G[:, None] * p_re, axis=0)
        g_im += tl.sum(G[:, None] * p_im, axis=0)
        G *= (t - start).to(tl.float32)
        w_re -= tl.sum(G[:, None] * p_re, axis=0)
        w_im += tl.sum(G[:, None] * p_im, axis=0)
    s_re, s_im = _state_at(u, fine, coarse, d, row, start, m, N, C, M, F, S, BT, False)
    v_re, v_im = _state_at(u, fine, coarse, d, row, start, m, N, C, M, F, S, BT, True)
    a_re, a_im = load_complex(scale, d * M + m, m < M)
    place = (e * tl.num_programs(1) + d) * M + m
    c_re, c_im = cmul(g_re, g_im, s_re, -s_im)
    store_complex(dscale, place, c_re, c_im, m < M)
    h_re, h_im = cmul(g_re, g_im, a_re, -a_im)
    store_complex(dstate, place, h_re, h_im, m < M)
    z_re, z_im = cmul(a_re, a_im, s_re, s_im)
    l_re, l_im = cmul(w_re, w_im, z_re, -z_im)
    k_re, k_im = cmul(h_re, h_im, v_re, -v_im)
    store_complex(dlog, place, l_re + k_re, l_im + k_im, m < M)


@tuned(4, 2, key=["C", "M"])
@triton.jit
def signal_gradient_kernel(
    du, fine, coarse, dstate, rows, starts, firsts, N, C, M, F, S,
    BT: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """Gradient of one row's tokens: the sum over all document starts after each of them."""
    d, p, m = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.arange(0, BM)
    t = tl.program_id(2) * BT + tl.arange(0, BT)
    first, last = tl.load(firsts + p), tl.load(firsts + p + 1)
    row = tl.load(rows + first)
    acc = tl.zeros((BT,), tl.float32)
    for e in range(first, last):
        start = tl.load(starts + e)
        p_re, p_im = powers_tile(fine, coarse, d, start - 1 - t, m, F, S, M, C)
        h_re, h_im = load_complex(dstate, (e * tl.num_programs(0) + d) * M + m, m < M)
        acc += tl.sum(h_re[None, :] * p_re + h_im[None, :] * p_im, axis=1)
    tl.store(du + (d * N + row) * C + t, acc.to(du.dtype.element_ty), mask=t < C)


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
    """Kernel of `reference.document_reset`."""
    D, E = u_DNC.shape[0], row_E.shape[0]
    sizes, tiles = _sizes(u_DNC, fine_DfM, coarse_DsM)
    y_DNC = y_DNC.clone(memory_format=torch.contiguous_format)
    reset_kernel[(E, D)](
        y_DNC, u_DNC.contiguous(), *(pairs(i) for i in (scale_DM, fine_DfM, coarse_DsM)),
        row_E, start_E, stop_E, *sizes, *tiles,
    )  # fmt: skip
    return y_DNC


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
    """Kernels of `reference.document_reset_backward`."""
    (D, _, C), E = u_DNC.shape, row_E.shape[0]
    sizes, tiles = _sizes(u_DNC, fine_DfM, coarse_DsM)
    scale, fine, coarse = (pairs(i) for i in (scale_DM, fine_DfM, coarse_DsM))
    dstate, dscale, dlog = scale_DM.new_empty(3, E, D, scale_DM.shape[1])
    state_gradient_kernel[(E, D)](
        grad_DNC.contiguous(), u_DNC.contiguous(), scale, fine, coarse, row_E, start_E, stop_E,
        *(torch.view_as_real(i) for i in (dstate, dscale, dlog)), *sizes, *tiles,
    )  # fmt: skip
    counts_P = torch.unique_consecutive(row_E, return_counts=True)[1]
    firsts = torch.nn.functional.pad(counts_P.cumsum(0), (1, 0))
    du_DNC = torch.zeros_like(u_DNC, memory_format=torch.contiguous_format)
    signal_gradient_kernel[(D, len(counts_P), triton.cdiv(C, TIME))](
        du_DNC, fine, coarse, torch.view_as_real(dstate), row_E, start_E, firsts, *sizes, *tiles
    )
    return du_DNC, dscale.sum(0), dlog.sum(0).to(torch.complex128)


def _sizes(
    u_DNC: Tensor, fine_DfM: Tensor, coarse_DsM: Tensor
) -> tuple[tuple[int, ...], tuple[int, int]]:
    operand_type(u_DNC)
    _, N, C = u_DNC.shape
    M = served_modes(fine_DfM, coarse_DsM)
    sizes = (N, C, M, fine_DfM.shape[1], coarse_DsM.shape[1])
    return sizes, (TIME, block_of(M, MAX_MODES))
