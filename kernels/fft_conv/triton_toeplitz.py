"""Causal convolution of short chunks as products with Toeplitz tiles gathered on the fly.

Up to 512 tokens the products cost less than a transform, and any length is served.

Shape letters: D channel, N rows, C time inside a chunk, B tile edge, K block diagonals.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.triton_common import block_of, operand_type, product

MAX_CHUNK = 512


@triton.jit
def toeplitz_kernel(
    x, h, y, N, C, BN: tl.constexpr, B: tl.constexpr, DT: tl.constexpr, CONJ: tl.constexpr
):
    """Output y[i], the sum over j of h[i - j] x[j]; of h[j - i] x[j] if CONJ."""
    # blocks of the same rows follow each other, so that their common input is in the cache
    block, d, rows = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    n, i = rows * BN + tl.arange(0, BN), block * B + tl.arange(0, B)
    base = (d.to(tl.int64) * N + n[:, None]) * C
    acc = tl.zeros((BN, B), tl.float32)
    first = 0
    last = block * B + B
    if CONJ:
        first = block * B
        last = C
    for begin in range(first, last, B):
        j = begin + tl.arange(0, B)
        mask = (n[:, None] < N) & (j[None, :] < C)
        X = tl.load(x + base + j[None, :], mask=mask, other=0.0).to(tl.float32)
        lag = i[None, :] - j[:, None]
        if CONJ:
            lag = -lag
        inside = (lag >= 0) & (lag < C)
        tile = tl.load(h + d * C + lag, mask=inside, other=0.0).to(tl.float32)
        acc = product(X, tile, acc, DT)
    mask = (n[:, None] < N) & (i[None, :] < C)
    tl.store(y + base + i[None, :], acc.to(y.dtype.element_ty), mask=mask)


@triton.jit
def toeplitz_filter_kernel(x, g, out, N, C, BN: tl.constexpr, B: tl.constexpr, DT: tl.constexpr):
    """Sum over rows and blocks of g_i x_j for the blocks (i, j) of one block diagonal."""
    d, diagonal = tl.program_id(0), tl.program_id(1)
    acc = tl.zeros((B, B), tl.float32)
    for begin in range(diagonal * B, C, B):
        i = begin + tl.arange(0, B)
        j = begin - diagonal * B + tl.arange(0, B)
        for row in range(0, N, BN):
            n = row + tl.arange(0, BN)
            base = (d.to(tl.int64) * N + n) * C
            mask = (i[:, None] < C) & (n[None, :] < N)
            G = tl.load(g + base[None, :] + i[:, None], mask=mask, other=0.0).to(tl.float32)
            mask = (n[:, None] < N) & (j[None, :] < C)
            X = tl.load(x + base[:, None] + j[None, :], mask=mask, other=0.0).to(tl.float32)
            acc = product(G, X, acc, DT)
    index = tl.arange(0, B)[:, None] * B + tl.arange(0, B)[None, :]
    diagonals = tl.num_programs(1)
    tl.store(out + (d.to(tl.int64) * diagonals + diagonal) * B * B + index, acc)


def convolve(u_DNC: Tensor, h_DC: Tensor, *, conj: bool) -> Tensor:
    """Rows convolved, or correlated, with their channel's filter, by `toeplitz_kernel`."""
    D, N, C = u_DNC.shape
    B, BN = block_of(C, 64), block_of(N, 128)
    u_DNC, y_DNC = (
        u_DNC.contiguous(),
        torch.empty_like(u_DNC, memory_format=torch.contiguous_format),
    )
    toeplitz_kernel[(triton.cdiv(C, B), D, triton.cdiv(N, BN))](
        u_DNC, h_DC.contiguous(), y_DNC, N, C, BN, B, operand_type(u_DNC), conj,
        num_warps=4, num_stages=1,
    )  # fmt: skip
    return y_DNC


def filter_gradient(grad_DNC: Tensor, u_DNC: Tensor, h_DC: Tensor) -> Tensor:
    """Gradient dh_DC of the filters: diagonal sums of the tiles of `toeplitz_filter_kernel`."""
    D, N, C = u_DNC.shape
    B, BN = block_of(C, 64), block_of(N, 64)
    diagonals = triton.cdiv(C, B)
    tiles_DKBB = u_DNC.new_empty(D, diagonals, B, B, dtype=torch.float32)
    toeplitz_filter_kernel[(D, diagonals)](
        u_DNC.contiguous(), grad_DNC.contiguous(), tiles_DKBB, N, C, BN, B, operand_type(u_DNC),
        num_warps=4, num_stages=1,
    )  # fmt: skip
    # element (i, j) has lag i - j: each row moved one to the right of the one above
    padded = torch.nn.functional.pad(tiles_DKBB.flip(-1), (0, B)).flatten(-2)
    by_lag = padded[..., : B * (2 * B - 1)].unflatten(-1, (B, 2 * B - 1)).sum(-2)
    dh_DT = u_DNC.new_zeros(D, (diagonals + 1) * B, dtype=torch.float32)
    for block in range(diagonals):
        # lags block * B - (B - 1) ... block * B + B - 1; negative ones are acausal
        skipped = B - 1 if block == 0 else 0
        begin = block * B - (B - 1) + skipped
        dh_DT[:, begin : begin + 2 * B - 1 - skipped] += by_lag[:, block, skipped:]
    return dh_DT[:, :C].to(h_DC.dtype).contiguous()
