"""Depthwise causal convolution of a few taps, time-major.

Shape letters: B batch, T time (tokens), D channel, W taps, S = T + W - 1 tokens with their past.
"""

import torch
from torch import Tensor

# channels times tokens that are worked on at a time on CPU: a block is read once from memory and
# W times from the cache
BLOCK_ELEMENTS = 1 << 16


def short_conv(x_BSD: Tensor, taps_WD: Tensor, reach_BT: Tensor | None) -> Tensor:
    """y[t] = sum over w <= reach[t] of taps[w] * x[t - w].

    Args:
        x_BSD: Signal, with the W - 1 tokens before it in front.
        taps_WD: Filter of each channel, lag 0 first.
        reach_BT: How many earlier tokens each token may see (integers); None: all of them.

    Returns:
        y_BTD.

    Cost: O(B T D W).
    """
    (B, S, D), W = x_BSD.shape, taps_WD.shape[0]
    y_BTD = x_BSD.new_empty(B, S - W + 1, D)
    for row, time in _blocks(y_BTD):
        x_sD, y_tD = x_BSD[row, time.start : time.stop + W - 1], y_BTD[row, time]
        torch.mul(x_sD[W - 1 :], taps_WD[0], out=y_tD)
        for w in range(1, W):
            seen_tD = x_sD[W - 1 - w : W - 1 - w + len(y_tD)]
            if reach_BT is not None:
                seen_tD = seen_tD * (reach_BT[row, time, None] >= w)
            y_tD.addcmul_(seen_tD, taps_WD[w])
    return y_BTD


def short_conv_backward(
    grad_BTD: Tensor, x_BSD: Tensor, taps_WD: Tensor, reach_BT: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Gradients of `short_conv` with respect to the signal and the taps: (dx_BSD, dtaps_WD).

    Written by hand because autograd of slices fills and adds one tensor of zeros per tap.
    """
    W = taps_WD.shape[0]
    dx_BSD = x_BSD.new_zeros(x_BSD.shape)
    dtaps_WD = torch.zeros_like(taps_WD, dtype=torch.promote_types(taps_WD.dtype, torch.float32))
    for row, time in _blocks(grad_BTD):
        x_sD = x_BSD[row, time.start : time.stop + W - 1]
        dx_sD = dx_BSD[row, time.start : time.stop + W - 1]
        for w in range(W):
            grad_tD = grad_BTD[row, time]
            if reach_BT is not None and w > 0:
                grad_tD = grad_tD * (reach_BT[row, time, None] >= w)
            past = slice(W - 1 - w, W - 1 - w + len(grad_tD))
            dx_sD[past].addcmul_(grad_tD, taps_WD[w])
            dtaps_WD[w] += (grad_tD * x_sD[past]).sum(0)
    return dx_BSD, dtaps_WD.to(taps_WD.dtype)


def _blocks(y_BTD: Tensor) -> list[tuple[int, slice]]:
    B, T, D = y_BTD.shape
    # a GPU has no use for small blocks
    size = max(1, BLOCK_ELEMENTS // D) if y_BTD.device.type == "cpu" else T
    begins = range(0, T, size)
    return [(b, slice(begin, min(begin + size, T))) for b in range(B) for begin in begins]
