"""`short_conv` on a GPU: the signal is read once (its halo of W - 1 tokens twice), written once.

Shape letters: B batch, T time (tokens), D channel, W taps, P = W - 1 tokens before the signal; BT
and BD edges of tiles.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.triton_common import block_of, operand_type, tuned

TIME, CHANNELS = 64, 64


@triton.jit
def load_tokens(x, past, b, t, d, D, row, batch, P: tl.constexpr, mask):
    """Signal at times t, which may be before its beginning: [BT, BD] in float32."""
    inside, before = mask & (t[:, None] >= 0), mask & (t[:, None] < 0)
    X = tl.load(x + b * batch + t[:, None].to(tl.int64) * row + d[None, :], mask=inside, other=0.0)
    place = (b * P + P + t[:, None]) * D + d[None, :]
    return X.to(tl.float32) + tl.load(past + place, mask=before, other=0.0).to(tl.float32)


@tuned(4, 8, key=["T", "D"])
@triton.jit
def forward_kernel(
    x, past, taps, reach, y, T, D, row, batch,
    W: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr, REACHES: tl.constexpr,
):  # fmt: skip
    """Output y[t], the sum over w of taps[w] x[t - w]."""
    b = tl.program_id(2).to(tl.int64)
    t, d = tl.program_id(0) * BT + tl.arange(0, BT), tl.program_id(1) * BD + tl.arange(0, BD)
    mask = (t[:, None] < T) & (d[None, :] < D)
    acc = tl.zeros((BT, BD), tl.float32)
    far = tl.full((BT,), W, tl.int32)
    if REACHES:
        far = tl.load(reach + b * T + t, mask=t < T, other=0).to(tl.int32)
    for w in tl.static_range(W):
        tap = tl.load(taps + w * D + d, mask=d < D, other=0.0).to(tl.float32)
        reached = mask & (far[:, None] >= w)
        acc += load_tokens(x, past, b, t - w, d, D, row, batch, W - 1, reached) * tap[None, :]
    place = (b * T + t[:, None]) * D + d[None, :]
    tl.store(y + place, acc.to(y.dtype.element_ty), mask=mask)


@tuned(4, 8, key=["T", "D"])
@triton.jit
def backward_kernel(
    grad, x, past, taps, reach, dx, dpast, dtaps, T, D, row, batch,
    W: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr, REACHES: tl.constexpr,
):  # fmt: skip
    """Gradients of signal and past, and of the taps as one partial sum per tile."""
    tile, b = tl.program_id(0), tl.program_id(2).to(tl.int64)
    # a tile's tokens begin W - 1 before the signal
    s, d = tile * BT + tl.arange(0, BT) - (W - 1), tl.program_id(1) * BD + tl.arange(0, BD)
    inside = (s[:, None] < T) & (d[None, :] < D)
    X = load_tokens(x, past, b, s, d, D, row, batch, W - 1, inside)
    acc = tl.zeros((BT, BD), tl.float32)
    for w in tl.static_range(W):
        # the output that reads s with tap w
        t = s + w
        mask = (t >= 0) & (t < T)
        if REACHES:
            far = tl.load(reach + b * T + t, mask=mask, other=0).to(tl.int32)
            mask = mask & (far >= w)
        mask_BD = mask[:, None] & (d[None, :] < D)
        G = tl.load(grad + (b * T + t[:, None]) * D + d[None, :], mask=mask_BD, other=0.0)
        G = G.to(tl.float32)
        tap = tl.load(taps + w * D + d, mask=d < D, other=0.0).to(tl.float32)
        acc += G * tap[None, :]
        part = (b * tl.num_programs(0) + tile) * W + w
        tl.store(dtaps + part * D + d, tl.sum(G * X, axis=0), mask=d < D)
    dX = acc.to(dx.dtype.element_ty)
    in_signal, before = inside & (s[:, None] >= 0), inside & (s[:, None] < 0)
    tl.store(dx + (b * T + s[:, None]) * D + d[None, :], dX, mask=in_signal)
    tl.store(dpast + (b * (W - 1) + W - 1 + s[:, None]) * D + d[None, :], dX, mask=before)


def short_conv(x_BTD: Tensor, past_BPD: Tensor, taps_WD: Tensor, reach_BT: Tensor | None) -> Tensor:
    """Kernel of `reference.short_conv`."""
    (B, T, D), W = x_BTD.shape, taps_WD.shape[0]
    operand_type(x_BTD)
    x_BTD, y_BTD = _rows(x_BTD), x_BTD.new_empty(B, T, D)
    BT, BD = block_of(T, TIME), block_of(D, CHANNELS)
    forward_kernel[(triton.cdiv(T, BT), triton.cdiv(D, BD), B)](
        x_BTD, past_BPD.contiguous(), taps_WD.contiguous(), _reach(reach_BT, x_BTD), y_BTD, T, D,
        x_BTD.stride(1), x_BTD.stride(0), W, BT, BD, reach_BT is not None,
    )  # fmt: skip
    return y_BTD


def short_conv_backward(
    grad_BTD: Tensor,
    x_BTD: Tensor,
    past_BPD: Tensor,
    taps_WD: Tensor,
    reach_BT: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Kernels of `reference.short_conv_backward`."""
    (B, T, D), W = x_BTD.shape, taps_WD.shape[0]
    operand_type(x_BTD)
    x_BTD, S = _rows(x_BTD), T + W - 1
    BT, BD = block_of(S, TIME), block_of(D, CHANNELS)
    tiles = triton.cdiv(S, BT)
    dx_BTD, dpast_BPD = x_BTD.new_empty(B, T, D), past_BPD.new_empty(past_BPD.shape)
    dtaps_BGWD = x_BTD.new_empty(B, tiles, W, D, dtype=torch.float32)
    backward_kernel[(tiles, triton.cdiv(D, BD), B)](
        grad_BTD.contiguous(), x_BTD, past_BPD.contiguous(), taps_WD.contiguous(),
        _reach(reach_BT, x_BTD), dx_BTD, dpast_BPD, dtaps_BGWD, T, D, x_BTD.stride(1),
        x_BTD.stride(0), W, BT, BD, reach_BT is not None,
    )  # fmt: skip
    return dx_BTD, dpast_BPD, dtaps_BGWD.sum((0, 1)).to(taps_WD.dtype)


def _rows(x_BTD: Tensor) -> Tensor:
    # tokens may have any stride: the signal is a part of a wider projection
    return x_BTD if x_BTD.stride(2) == 1 else x_BTD.contiguous()


def _reach(reach_BT: Tensor | None, stand_in: Tensor) -> Tensor:
    # a kernel needs a valid pointer even where it does not read it
    return stand_in if reach_BT is None else reach_BT.contiguous()
