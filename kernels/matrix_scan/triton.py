"""`matrix_scan` on a GPU: each program carries some columns of a head's state over all chunks.

Shape letters: B batch, J chunk, H head, K rows of a state, V columns of a state; BK, BV edges of
tiles.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.dispatch import NotServedError
from kernels.triton_common import block_of, product, tuned

MAX_CHANNELS = 128
COLUMNS = 32


@tuned(4, 8, key=["K", "V"])
@triton.jit
def matrix_scan_kernel(
    transition, update, initial, incoming, final, J, H, K, V,
    BK: tl.constexpr, BV: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """States S_(j+1) = M_j S_j + U_j; from the end, with transposed matrices, if REVERSE."""
    b, h = tl.program_id(0).to(tl.int64) // H, tl.program_id(0) % H
    a, c = tl.arange(0, BK), tl.program_id(1) * BV + tl.arange(0, BV)
    mask = (a[:, None] < K) & (c[None, :] < V)
    square = (a[:, None] < K) & (a[None, :] < K)
    place = a[:, None] * V + c[None, :]
    corner = a[:, None] * K + a[None, :]
    if REVERSE:
        corner = a[None, :] * K + a[:, None]
    whole = (b * H + h) * K * V + place
    state = tl.load(initial + whole, mask=mask, other=0.0)
    for step in range(J):
        j = b * J + step
        if REVERSE:
            j = b * J + J - 1 - step
        here = (j * H + h) * K
        tl.store(incoming + here * V + place, state, mask=mask)
        matrix = tl.load(transition + here * K + corner, mask=square, other=0.0)
        added = tl.load(update + here * V + place, mask=mask, other=0.0)
        # states are float32, whatever the signal is
        state = product(matrix, state, added, tl.float32)
    tl.store(final + whole, state, mask=mask)


def _scan(
    transition: Tensor, update: Tensor, initial: Tensor, *, reverse: bool
) -> tuple[Tensor, Tensor]:
    B, J, H, K, V = update.shape
    if update.dtype != torch.float32:
        raise NotServedError(f"there are no kernels for {update.dtype}")
    if K > MAX_CHANNELS:
        raise NotServedError(f"expected states of at most {MAX_CHANNELS} rows, got {K}")
    transition, update, initial = (i.contiguous() for i in (transition, update, initial))
    incoming, final = torch.empty_like(update), torch.empty_like(initial)
    BV = block_of(V, COLUMNS)
    matrix_scan_kernel[(B * H, triton.cdiv(V, BV))](
        transition, update, initial, incoming, final, J, H, K, V, block_of(K, MAX_CHANNELS), BV,
        reverse,
    )  # fmt: skip
    return incoming, final


def matrix_scan(
    transition_BJHKK: Tensor, update_BJHKV: Tensor, initial_BHKV: Tensor
) -> tuple[Tensor, Tensor]:
    """Kernel of `reference.matrix_scan`. Updates are read once, incoming states written once."""
    return _scan(transition_BJHKK, update_BJHKV, initial_BHKV, reverse=False)


def matrix_scan_backward(
    grad_incoming_BJHKV: Tensor,
    grad_final_BHKV: Tensor,
    transition_BJHKK: Tensor,
    incoming_BJHKV: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Kernel of `reference.matrix_scan_backward`, and one product for all transitions."""
    dupdate, dinitial = _scan(transition_BJHKK, grad_incoming_BJHKV, grad_final_BHKV, reverse=True)
    return dupdate @ incoming_BJHKV.mT, dupdate, dinitial
