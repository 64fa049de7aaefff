"""`short_conv` on a GPU: the signal is read once (its halo of W - 1 tokens twice), written once.

Shape letters: B batch, T time (tokens), D channel, W taps, S = T + W - 1; BT and BD edges of tiles.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.tiles import block_of, operand_type, tuned

TIME, CHANNELS = 64, 64


@tuned(4, 8, key=["T", "D"])
@triton.jit
def forward_kernel(
    x, taps, reach, y, T, D, W: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
    REACHES: tl.constexpr,
):  # fmt: skip
    """y[t] = sum over w of taps[w] x[t + W - 1 - w]."""
    b = tl.program_id(2).to(tl.int64)
    t, d = tl.program_id(0) * BT + tl.arange(0, BT), tl.program_id(1) * BD + tl.arange(0, BD)
    mask = (t[:, None] < T) & (d[None, :] < D)
    acc = tl.zeros((BT, BD), tl.float32)
    far = tl.full((BT,), W, tl.int32)
    if REACHES:
        far = tl.load(reach + b * T + t, mask=t < T, other=0).to(tl.int32)
    for w in tl.static_range(W):
        tap = tl.load(taps + w * D + d, mask=d < D, other=0.0).to(tl.float32)
        row = b * (T + W - 1) + t[:, None] + (W - 1 - w)
        X = tl.load(x + row * D + d[None, :], mask=mask & (far[:, None] >= w), other=0.0)
        acc += X.to(tl.float32) * tap[None, :]
    place = (b * T + t[:, None]) * D + d[None, :]
    tl.store(y + place, acc.to(y.dtype.element_ty), mask=mask)


@tuned(4, 8, key=["T", "D"])
@triton.jit
def backward_kernel(
    grad, x, taps, reach, dx, dtaps, T, D,
    W: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr, REACHES: tl.constexpr,
):  # fmt: skip
    """dx of T + W - 1 tokens, and the taps' gradient as one partial sum per tile."""
    tile, b = tl.program_id(0), tl.program_id(2).to(tl.int64)
    s, d = tile * BT + tl.arange(0, BT), tl.program_id(1) * BD + tl.arange(0, BD)
    inside = (s[:, None] < T + W - 1) & (d[None, :] < D)
    place = (b * (T + W - 1) + s[:, None]) * D + d[None, :]
    X = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    acc = tl.zeros((BT, BD), tl.float32)
    for w in tl.static_range(W):
        # the output that reads s with tap w
        t = s - (W - 1 - w)
        mask = (t >= 0) & (t < T)
        if REACHES:
            far = tl.load(reach + b * T + t, mask=mask, other=0).to(tl.int32)
            mask = mask & (far >= w)
        mask_BD = mask[:, None] & (d[None, :] < D)
        G = tl.load(grad + (b * T + t[:, None]) * D + d[None, :], mask=mask_BD, other=0.0)
        G = G.to(tl.float32)
        tap = tl.load(taps + w * D + d, mask=d < D, other=0.0).to(tl.float32)
        acc += G * tap[None, :]
        row = (b * tl.num_programs(0) + tile) * W + w
        tl.store(dtaps + row * D + d, tl.sum(G * X, axis=0), mask=d < D)
    tl.store(dx + place, acc.to(dx.dtype.element_ty), mask=inside)


def short_conv(x_BSD: Tensor, taps_WD: Tensor, reach_BT: Tensor | None) -> Tensor:
    """See `reference.short_conv`."""
    (B, S, D), W = x_BSD.shape, taps_WD.shape[0]
    operand_type(x_BSD)
    x_BSD, T = x_BSD.contiguous(), S - W + 1
    y_BTD = x_BSD.new_empty(B, T, D)
    BT, BD = block_of(T, TIME), block_of(D, CHANNELS)
    forward_kernel[(triton.cdiv(T, BT), triton.cdiv(D, BD), B)](
        x_BSD, taps_WD.contiguous(), _reach(reach_BT, x_BSD), y_BTD, T, D, W, BT, BD,
        reach_BT is not None,
    )  # fmt: skip
    return y_BTD


def short_conv_backward(
    grad_BTD: Tensor, x_BSD: Tensor, taps_WD: Tensor, reach_BT: Tensor | None
) -> tuple[Tensor, Tensor]:
    """See `reference.short_conv_backward`."""
    (B, S, D), W = x_BSD.shape, taps_WD.shape[0]
    operand_type(x_BSD)
    x_BSD = x_BSD.contiguous()
    BT, BD = block_of(S, TIME), block_of(D, CHANNELS)
    tiles = triton.cdiv(S, BT)
    dx_BSD = torch.empty_like(x_BSD)
    dtaps_BGWD = x_BSD.new_empty(B, tiles, W, D, dtype=torch.float32)
    backward_kernel[(tiles, triton.cdiv(D, BD), B)](
        grad_BTD.contiguous(), x_BSD, taps_WD.contiguous(), _reach(reach_BT, x_BSD), dx_BSD,
        dtaps_BGWD, S - W + 1, D, W, BT, BD, reach_BT is not None,
    )  # fmt: skip
    return dx_BSD, dtaps_BGWD.sum((0, 1)).to(taps_WD.dtype)


def _reach(reach_BT: Tensor | None, stand_in: Tensor) -> Tensor:
    # a kernel's pointer must point somewhere, also where it is not read
    return stand_in if reach_BT is None else reach_BT.contiguous()
