"""Depthwise causal convolution of a few taps, time-major.

Shape letters: B batch, T time (tokens), D channel, W taps, S = T + W - 1 tokens with their past.
"""

import torch
from torch import Tensor


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
    W = taps_WD.shape[0]
    T = x_BSD.shape[1] - W + 1
    y_BTD = x_BSD[:, W - 1 :] * taps_WD[0]
    for w in range(1, W):
        seen_BTD = x_BSD[:, W - 1 - w : W - 1 - w + T]
        if reach_BT is not None:
            seen_BTD = seen_BTD * (reach_BT >= w)[..., None]
        y_BTD.addcmul_(seen_BTD, taps_WD[w])
    return y_BTD


def short_conv_backward(
    grad_BTD: Tensor, x_BSD: Tensor, taps_WD: Tensor, reach_BT: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Gradients of `short_conv` with respect to the signal and the taps: (dx_BSD, dtaps_WD).

    Written by hand because autograd of slices fills and adds one tensor of zeros per tap: a third
    of the time on CPU.
    """
    W, (B, T, D) = taps_WD.shape[0], grad_BTD.shape
    dx_BSD = x_BSD.new_zeros(x_BSD.shape)
    dtaps_WD = torch.empty_like(taps_WD)
    product_BTD = torch.empty_like(grad_BTD, memory_format=torch.contiguous_format)
    for w in range(W):
        g_BTD = grad_BTD
        if reach_BT is not None and w > 0:
            g_BTD = grad_BTD * (reach_BT >= w)[..., None]
        past = slice(W - 1 - w, W - 1 - w + T)
        dx_BSD[:, past].addcmul_(g_BTD, taps_WD[w])
        torch.mul(g_BTD, x_BSD[:, past], out=product_BTD)
        # one contiguous axis: summing a strided pair of axes is 15 times slower on CPU
        dtaps_WD[w] = product_BTD.view(B * T, D).sum(0)
    return dx_BSD, dtaps_WD
