"""Depthwise causal convolution of a few taps, time-major.

Shape letters: B batch, T time (tokens), D channel, W taps, P = W - 1 tokens before the signal, S
tokens of a signal with its past, E tokens that may not read all of their past, n = min(P, T).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.blocks import cache_blocks
from kernels.precision import full_precision


def short_conv(x_BTD: Tensor, past_BPD: Tensor, taps_WD: Tensor, reach_BT: Tensor | None) -> Tensor:
    """The sum over w <= reach[t] of taps[w] * x[t - w], for every token t.

    Args:
        x_BTD: Signal.
        past_BPD: The W - 1 tokens before it.
        taps_WD: Filter of each channel, lag 0 first.
        reach_BT: Number of earlier tokens that each token may read (integers); None for all.

    Returns:
        y_BTD.

    Cost: O(B T D W).
    """
    (B, T, D), (W, P) = x_BTD.shape, (taps_WD.shape[0], past_BPD.shape[1])
    dtype = x_BTD.dtype
    x_BTD, past_BPD, taps_WD = (full_precision(i) for i in (x_BTD, past_BPD, taps_WD))
    lags_WD = taps_WD.flip(0)
    # rows one after the other; tokens that read another row's end are computed again
    y_BTD = _depthwise(x_BTD.reshape(1, B * T, D), lags_WD, P)[:, : B * T].view(B, T, D)
    if P:
        y_BTD[:, :P] = _depthwise(torch.cat([past_BPD, x_BTD[:, :P]], dim=1), lags_WD, 0)
    if reach_BT is not None:
        # tokens after a border are few: computed again, so that nothing crosses the border
        row_E, time_E = (reach_BT < P).nonzero(as_tuple=True)
        y_ED = x_BTD.new_zeros(len(row_E), D)
        for w in range(W):
            reaches_E1 = reach_BT[row_E, time_E, None] >= w
            y_ED.addcmul_(_tokens(x_BTD, past_BPD, row_E, time_E - w) * reaches_E1, taps_WD[w])
        y_BTD[row_E, time_E] = y_ED
    return y_BTD.to(dtype)


def short_conv_backward(
    grad_BTD: Tensor,
    x_BTD: Tensor,
    past_BPD: Tensor,
    taps_WD: Tensor,
    reach_BT: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `short_conv`: (dx_BTD, dpast_BPD, dtaps_WD)."""
    (B, T, D), (W, P) = x_BTD.shape, (taps_WD.shape[0], past_BPD.shape[1])
    dtypes = x_BTD.dtype, past_BPD.dtype, taps_WD.dtype
    grad_BTD, x_BTD, past_BPD, taps_WD = (
        full_precision(i) for i in (grad_BTD, x_BTD, past_BPD, taps_WD)
    )
    if reach_BT is not None:
        row_E, time_E = (reach_BT < P).nonzero(as_tuple=True)
        grad_ED, grad_BTD = grad_BTD[row_E, time_E], grad_BTD.clone()
        grad_BTD[row_E, time_E] = 0.0
    dx_1SD = _depthwise(grad_BTD.reshape(1, B * T, D), taps_WD, P)
    dpast_BPD, dx_BTD = dx_1SD[:, :P].repeat(B, 1, 1), dx_1SD[:, P:].view(B, T, D)
    dtaps_WD = torch.zeros_like(taps_WD)
    _add_taps_gradient(dtaps_WD, grad_BTD[:, P:], x_BTD)
    if P:
        first_BnD = grad_BTD[:, :P]
        _add_taps_gradient(dtaps_WD, first_BnD, torch.cat([past_BPD, x_BTD[:, :P]], dim=1))
    if P and B > 1:
        # a row's end is not read by the next row
        dx_BTD[:, -P:] = _depthwise(F.pad(grad_BTD[:, -P:], (0, 0, 0, P)), taps_WD, 0)
        ahead_BTD = F.pad(first_BnD, (0, 0, P, P - first_BnD.shape[1]))
        dpast_BPD = _depthwise(ahead_BTD, taps_WD, 0)
    if reach_BT is not None:
        for w in range(W):
            tap_grad_ED = grad_ED * (reach_BT[row_E, time_E, None] >= w)
            source_E = time_E - w
            dtaps_WD[w] += (tap_grad_ED * _tokens(x_BTD, past_BPD, row_E, source_E)).sum(0)
            tap_grad_ED *= taps_WD[w]
            in_signal_E1 = source_E[:, None] >= 0
            place_E = row_E * T + source_E.clamp(min=0)
            dx_BTD.view(B * T, D).index_add_(0, place_E, tap_grad_ED * in_signal_E1)
            place_E = row_E * P + P + source_E.clamp(max=-1)
            dpast_BPD.view(B * P, D).index_add_(0, place_E, tap_grad_ED * ~in_signal_E1)
    return dx_BTD.to(dtypes[0]), dpast_BPD.to(dtypes[1]), dtaps_WD.to(dtypes[2])


def _tokens(x_BTD: Tensor, past_BPD: Tensor, row_E: Tensor, time_E: Tensor) -> Tensor:
    """Tokens of the signal at given times, which may be before its beginning."""
    signal_ED, past_ED = x_BTD[row_E, time_E.clamp(min=0)], past_BPD[row_E, time_E.clamp(max=-1)]
    return torch.where(time_E[:, None] >= 0, signal_ED, past_ED)


def _depthwise(x_BSD: Tensor, taps_WD: Tensor, padding: int) -> Tensor:
    """The sum over w of taps[w] * x[t + w - padding], in one pass over memory by `F.conv2d`."""
    x_BD1S = x_BSD.contiguous().transpose(1, 2)[:, :, None]
    taps_D11W = taps_WD.t()[:, None, None]
    y_BD1T = F.conv2d(x_BD1S, taps_D11W, padding=(0, padding), groups=x_BSD.shape[2])
    return y_BD1T[:, :, 0].transpose(1, 2).contiguous()


def _add_taps_gradient(dtaps_WD: Tensor, grad_BTD: Tensor, x_BSD: Tensor) -> None:
    """Add sum over t of grad[t] * x[t + W - 1 - w] to every tap's gradient."""
    W, D = dtaps_WD.shape
    T = grad_BTD.shape[1]
    if T == 0:
        return
    # a block is read once from memory and W times from the cache
    blocks = cache_blocks(T, D, x_BSD.device)
    window_BTWD = x_BSD.unfold(1, W, 1).transpose(2, 3)
    sum_tWD = dtaps_WD.new_zeros(min(blocks[0].stop, T), W, D)
    for grad_TD, window_TWD in zip(grad_BTD, window_BTWD, strict=True):
        for block in blocks:
            grad_tD = grad_TD[block]
            sum_tWD[: len(grad_tD)].addcmul_(grad_tD[:, None], window_TWD[block])
    dtaps_WD.add_(sum_tWD.sum(0).flip(0))
