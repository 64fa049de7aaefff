"""`delta_write` on a GPU: one program per chunk and head holds its triangular system.

The system is inverted row by row in registers: products with its inverse are plain matrix products.

Shape letters: X rows times heads, H head, C time inside a chunk, K key channels, V value channels;
B, BK, BV edges of tiles that hold all of C, K and V.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.dispatch import NotServedError
from kernels.triton_common import block_of, operand_type, product, tuned

MAX_CHUNK = 64
MAX_CHANNELS = 128


@triton.jit
def _rows(pointer, x, t, channel, C, K):
    """Tokens t of row x: [time, channels], float32."""
    mask = (t[:, None] < C) & (channel[None, :] < K)
    place = (x * C + t[:, None]) * K + channel[None, :]
    return tl.load(pointer + place, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _earlier(total, segment, x, row, t, C, PACKED: tl.constexpr):
    """Weights e^(l_i - l_j) where j < i and both belong to one document, else 0: [i, j]."""
    l_t = tl.load(total + x * C + t, mask=t < C, other=0.0)
    visible = (t[None, :] < t[:, None]) & (t[:, None] < C)
    if PACKED:
        s_t = tl.load(segment + row * C + t, mask=t < C, other=-1)
        visible = visible & (s_t[:, None] == s_t[None, :])
    return tl.exp(tl.where(visible, l_t[:, None] - l_t[None, :], float("-inf")))


@tuned(4, 8, key=["C", "K"])
@triton.jit
def weighted_kernel(
    k, e, total, segment, system, H, C, K,
    B: tl.constexpr, BK: tl.constexpr, DT: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """Weighted scores A_ij = weight_ij (e_i k_j) for j < i, else 0."""
    x = tl.program_id(0).to(tl.int64)
    t, a = tl.arange(0, B), tl.arange(0, BK)
    zero = tl.zeros((B, B), tl.float32)
    scores = product(_rows(e, x, t, a, C, K), tl.trans(_rows(k, x, t, a, C, K)), zero, DT)
    scores *= _earlier(total, segment, x, x // H, t, C, PACKED)
    mask = (t[:, None] < C) & (t[None, :] < C)
    tl.store(system + (x * C + t[:, None]) * C + t[None, :], scores, mask=mask)


@tuned(4, 8, key=["C"])
@triton.jit
def inverse_kernel(system, inverse, C, B: tl.constexpr):
    """Inverse of I + A by substitution: row i needs the rows above it, which are in registers."""
    x = tl.program_id(0).to(tl.int64)
    t = tl.arange(0, B)
    rows = tl.where(t[:, None] == t[None, :], 1.0, 0.0)
    for i in range(1, C):
        # zero from column i on
        row_B = tl.load(system + (x * C + i) * C + t, mask=t < C, other=0.0)
        known_B = tl.sum(row_B[:, None] * rows, axis=0)
        rows = tl.where(t[:, None] == i, rows - known_B[None, :], rows)
    mask = (t[:, None] < C) & (t[None, :] < C)
    tl.store(inverse + (x * C + t[:, None]) * C + t[None, :], rows, mask=mask)


@tuned(4, 8, key=["C", "K"])
@triton.jit
def solve_kernel(
    inverse, right, weight, out, C, K,
    B: tl.constexpr, BK: tl.constexpr, DT: tl.constexpr,
    TRANSPOSED: tl.constexpr, WEIGHTED: tl.constexpr,
):  # fmt: skip
    """Product of the inverse, or its transpose, with right-hand sides [C, K], perhaps weighted."""
    x = tl.program_id(0).to(tl.int64)
    t, a = tl.arange(0, B), tl.arange(0, BK)
    mask = (t[:, None] < C) & (t[None, :] < C)
    place = t[:, None] * C + t[None, :]
    if TRANSPOSED:
        place = t[None, :] * C + t[:, None]
    inverse_BB = tl.load(inverse + x * C * C + place, mask=mask, other=0.0)
    right_BK = _rows(right, x, t, a, C, K)
    if WEIGHTED:
        right_BK *= tl.load(weight + x * C + t, mask=t < C, other=0.0).to(tl.float32)[:, None]
    y_BK = product(inverse_BB, right_BK, tl.zeros((B, BK), tl.float32), DT)
    mask = (t[:, None] < C) & (a[None, :] < K)
    tl.store(out + (x * C + t[:, None]) * K + a[None, :], y_BK.to(out.dtype.element_ty), mask=mask)


@tuned(8, 4, key=["C", "K", "V"])
@triton.jit
def system_kernel(
    right, right_lost, written, lost, total, segment, dsystem, H, C, K, V,
    B: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, DT: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """Gradient of the scores e_i k_j: what a larger one takes from the solutions, weighted."""
    x = tl.program_id(0).to(tl.int64)
    t, a, b = tl.arange(0, B), tl.arange(0, BK), tl.arange(0, BV)
    acc = tl.zeros((B, B), tl.float32)
    acc = product(_rows(right, x, t, b, C, V), tl.trans(_rows(written, x, t, b, C, V)), acc, DT)
    acc = product(_rows(right_lost, x, t, a, C, K), tl.trans(_rows(lost, x, t, a, C, K)), acc, DT)
    acc = -acc * _earlier(total, segment, x, x // H, t, C, PACKED)
    mask = (t[:, None] < C) & (t[None, :] < C)
    tl.store(dsystem + (x * C + t[:, None]) * C + t[None, :], acc, mask=mask)


@tuned(8, 4, key=["C", "K"])
@triton.jit
def scores_kernel(
    dsystem, right_lost, k, e, read, dk, de, dlag, dread, C, K,
    B: tl.constexpr, BK: tl.constexpr, DT: tl.constexpr,
):  # fmt: skip
    """Gradients of keys and erase keys, of each token's total, and of its decay."""
    x = tl.program_id(0).to(tl.int64)
    t, a = tl.arange(0, B), tl.arange(0, BK)
    k_BK, e_BK = _rows(k, x, t, a, C, K), _rows(e, x, t, a, C, K)
    dscores = _rows(dsystem, x, t, t, C, C)
    lost_BK = _rows(right_lost, x, t, a, C, K)
    read_B = tl.load(read + x * C + t, mask=t < C, other=0.0).to(tl.float32)
    tl.store(dread + x * C + t, tl.sum(lost_BK * e_BK, axis=1), mask=t < C)
    mask, place = (t[:, None] < C) & (a[None, :] < K), (x * C + t[:, None]) * K + a[None, :]
    de_BK = product(dscores, k_BK, lost_BK * read_B[:, None], DT)
    tl.store(de + place, de_BK.to(de.dtype.element_ty), mask=mask)
    dk_BK = product(tl.trans(dscores), e_BK, tl.zeros((B, BK), tl.float32), DT)
    tl.store(dk + place, dk_BK.to(dk.dtype.element_ty), mask=mask)
    dlag_BB = dscores * product(e_BK, tl.trans(k_BK), tl.zeros((B, B), tl.float32), DT)
    # a score's weight is e^(l_i - l_j): what l_i gains, l_j loses
    tl.store(dlag + x * C + t, tl.sum(dlag_BB, axis=1) - tl.sum(dlag_BB, axis=0), mask=t < C)


def delta_write(
    k_NHCK: Tensor,
    e_NHCK: Tensor,
    u_NHCV: Tensor,
    total_NHC: Tensor,
    read_NHC: Tensor,
    segment_NC: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Kernels of `reference.delta_write`."""
    inputs = (k_NHCK, e_NHCK, u_NHCV, total_NHC, read_NHC)
    k, e, u, total, read = (i.contiguous() for i in inputs)
    N, H, C, K = k.shape
    B, BK, _, dtype = _tiles(k, u)
    system_NHCC, inverse_NHCC = (total.new_empty(N, H, C, C) for _ in range(2))
    weighted_kernel[(N * H,)](
        k, e, total, _segments(segment_NC, total), system_NHCC, H, C, K, B, BK, dtype,
        segment_NC is not None,
    )  # fmt: skip
    inverse_kernel[(N * H,)](system_NHCC, inverse_NHCC, C, B)
    written, lost = _solve(inverse_NHCC, u, None, u), _solve(inverse_NHCC, e, read, e)
    return written, lost, inverse_NHCC


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
    """Kernels of `reference.delta_write_backward`."""
    inputs = (k_NHCK, e_NHCK, total_NHC, read_NHC, written_NHCV, lost_NHCK, inverse_NHCC)
    k, e, total, read, written, lost, inverse = (i.contiguous() for i in inputs)
    N, H, C, K = k.shape
    V = written.shape[-1]
    B, BK, BV, dtype = _tiles(k, written)
    # float32, because gradients of the scores are sums of their products
    right, right_lost = (
        _solve(inverse, grad.contiguous(), None, grad.to(total.dtype), transposed=True)
        for grad in (grad_written_NHCV, grad_lost_NHCK)
    )
    dsystem, dk, de, dtotal, dread = map(torch.empty_like, (inverse, k, e, total, read))
    system_kernel[(N * H,)](
        right, right_lost, written, lost, total, _segments(segment_NC, total), dsystem, H, C, K, V,
        B, BK, BV, dtype, segment_NC is not None,
    )  # fmt: skip
    scores_kernel[(N * H,)](
        dsystem, right_lost, k, e, read, dk, de, dtotal, dread, C, K, B, BK, dtype
    )
    return dk, de, right.to(grad_written_NHCV.dtype), dtotal, dread


def _solve(
    inverse: Tensor, right: Tensor, weight: Tensor | None, like: Tensor, *, transposed: bool = False
) -> Tensor:
    N, H, C, K = right.shape
    out = torch.empty_like(like, memory_format=torch.contiguous_format)
    solve_kernel[(N * H,)](
        inverse, right, inverse if weight is None else weight, out, C, K, block_of(C, MAX_CHUNK),
        block_of(K, MAX_CHANNELS), operand_type(right), transposed, weight is not None,
    )  # fmt: skip
    return out


def _tiles(k: Tensor, u: Tensor) -> tuple[int, int, int, object]:
    """Edges of tiles, and the operands' type."""
    (_, _, C, K), V = k.shape, u.shape[-1]
    dtype = operand_type(k)
    if C > MAX_CHUNK:
        raise NotServedError(f"expected chunks of at most {MAX_CHUNK} tokens, got {C}")
    if max(K, V) > MAX_CHANNELS:
        raise NotServedError(f"expected heads of at most {MAX_CHANNELS} channels, got {K} and {V}")
    return block_of(C, MAX_CHUNK), block_of(K, MAX_CHANNELS), block_of(V, MAX_CHANNELS), dtype


def _segments(segment_NC: Tensor | None, stand_in: Tensor) -> Tensor:
    # a kernel needs a valid pointer even where it does not read it
    return stand_in if segment_NC is None else segment_NC.contiguous()
