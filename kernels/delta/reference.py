"""Writes of delta heads in a chunk: each token erases before it writes.

The recurrence S_t = a_t (I - k_t e_t^T) S_(t-1) + k_t u_t^T is, inside a chunk with the state S_0
before it, a plain sum of writes k_s w_s^T whose values w solve a triangular system (the WY form of
a product of Householder-like factors):

    (I + A) w = u - diag(g) E S_0      A_ts = e^(l_t - l_s) (e_t . k_s) for s < t, else 0

so w = w_0 - W S_0, with (I + A) w_0 = u and (I + A) W = diag(g) E.

Shape letters: N rows (batch times chunks), H head, C time inside a chunk, K key channels, V value
channels, P padded C, x rows of a block, s edge of a diagonal block.

Source: the chunkwise form of the gated delta rule (Yang et al. 2024, arXiv 2412.06464).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.blocks import cache_blocks
from kernels.recall.reference import lag_weights

# edge of the diagonal blocks that are inverted by substitution; larger ones by products
SUBSTITUTED = 16


def delta_write(
    k_NHCK: Tensor,
    e_NHCK: Tensor,
    u_NHCV: Tensor,
    total_NHC: Tensor,
    read_NHC: Tensor,
    segment_NC: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Values that every token of a chunk writes, and how they change with the state before it.

    Args:
        k_NHCK: Keys, any floating dtype.
        e_NHCK: Keys times write strength: what each token erases before it writes.
        u_NHCV: Values times write strength.
        total_NHC: Sum of the logarithms of the decays from the chunk's beginning to each token,
            float32 or wider.
        read_NHC: Decay of the state until each token; zero where a border lies in between.
        segment_NC: Document numbers: no document erases another's writes; None for one document.

    Returns:
        (values from a zero state [N, H, C, V], their loss per state [N, H, C, K], in the dtypes of
        u and e; the inverse of the system [N, H, C, C], float32 or wider, for the backward pass).

    Cost: N H C^2 (4 K + 2 V) FLOPs for the products, and about 2/3 N H C^3 for the inverse.
    """
    N, H, C, _ = k_NHCK.shape
    written_NHCV, lost_NHCK = _empty_like(u_NHCV, e_NHCK)
    inverse_NHCC = total_NHC.new_empty(N, H, C, C)
    for rows in _blocks(total_NHC):
        k, e, u = (i[rows].to(total_NHC.dtype) for i in (k_NHCK, e_NHCK, u_NHCV))
        weight = _earlier(total_NHC[rows], None if segment_NC is None else segment_NC[rows])
        inverse = invert(weight.mul_(e @ k.mT))
        inverse_NHCC[rows] = inverse
        written_NHCV[rows] = inverse @ u
        lost_NHCK[rows] = inverse @ (e * read_NHC[rows, :, :, None])
    return written_NHCV, lost_NHCK, inverse_NHCC


def delta_write_backward(
    grad_written_NHCV: Tensor,
    grad_lost_NHCK: Tensor,
    k_NHCK: Tensor,
    e_NHCK: Tensor,
    total_NHC: Tensor,
    read_NHC: Tensor,
    segment_NC: Tensor | None,
    written_NHCV: Tensor,
    lost_NHCK: Tensor,
    inverse_NHCC: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `delta_write`: (dk, de, du, dtotal, dread). The scores are computed again."""
    dk, de, du = _empty_like(k_NHCK, e_NHCK, grad_written_NHCV)
    dtotal, dread = _empty_like(total_NHC, read_NHC)
    work = total_NHC.dtype
    for rows in _blocks(total_NHC):
        k, e, w, lost = (i[rows].to(work) for i in (k_NHCK, e_NHCK, written_NHCV, lost_NHCK))
        weight = _earlier(total_NHC[rows], None if segment_NC is None else segment_NC[rows])
        transposed = inverse_NHCC[rows].mT
        # gradients of the right-hand sides
        right = transposed @ grad_written_NHCV[rows].to(work)
        right_lost = transposed @ grad_lost_NHCK[rows].to(work)
        du[rows] = right
        dread[rows] = torch.linalg.vecdot(right_lost, e)
        # what a larger entry of the system takes from its solutions
        dproduct = (right @ w.mT).add_(right_lost @ lost.mT).neg_().mul_(weight)
        de[rows] = (dproduct @ k).addcmul_(right_lost, read_NHC[rows, :, :, None])
        dk[rows] = dproduct.mT @ e
        dlag = dproduct.mul_(e @ k.mT)
        dtotal[rows] = dlag.sum(-1) - dlag.sum(-2)
    return dk, de, du, dtotal, dread


def invert(a_xHCC: Tensor) -> Tensor:
    """The inverse of I + A, for A zero on and above its diagonal.

    Diagonal blocks are solved by substitution, and joined by products. A series in powers of A has
    fewer steps, but its terms may exceed their sum by many orders of magnitude.
    """
    C = a_xHCC.shape[-1]
    s = min(SUBSTITUTED, C)
    P = s
    while P < C:
        P *= 2
    a_xHPP = F.pad(a_xHCC, (0, P - C, 0, P - C))
    identity = torch.eye(s, dtype=a_xHCC.dtype, device=a_xHCC.device)
    # [x, H, s, s, P / s] for each size of diagonal blocks
    blocks = _diagonal(a_xHPP, s).contiguous()
    inverse = torch.linalg.solve_triangular(
        blocks, identity.expand_as(blocks), upper=False, unitriangular=True
    )
    while s < P:
        first, second = inverse[..., ::2, :, :], inverse[..., 1::2, :, :]
        below = _diagonal(a_xHPP, 2 * s)[..., s:, :s]
        joined = inverse.new_zeros(*second.shape[:-2], 2 * s, 2 * s)
        joined[..., :s, :s], joined[..., s:, s:] = first, second
        joined[..., s:, :s] = (second @ (below @ first)).neg_()
        inverse, s = joined, 2 * s
    return inverse[..., 0, :C, :C]


def _diagonal(a_xHPP: Tensor, s: int) -> Tensor:
    """The blocks of edge s on the diagonal: [x, H, P / s, s, s], a view."""
    blocks = a_xHPP.unflatten(-1, (-1, s)).unflatten(-3, (-1, s))
    return blocks.diagonal(dim1=-4, dim2=-2).movedim(-1, -3)


def _earlier(total_xHC: Tensor, segment_xC: Tensor | None) -> Tensor:
    """Weights e^(l_t - l_s) where s < t and both belong to one document, else 0: [x, H, C, C]."""
    return lag_weights(total_xHC, segment_xC).tril_(-1)


def _empty_like(*tensors: Tensor) -> list[Tensor]:
    return [torch.empty_like(i, memory_format=torch.contiguous_format) for i in tensors]


def _blocks(weight_NHC: Tensor) -> list[slice]:
    N, H, C = weight_NHC.shape
    return cache_blocks(N, H * C * C, weight_NHC.device)
