"""`state_scan` on a GPU: one launch for all chunks; each program carries a part of the state.

Shape letters: B batch, J chunk, N independent decays, F features that share a decay.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.dispatch import NotServedError
from kernels.triton_common import tuned

BLOCK = 256


@tuned(2, 4, key=["N", "F"])
@triton.jit
def scan_kernel(
    decay, update, initial, incoming, final, J, N, F,
    BLOCK: tl.constexpr, COMPLEX: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """States s_(j+1) = decay_j s_j + update_j; from the end, with conjugate decays, if REVERSE."""
    b = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask, n = i < N * F, i // F
    if COMPLEX:
        re = tl.load(initial + 2 * (b * N * F + i), mask=mask, other=0.0)
        im = tl.load(initial + 2 * (b * N * F + i) + 1, mask=mask, other=0.0)
    else:
        re = tl.load(initial + b * N * F + i, mask=mask, other=0.0)
    for step in range(J):
        j = b * J + step
        if REVERSE:
            j = b * J + J - 1 - step
        place = j * N * F + i
        if COMPLEX:
            tl.store(incoming + 2 * place, re, mask=mask)
            tl.store(incoming + 2 * place + 1, im, mask=mask)
            d_re = tl.load(decay + 2 * (j * N + n), mask=mask, other=0.0)
            d_im = tl.load(decay + 2 * (j * N + n) + 1, mask=mask, other=0.0)
            if REVERSE:
                d_im = -d_im
            old = re
            re = d_re * old - d_im * im + tl.load(update + 2 * place, mask=mask, other=0.0)
            im = d_re * im + d_im * old + tl.load(update + 2 * place + 1, mask=mask, other=0.0)
        else:
            tl.store(incoming + place, re, mask=mask)
            d_re = tl.load(decay + j * N + n, mask=mask, other=0.0)
            re = d_re * re + tl.load(update + place, mask=mask, other=0.0)
    if COMPLEX:
        tl.store(final + 2 * (b * N * F + i), re, mask=mask)
        tl.store(final + 2 * (b * N * F + i) + 1, im, mask=mask)
    else:
        tl.store(final + b * N * F + i, re, mask=mask)


def _scan(
    decay_BJN: Tensor, update_BJNF: Tensor, initial_BNF: Tensor, *, reverse: bool
) -> tuple[Tensor, Tensor]:
    if update_BJNF.dtype not in (torch.float32, torch.complex64):
        raise NotServedError(f"there are no kernels for {update_BJNF.dtype}")
    B, J, N, F = update_BJNF.shape
    inputs = (i.resolve_conj().contiguous() for i in (decay_BJN, update_BJNF, initial_BNF))
    outputs = (
        torch.empty_like(i, memory_format=torch.contiguous_format)
        for i in (update_BJNF, initial_BNF)
    )
    decay, update, initial, incoming, final = (*inputs, *outputs)
    complex_ = update.is_complex()
    real = [
        torch.view_as_real(i) if complex_ else i for i in (decay, update, initial, incoming, final)
    ]
    scan_kernel[(triton.cdiv(N * F, BLOCK), B)](*real, J, N, F, BLOCK, complex_, reverse)
    return incoming, final


def state_scan(
    decay_BJN: Tensor, update_BJNF: Tensor, initial_BNF: Tensor
) -> tuple[Tensor, Tensor]:
    """Kernel of `reference.state_scan`. Updates are read once, incoming states written once."""
    return _scan(decay_BJN, update_BJNF, initial_BNF, reverse=False)


def state_scan_backward(
    grad_incoming_BJNF: Tensor, grad_final_BNF: Tensor, decay_BJN: Tensor, incoming_BJNF: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Kernels of `reference.state_scan_backward`."""
    dupdate, dinitial = _scan(decay_BJN, grad_incoming_BJNF, grad_final_BNF, reverse=True)
    return torch.linalg.vecdot(incoming_BJNF, dupdate), dupdate, dinitial
