"""`linear_cross_entropy` on a GPU: products by the vendor's library, the rest in one kernel.

Logits exist for one block of tokens only; loss and gradient are computed from them in place.

Shape letters: N tokens, n tokens of a block, D channels, V vocabulary; BV columns at a time.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.linear_cross_entropy.reference import BLOCK, IGNORE
from kernels.precision import is_half
from kernels.triton_common import operand_type, tuned

COLUMNS = 4096


@tuned(8, 16, key=["V"])
@triton.jit
def loss_kernel(
    logits,
    labels,
    nll,
    z_loss,
    V,
    z_weight,
    IGNORED: tl.constexpr,
    BV: tl.constexpr,
    WITH_GRAD: tl.constexpr,
):
    """Losses of one token; if WITH_GRAD, the gradient of their sum replaces the logits."""
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels + row)
    top = tl.full((BV,), float("-inf"), tl.float32)
    total = tl.zeros((BV,), tl.float32)
    for begin in range(0, V, BV):
        column = begin + tl.arange(0, BV)
        z = tl.load(logits + row * V + column, mask=column < V, other=float("-inf"))
        z = z.to(tl.float32)
        higher = tl.maximum(tl.maximum(top, z), -1e30)
        total = total * tl.exp(top - higher) + tl.exp(z - higher)
        top = higher
    peak = tl.max(top, axis=0)
    sum_ = tl.sum(total * tl.exp(top - peak), axis=0)
    valid = tl.where(label != IGNORED, 1.0, 0.0)
    picked = tl.load(logits + row * V + tl.where(label != IGNORED, label, 0)).to(tl.float32)
    lse = tl.log(sum_) + peak
    tl.store(nll + row, (lse - picked) * valid)
    tl.store(z_loss + row, z_weight * lse * lse * valid)
    if WITH_GRAD:
        # all threads must have read the picked logit before one of them replaces it
        tl.debug_barrier()
        for begin in range(0, V, BV):
            column = begin + tl.arange(0, BV)
            place = logits + row * V + column
            z = tl.load(place, mask=column < V, other=float("-inf")).to(tl.float32)
            p = tl.exp(z - peak) / sum_ * (1.0 + 2.0 * z_weight * lse)
            p -= tl.where(column == label, 1.0, 0.0)
            tl.store(place, (p * valid).to(logits.dtype.element_ty), mask=column < V)


def linear_cross_entropy(
    x_ND: Tensor, weight_VD: Tensor, labels_N: Tensor, with_grad: bool, z_weight: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Kernel of `reference.linear_cross_entropy`. A block's logits move four times, not eleven."""
    operand_type(x_ND)
    N, V = x_ND.shape[0], weight_VD.shape[0]
    valid_N = labels_N != IGNORE
    torch._assert_async(((labels_N >= 0) & (labels_N < V) | ~valid_N).all())
    nll_N, z_loss_N = x_ND.new_empty(2, N, dtype=torch.float32)
    dx_ND = torch.empty_like(x_ND) if with_grad else x_ND.new_empty(0)
    dweight_VD = weight_VD.new_empty(0)
    if with_grad:
        dweight_VD = torch.zeros_like(weight_VD, dtype=torch.float32)
    labels_N = labels_N.contiguous()
    for begin in range(0, N, BLOCK):
        rows = slice(begin, begin + BLOCK)
        x_nD = x_ND[rows]
        logits_nV = x_nD @ weight_VD.t()
        loss_kernel[(len(x_nD),)](
            logits_nV,
            labels_N[rows],
            nll_N[rows],
            z_loss_N[rows],
            V,
            z_weight,
            IGNORE,
            COLUMNS,
            with_grad,
        )
        if with_grad:
            torch.mm(logits_nV, weight_VD, out=dx_ND[rows])
            if is_half(x_nD):
                # blocks are many: their sum must not be rounded with each
                dweight_VD += logits_nV.t() @ x_nD
            else:
                dweight_VD.addmm_(logits_nV.t(), x_nD)
    z_loss = z_loss_N.sum()
    return nll_N.sum() + z_loss, z_loss, dx_ND, dweight_VD.to(weight_VD.dtype)
