"""`recall_local` on a GPU: the read-out of tokens from their own chunk, tiled, in one launch.

Nothing of size [C, C] is ever stored. In the backward pass one kernel iterates over the tokens that
a token reads (dq), another over those that read it (dk, dv): nothing is accumulated across
programs.

Shape letters: X rows times heads, H head, C time inside a chunk, K key channels, V value channels;
B tile edge over time, BK and BV over channels.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.dispatch import NotServedError
from kernels.triton_common import block_of, operand_type, product, tuned

MAX_CHANNELS = 128


@triton.jit
def _rows(pointer, x, t, channel, C, K):
    """Tokens t of row x: [time, channels], float32."""
    mask = (t[:, None] < C) & (channel[None, :] < K)
    place = (x * C + t[:, None]) * K + channel[None, :]
    return tl.load(pointer + place, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _weights(total, segment, x, row, i, j, C, PACKED: tl.constexpr):
    """Weights e^(l_i - l_j) where j <= i and both belong to one document, else 0: [i, j]."""
    l_i = tl.load(total + x * C + i, mask=i < C, other=0.0)
    l_j = tl.load(total + x * C + j, mask=j < C, other=0.0)
    visible = (j[None, :] <= i[:, None]) & (i[:, None] < C)
    if PACKED:
        s_i = tl.load(segment + row * C + i, mask=i < C, other=-1)
        s_j = tl.load(segment + row * C + j, mask=j < C, other=-2)
        visible = visible & (s_i[:, None] == s_j[None, :])
    return tl.exp(tl.where(visible, l_i[:, None] - l_j[None, :], float("-inf")))


@tuned(4, 8, key=["C", "K", "V"])
@triton.jit
def local_kernel(
    q, k, v, total, segment, y, H, C, K, V, B: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DT: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """Read-out of token i: the sum over j <= i of weight_ij (q_i k_j) v_j."""
    x, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    i, a, b = block * B + tl.arange(0, B), tl.arange(0, BK), tl.arange(0, BV)
    q_BK = _rows(q, x, i, a, C, K)
    acc = tl.zeros((B, BV), tl.float32)
    zero = tl.zeros((B, B), tl.float32)
    for begin in range(0, block * B + B, B):
        j = begin + tl.arange(0, B)
        scores = product(q_BK, tl.trans(_rows(k, x, j, a, C, K)), zero, DT)
        scores *= _weights(total, segment, x, x // H, i, j, C, PACKED)
        acc = product(scores, _rows(v, x, j, b, C, V), acc, DT)
    mask = (i[:, None] < C) & (b[None, :] < V)
    tl.store(y + (x * C + i[:, None]) * V + b[None, :], acc.to(y.dtype.element_ty), mask=mask)


@tuned(4, 8, key=["C", "K", "V"])
@triton.jit
def local_query_kernel(
    g, q, k, v, total, segment, dq, dlag, H, C, K, V,
    B: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, DT: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """Gradient of the queries, and of each token's total as a reader."""
    x, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    i, a, b = block * B + tl.arange(0, B), tl.arange(0, BK), tl.arange(0, BV)
    q_BK, g_BV = _rows(q, x, i, a, C, K), _rows(g, x, i, b, C, V)
    acc = tl.zeros((B, BK), tl.float32)
    gained = tl.zeros((B,), tl.float32)
    zero = tl.zeros((B, B), tl.float32)
    for begin in range(0, block * B + B, B):
        j = begin + tl.arange(0, B)
        k_BK = _rows(k, x, j, a, C, K)
        scores = product(q_BK, tl.trans(k_BK), zero, DT)
        dscores = product(g_BV, tl.trans(_rows(v, x, j, b, C, V)), zero, DT)
        dscores *= _weights(total, segment, x, x // H, i, j, C, PACKED)
        gained += tl.sum(dscores * scores, axis=1)
        acc = product(dscores, k_BK, acc, DT)
    mask = (i[:, None] < C) & (a[None, :] < K)
    tl.store(dq + (x * C + i[:, None]) * K + a[None, :], acc.to(dq.dtype.element_ty), mask=mask)
    tl.store(dlag + x * C + i, gained, mask=i < C)


@tuned(4, 8, key=["C", "K", "V"])
@triton.jit
def local_key_kernel(
    g, q, k, v, total, segment, dk, dv, dlag, H, C, K, V,
    B: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, DT: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """Gradients of keys and values, and of each token's total (negated) as one that is read."""
    x, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    j, a, b = block * B + tl.arange(0, B), tl.arange(0, BK), tl.arange(0, BV)
    k_BK, v_BV = _rows(k, x, j, a, C, K), _rows(v, x, j, b, C, V)
    acc_k = tl.zeros((B, BK), tl.float32)
    acc_v = tl.zeros((B, BV), tl.float32)
    lost = tl.zeros((B,), tl.float32)
    zero = tl.zeros((B, B), tl.float32)
    for begin in range(block * B, C, B):
        i = begin + tl.arange(0, B)
        q_BK, g_BV = _rows(q, x, i, a, C, K), _rows(g, x, i, b, C, V)
        weights = _weights(total, segment, x, x // H, i, j, C, PACKED)
        scores = product(q_BK, tl.trans(k_BK), zero, DT)
        dscores = product(g_BV, tl.trans(v_BV), zero, DT) * weights
        lost += tl.sum(dscores * scores, axis=0)
        acc_k = product(tl.trans(dscores), q_BK, acc_k, DT)
        acc_v = product(tl.trans(scores * weights), g_BV, acc_v, DT)
    mask = (j[:, None] < C) & (a[None, :] < K)
    tl.store(dk + (x * C + j[:, None]) * K + a[None, :], acc_k.to(dk.dtype.element_ty), mask=mask)
    mask = (j[:, None] < C) & (b[None, :] < V)
    tl.store(dv + (x * C + j[:, None]) * V + b[None, :], acc_v.to(dv.dtype.element_ty), mask=mask)
    tl.store(dlag + x * C + j, lost, mask=j < C)


def recall_local(
    q_NHCK: Tensor, k_NHCK: Tensor, v_NHCV: Tensor, total_NHC: Tensor, segment_NC: Tensor | None
) -> Tensor:
    """Kernel of `reference.recall_local`; keys and values are read once per tile of queries."""
    q, k, v, total = (i.contiguous() for i in (q_NHCK, k_NHCK, v_NHCV, total_NHC))
    y_NHCV = torch.empty_like(v)
    grid, sizes, tiles = _launch(q, v)
    local_kernel[grid](
        q, k, v, total, _segments(segment_NC, total), y_NHCV, *sizes, *tiles, segment_NC is not None
    )
    return y_NHCV


def recall_local_backward(
    grad_NHCV: Tensor,
    q_NHCK: Tensor,
    k_NHCK: Tensor,
    v_NHCV: Tensor,
    total_NHC: Tensor,
    segment_NC: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Kernels of `reference.recall_local_backward`."""
    inputs = (grad_NHCV.to(v_NHCV.dtype), q_NHCK, k_NHCK, v_NHCV, total_NHC)
    grad, q, k, v, total = (i.contiguous() for i in inputs)
    segment, packed = _segments(segment_NC, total), segment_NC is not None
    dq, dk, dv, gained, lost = (torch.empty_like(i) for i in (q, k, v, total, total))
    grid, sizes, tiles = _launch(q, v)
    local_query_kernel[grid](grad, q, k, v, total, segment, dq, gained, *sizes, *tiles, packed)
    local_key_kernel[grid](grad, q, k, v, total, segment, dk, dv, lost, *sizes, *tiles, packed)
    return dq, dk, dv, gained - lost


def _launch(q: Tensor, v: Tensor) -> tuple[tuple[int, int], tuple[int, ...], tuple[object, ...]]:
    """Grid, sizes, and tile sizes with operand type of a launch."""
    (N, H, C, K), V = q.shape, v.shape[-1]
    dtype = operand_type(q)
    if max(K, V) > MAX_CHANNELS:
        raise NotServedError(f"expected heads of at most {MAX_CHANNELS} channels, got {K} and {V}")
    # larger tiles of float32, or of wider heads, do not fit into registers
    B = block_of(C, 64 if max(K, V) <= 64 and dtype != tl.float32 else 32)
    tiles = (B, block_of(K, MAX_CHANNELS), block_of(V, MAX_CHANNELS), dtype)
    return (N * H, triton.cdiv(C, B)), (H, C, K, V), tiles


def _segments(segment_NC: Tensor | None, stand_in: Tensor) -> Tensor:
    # a kernel needs a valid pointer even where it does not read it
    return stand_in if segment_NC is None else segment_NC.contiguous()
