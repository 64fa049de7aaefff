"""`modal_state` and `modal_read` on a GPU; powers are made from the two short tables on the fly.

Each is the other's adjoint, so two kernels serve both directions: with ascending or descending
powers, and with t λ^t in place of λ^t for the gradient of log λ.

Shape letters: D channel, N rows, C time inside a chunk, M modes; BN, BT, BM edges of tiles.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.dispatch import NotServedError
from kernels.triton_common import (
    block_of,
    cmul,
    load_complex,
    operand_type,
    pairs,
    product,
    served_complex,
    store_complex,
    tuned,
)

MAX_MODES = 64


@triton.jit
def powers_tile(fine, coarse, d, exponent, m, F, S, M, limit):
    """Powers λ_m^exponent [time, modes] of channel d, (re, im); 0 unless 0 <= exponent < limit."""
    inside = ((exponent >= 0) & (exponent < limit))[:, None] & (m < M)[None, :]
    safe = tl.minimum(tl.maximum(exponent, 0), limit - 1)
    f_re, f_im = load_complex(fine, (d * F + safe % F)[:, None] * M + m[None, :], inside)
    s_re, s_im = load_complex(coarse, (d * S + safe // F)[:, None] * M + m[None, :], inside)
    return cmul(f_re, f_im, s_re, s_im)


@tuned(4, 8, key=["N", "C", "M"])
@triton.jit
def state_kernel(
    u, fine, coarse, mask, state, N, C, M, F, S,
    BN: tl.constexpr, BT: tl.constexpr, BM: tl.constexpr, DT: tl.constexpr,
    ASCENDING: tl.constexpr, MASKED: tl.constexpr, WEIGHTED: tl.constexpr,
):  # fmt: skip
    """State of each mode: the sum over t of λ^e u[t], e = t or C - 1 - t; times e if WEIGHTED."""
    d, rows = tl.program_id(0), tl.program_id(1)
    n, m = rows * BN + tl.arange(0, BN), tl.arange(0, BM)
    base = (d.to(tl.int64) * N + n[:, None]) * C
    sum_re = tl.zeros((BN, BM), tl.float32)
    sum_im = tl.zeros((BN, BM), tl.float32)
    for begin in range(0, C, BT):
        t = begin + tl.arange(0, BT)
        inside = (n[:, None] < N) & (t[None, :] < C)
        U = tl.load(u + base + t[None, :], mask=inside, other=0.0).to(tl.float32)
        if MASKED:
            kept = tl.load(mask + n[:, None].to(tl.int64) * C + t[None, :], mask=inside, other=0)
            U = tl.where(kept != 0, U, 0.0)
        exponent = C - 1 - t
        if ASCENDING:
            exponent = t
        p_re, p_im = powers_tile(fine, coarse, d, exponent, m, F, S, M, C)
        if WEIGHTED:
            p_re *= exponent.to(tl.float32)[:, None]
            p_im *= exponent.to(tl.float32)[:, None]
        sum_re = product(U, p_re, sum_re, DT)
        sum_im = product(U, p_im, sum_im, DT)
    index = (d.to(tl.int64) * N + n[:, None]) * M + m[None, :]
    store_complex(state, index, sum_re, sum_im, (n[:, None] < N) & (m[None, :] < M))


@tuned(4, 8, key=["N", "C", "M"])
@triton.jit
def read_kernel(
    state, fine, coarse, rest, mask, y, N, C, M, F, S,
    BN: tl.constexpr, BT: tl.constexpr, BM: tl.constexpr, DT: tl.constexpr,
    ASCENDING: tl.constexpr, MASKED: tl.constexpr, HAS_REST: tl.constexpr,
):  # fmt: skip
    """Read-out y[t] = rest[t] + Re sum over m of state_m λ^e, e = t or C - 1 - t."""
    d, rows, times = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    n, m = rows * BN + tl.arange(0, BN), tl.arange(0, BM)
    t = times * BT + tl.arange(0, BT)
    index = (d.to(tl.int64) * N + n[:, None]) * M + m[None, :]
    s_re, s_im = load_complex(state, index, (n[:, None] < N) & (m[None, :] < M))
    exponent = C - 1 - t
    if ASCENDING:
        exponent = t
    p_re, p_im = powers_tile(fine, coarse, d, exponent, m, F, S, M, C)
    Y = product(s_re, tl.trans(p_re), tl.zeros((BN, BT), tl.float32), DT)
    Y = product(-s_im, tl.trans(p_im), Y, DT)
    inside = (n[:, None] < N) & (t[None, :] < C)
    place = (d.to(tl.int64) * N + n[:, None]) * C + t[None, :]
    if MASKED:
        kept = tl.load(mask + n[:, None].to(tl.int64) * C + t[None, :], mask=inside, other=0)
        Y = tl.where(kept != 0, Y, 0.0)
    if HAS_REST:
        Y += tl.load(rest + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + place, Y.to(y.dtype.element_ty), mask=inside)


def _state(
    u_DNC: Tensor,
    fine_DfM: Tensor,
    coarse_DsM: Tensor,
    mask: Tensor | None,
    *,
    ascending: bool,
    weighted: bool,
) -> Tensor:
    D, N, C = u_DNC.shape
    M = served_modes(fine_DfM, coarse_DsM)
    state_DNM = fine_DfM.new_empty(D, N, M)
    BN, BT, BM = block_of(N, 64), block_of(C, 64), block_of(M, MAX_MODES)
    u_DNC = u_DNC.contiguous()
    # a weighted power is too large for half precision's operands
    dtype = tl.float32 if weighted else operand_type(u_DNC)
    state_kernel[(D, triton.cdiv(N, BN))](
        u_DNC, pairs(fine_DfM), pairs(coarse_DsM), _bytes(mask, u_DNC),
        torch.view_as_real(state_DNM), N, C, M, fine_DfM.shape[1], coarse_DsM.shape[1],
        BN, BT, BM, dtype, ascending, mask is not None, weighted,
    )  # fmt: skip
    return state_DNM


def _read(
    state_DNM: Tensor,
    fine_DfM: Tensor,
    coarse_DsM: Tensor,
    rest_DNC: Tensor,
    mask: Tensor | None,
    *,
    ascending: bool,
    has_rest: bool,
) -> Tensor:
    D, N, C = rest_DNC.shape
    M = served_modes(fine_DfM, coarse_DsM)
    BN, BT, BM = block_of(N, 64), block_of(C, 64), block_of(M, MAX_MODES)
    rest_DNC = rest_DNC.contiguous()
    y_DNC = torch.empty_like(rest_DNC)
    read_kernel[(D, triton.cdiv(N, BN), triton.cdiv(C, BT))](
        pairs(state_DNM), pairs(fine_DfM), pairs(coarse_DsM), rest_DNC, _bytes(mask, rest_DNC),
        y_DNC, N, C, M, fine_DfM.shape[1], coarse_DsM.shape[1],
        BN, BT, BM, operand_type(rest_DNC), ascending, mask is not None, has_rest,
    )  # fmt: skip
    return y_DNC


def modal_state(u_DNC: Tensor, fine_DfM: Tensor, coarse_DsM: Tensor, mask: Tensor | None) -> Tensor:
    """Kernel of `reference.modal_state`. The signal is read once."""
    return _state(u_DNC, fine_DfM, coarse_DsM, mask, ascending=False, weighted=False)


def modal_state_backward(
    grad_DNM: Tensor, u_DNC: Tensor, fine_DfM: Tensor, coarse_DsM: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Kernels of `reference.modal_state_backward`."""
    tables = (fine_DfM, coarse_DsM)
    # Re(conj(g) λ^e): the read-out of the conjugate
    du_DNC = _read(grad_DNM.conj(), *tables, u_DNC, mask, ascending=False, has_rest=False)
    weighted_DNM = _state(u_DNC, *tables, mask, ascending=False, weighted=True)
    return du_DNC, (grad_DNM * weighted_DNM.conj()).sum(1).to(torch.complex128)


def modal_read(
    state_DNM: Tensor, fine_DfM: Tensor, coarse_DsM: Tensor, rest_DNC: Tensor, mask: Tensor | None
) -> Tensor:
    """Kernel of `reference.modal_read`. `rest` is read once and the sum written once."""
    return _read(state_DNM, fine_DfM, coarse_DsM, rest_DNC, mask, ascending=True, has_rest=True)


def modal_read_backward(
    grad_DNC: Tensor, state_DNM: Tensor, fine_DfM: Tensor, coarse_DsM: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Kernels of `reference.modal_read_backward`."""
    tables = (fine_DfM, coarse_DsM)
    dstate_DNM = _state(grad_DNC, *tables, mask, ascending=True, weighted=False).conj_physical()
    weighted_DNM = _state(grad_DNC, *tables, mask, ascending=True, weighted=True)
    dlog_DM = (state_DNM * weighted_DNM).sum(1).conj_physical()
    return dstate_DNM, dlog_DM.to(torch.complex128)


def served_modes(fine_DfM: Tensor, coarse_DsM: Tensor) -> int:
    """Number of modes in two tables of powers.

    Raises:
        NotServedError: The tables are not complex64, or have more modes than a tile.
    """
    served_complex(fine_DfM, coarse_DsM)
    M = fine_DfM.shape[2]
    if M > MAX_MODES:
        raise NotServedError(f"expected at most {MAX_MODES} modes, got {M}")
    return M


def _bytes(mask: Tensor | None, stand_in: Tensor) -> Tensor:
    # a kernel needs a valid pointer even where it does not read it
    return stand_in if mask is None else mask.contiguous().view(torch.uint8)
