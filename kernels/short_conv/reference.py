"""Depthwise causal convolution of a few taps, time-major.

Shape letters: B batch, T time (tokens), D channel, W taps, S = T + W - 1 tokens with their past, E
tokens that may not see all of that.
"""

import torch
import torch.nn.functional as F
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
    W = taps_WD.shape[0]
    y_BTD = _depthwise(x_BSD, taps_WD.flip(0), padding=0)
    if reach_BT is not None:
        # tokens behind a border are few: computed again, so that nothing of the other side is left
        row_E, time_E = (reach_BT < W - 1).nonzero(as_tuple=True)
        y_ED = x_BSD.new_zeros(len(row_E), x_BSD.shape[2])
        for w in range(W):
            seen_E1 = reach_BT[row_E, time_E, None] >= w
            y_ED.addcmul_(x_BSD[row_E, time_E + (W - 1 - w)] * seen_E1, taps_WD[w])
        y_BTD[row_E, time_E] = y_ED
    return y_BTD


def short_conv_backward(
    grad_BTD: Tensor, x_BSD: Tensor, taps_WD: Tensor, reach_BT: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Gradients of `short_conv` with respect to the signal and the taps: (dx_BSD, dtaps_WD)."""
    (B, S, D), W = x_BSD.shape, taps_WD.shape[0]
    dtaps_WD = torch.zeros_like(taps_WD, dtype=torch.promote_types(taps_WD.dtype, torch.float32))
    if reach_BT is None:
        dx_BSD = _depthwise(grad_BTD, taps_WD, padding=W - 1)
        return dx_BSD, _taps_gradient(grad_BTD, x_BSD, dtaps_WD).to(taps_WD.dtype)
    row_E, time_E = (reach_BT < W - 1).nonzero(as_tuple=True)
    grad_ED, grad_BTD = grad_BTD[row_E, time_E], grad_BTD.clone()
    grad_BTD[row_E, time_E] = 0.0
    dx_BSD = _depthwise(grad_BTD, taps_WD, padding=W - 1)
    dtaps_WD = _taps_gradient(grad_BTD, x_BSD, dtaps_WD)
    for w in range(W):
        seen_ED = grad_ED * (reach_BT[row_E, time_E, None] >= w)
        past_E = row_E * S + time_E + (W - 1 - w)
        dx_BSD.view(B * S, D).index_add_(0, past_E, seen_ED * taps_WD[w])
        dtaps_WD[w] += (seen_ED * x_BSD[row_E, time_E + (W - 1 - w)]).sum(0)
    return dx_BSD, dtaps_WD.to(taps_WD.dtype)


def _depthwise(x_BSD: Tensor, taps_WD: Tensor, padding: int) -> Tensor:
    """y[t] = sum of taps[w] * x[t + w - padding], by PyTorch's own: one pass over memory."""
    x_BD1S = x_BSD.contiguous().transpose(1, 2)[:, :, None]
    taps_D11W = taps_WD.t()[:, None, None]
    y_BD1T = F.conv2d(x_BD1S, taps_D11W, padding=(0, padding), groups=x_BSD.shape[2])
    return y_BD1T[:, :, 0].transpose(1, 2).contiguous()


def _taps_gradient(grad_BTD: Tensor, x_BSD: Tensor, dtaps_WD: Tensor) -> Tensor:
    """Add sum over t of grad[t] * x[t - w] to every tap's gradient."""
    W, D = dtaps_WD.shape
    # a GPU has no use for small blocks
    size = max(1, BLOCK_ELEMENTS // D) if x_BSD.device.type == "cpu" else grad_BTD.shape[1]
    window_BTWD = x_BSD.unfold(1, W, 1).transpose(2, 3)
    sum_tWD = dtaps_WD.new_zeros(min(size, grad_BTD.shape[1]), W, D)
    for grad_TD, window_TWD in zip(grad_BTD, window_BTWD, strict=True):
        blocks = zip(grad_TD.split(size), window_TWD.split(size), strict=True)
        for grad_tD, window_tWD in blocks:
            sum_tWD[: len(grad_tD)].addcmul_(grad_tD[:, None], window_tWD)
    return dtaps_WD.add_(sum_tWD.sum(0).flip(0))
