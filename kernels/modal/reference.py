"""End state of every chunk and read-out of a state: the two products of signals and modes.

    s_n = Σ_t λ^(C-1-t) u_n[t]          y_n[t] = Re Σ_m s_nm λ_m^t

Shape letters: D channel, N rows (batch times chunks), C time inside a chunk, M modes, R = 2 M real
and imaginary parts, f and s the fine and coarse parts of a time t = s * len(f) + f.
"""

from typing import NamedTuple

import torch
from torch import Tensor

# chunks up to this length have their powers in one table, made once and used by every product
ONE_TABLE = 64


class ModePowers(NamedTuple):
    """Powers of every mode, as products of the entries of two tables.

    Attributes:
        log_lambda_DM: Logarithm of λ, complex128; receives all gradients.
        fine_DfM: λ^0 ... λ^(f-1), complex, constants to autograd.
        coarse_DsM: λ^0, λ^f, λ^2f ..., complex, constants to autograd.
    """

    log_lambda_DM: Tensor
    fine_DfM: Tensor
    coarse_DsM: Tensor


@torch.no_grad()
def _doubled(base_DM: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Powers base^0 ... base^(length-1) for a power of two as length, and base^length."""
    table_DtM = torch.ones_like(base_DM)[:, None]
    while table_DtM.shape[1] < length:
        table_DtM = torch.cat([table_DtM, table_DtM * base_DM[:, None]], dim=1)
        base_DM = base_DM * base_DM
    return table_DtM, base_DM


def mode_powers(log_lambda_DM: Tensor, length: int, dtype: torch.dtype) -> ModePowers:
    """Tables for all exponents below `length`.

    They are made by repeated squaring in complex128, since long phases lose their precision in
    float32; their products in `dtype` are off by its rounding, whatever the exponent.

    Args:
        log_lambda_DM: Logarithm of λ, complex128.
        length: Largest chunk that will use them, in tokens.
        dtype: Complex type of the tables.

    Cost: O(D M sqrt(length)); O(D M length) up to ONE_TABLE.
    """
    bits = max(length - 1, 0).bit_length()
    fine_DfM, step_DM = _doubled(log_lambda_DM.detach().exp(), 1 << (bits + 1) // 2)
    coarse_DsM, _ = _doubled(step_DM, 1 << bits // 2)
    fine_DfM, coarse_DsM = fine_DfM.to(dtype), coarse_DsM.to(dtype)
    if length <= ONE_TABLE:
        fine_DfM = (coarse_DsM[:, :, None] * fine_DfM[:, None]).flatten(1, 2)
        coarse_DsM = torch.ones_like(coarse_DsM[:, :1])
    return ModePowers(log_lambda_DM, fine_DfM, coarse_DsM)


def _ascending(fine_DfM: Tensor, coarse_DsM: Tensor, C: int) -> Tensor:
    """Real and imaginary parts of λ^t, t = 0 ... C - 1, interleaved: [D, C, R]."""
    return torch.view_as_real(_powers(fine_DfM, coarse_DsM)[:, :C]).flatten(2)


def _written(
    u_DNC: Tensor, fine_DfM: Tensor, coarse_DsM: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Signal, powers [D, C, R] and exponents [C]; the state is the product of the first two.

    A token at t enters with λ^(C-1-t): the smaller one of signal and powers runs backwards.
    """
    written_DNC = _as_real_of(u_DNC, fine_DfM)
    if mask is not None:
        written_DNC = written_DNC * mask
    table_DCR = _ascending(fine_DfM, coarse_DsM, u_DNC.shape[-1])
    exponent_C = _time(table_DCR)
    if _is_smaller(u_DNC, table_DCR):
        return written_DNC.flip(-1), table_DCR, exponent_C
    exponent_C = exponent_C.flip(0)
    # three times as fast as flip
    return written_DNC, table_DCR.index_select(1, exponent_C.long()), exponent_C


def _powers(fine_DfM: Tensor, coarse_DsM: Tensor) -> Tensor:
    """Powers λ^t for all exponents of the tables: [D, t, M]."""
    if coarse_DsM.shape[1] == 1:
        return fine_DfM
    return (coarse_DsM[:, :, None] * fine_DfM[:, None]).flatten(1, 2)


def _pairs(modes_DNM: Tensor) -> Tensor:
    return torch.view_as_real(modes_DNM).flatten(-2)


def _complex(pairs_DNR: Tensor) -> Tensor:
    return torch.view_as_complex(pairs_DNR.unflatten(-1, (-1, 2)))


def _as_real_of(signal: Tensor, table: Tensor) -> Tensor:
    return signal.to(table.real.dtype)


def modal_state(u_DNC: Tensor, fine_DfM: Tensor, coarse_DsM: Tensor, mask: Tensor | None) -> Tensor:
    """State at the end of every chunk that begins from zero.

    Args:
        u_DNC: Signal in chunks, any floating dtype.
        fine_DfM: Table of `ModePowers`.
        coarse_DsM: Table of `ModePowers`.
        mask: True [N, C] where the signal is written; everywhere if None.

    Returns:
        state_DNM, complex, in the precision of the tables.

    Cost: 4 D N C M FLOPs; a table of 2 D C M reals as scratch.
    """
    written_DNC, table_DCR, _ = _written(u_DNC, fine_DfM, coarse_DsM, mask)
    return _complex(torch.bmm(written_DNC, table_DCR))


def modal_state_backward(
    grad_DNM: Tensor, u_DNC: Tensor, fine_DfM: Tensor, coarse_DsM: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Gradients of `modal_state`: (du_DNC, dlog_lambda_DM in complex128)."""
    written_DNC, table_DCR, exponent_C = _written(u_DNC, fine_DfM, coarse_DsM, mask)
    du_DNC = torch.bmm(_pairs(grad_DNM), table_DCR.mT)
    if _is_smaller(u_DNC, table_DCR):
        du_DNC = du_DNC.flip(-1)
    if mask is not None:
        du_DNC *= mask
    # with respect to log λ, λ^e becomes e λ^e
    weighted_DNM = _complex(_weighted_product(written_DNC, exponent_C, table_DCR))
    dlog_DM = (grad_DNM * weighted_DNM.conj()).sum(1)
    return du_DNC.to(u_DNC.dtype), dlog_DM.to(torch.complex128)


def modal_read(
    state_DNM: Tensor,
    fine_DfM: Tensor,
    coarse_DsM: Tensor,
    rest_DNC: Tensor,
    mask: Tensor | None,
) -> Tensor:
    """Read-out of states that decay through a chunk, added to `rest`.

    Args:
        state_DNM: States, complex, times their read-out factors.
        fine_DfM: Table of `ModePowers`.
        coarse_DsM: Table of `ModePowers`.
        rest_DNC: Signal to which the read-out is added.
        mask: True [N, C] where the state is read; everywhere if None.

    Returns:
        rest + Re Σ_m state_m λ_m^t: [D, N, C] in the dtype of `rest`.

    Cost: 4 D N C M FLOPs; a table of 2 D C M reals as scratch.
    """
    table_DRC = _ascending(fine_DfM, coarse_DsM, rest_DNC.shape[-1]).mT
    # Re(s λ^t) = Re s Re λ^t - Im s Im λ^t
    read_DNC = torch.bmm(_pairs(state_DNM.conj_physical()), table_DRC)
    if mask is not None:
        read_DNC.mul_(mask)
    return read_DNC.add_(rest_DNC).to(rest_DNC.dtype)


def modal_read_backward(
    grad_DNC: Tensor, state_DNM: Tensor, fine_DfM: Tensor, coarse_DsM: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Gradients of `modal_read`: (dstate_DNM, dlog_lambda_DM in complex128)."""
    grad_DNC = _as_real_of(grad_DNC, fine_DfM)
    if mask is not None:
        grad_DNC = grad_DNC * mask
    table_DCR = _ascending(fine_DfM, coarse_DsM, grad_DNC.shape[-1])
    dstate_DNM = _complex(torch.bmm(grad_DNC, table_DCR)).conj_physical()
    weighted_DNM = _complex(_weighted_product(grad_DNC, _time(table_DCR), table_DCR))
    dlog_DM = (state_DNM * weighted_DNM).sum(1).conj_physical()
    return dstate_DNM, dlog_DM.to(torch.complex128)


def _weighted_product(x_DNC: Tensor, weight_C: Tensor, table_DCR: Tensor) -> Tensor:
    """The sum Σ_t weight_t x_t table_t: [D, N, R]. The weight multiplies the smaller factor."""
    if _is_smaller(x_DNC, table_DCR):
        return torch.bmm(x_DNC * weight_C, table_DCR)
    return torch.bmm(x_DNC, table_DCR * weight_C[:, None])


def _is_smaller(x_DNC: Tensor, table_DCR: Tensor) -> bool:
    return x_DNC.shape[1] < table_DCR.shape[2]


def _time(table_DCR: Tensor) -> Tensor:
    return torch.arange(table_DCR.shape[1], dtype=table_DCR.dtype, device=table_DCR.device)
