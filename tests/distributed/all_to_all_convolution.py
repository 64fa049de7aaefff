"""The other way to convolve a sequence that is split over ranks: move it, then use one long FFT.

Each rank gives up its span of all channels for the whole sequence of some channels, convolves, and
gives them back: two all-to-alls of all activations. It serves filters that no sum of modes carries,
two-sided ones among them, and shows what exchanging states saves. A four-step FFT over ranks would
leave the channels in place and need four.

Shape letters: B batch, D channels, T time (tokens of the whole sequence), P ranks, L taps.

Source: context parallelism of StripedHyena 2 (Ku et al. 2025, arXiv 2503.01868, appendix A.2).
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pretrain.parallel.mesh import Axis


def long_convolution(u_BDS: Tensor, h_DL: Tensor, past: int, axis: Axis) -> Tensor:
    """Convolve a sequence of which this rank has one of P equal spans, by full-length FFT.

    y[t] = sum over l of h[l] u[t + past - l]: `past` = 0 is causal, larger ones see the future.

    Args:
        u_BDS: This rank's span, S = T / P tokens.
        h_DL: Filters of all channels, the same on every rank, at most T + past taps.
        past: Taps that reach into the future.
        axis: The sequence axis.

    Returns:
        This rank's span of y, as u_BDS.

    Raises:
        ValueError: The channels do not divide over the ranks.

    Cost: O(B D T log T / P) time; each way, B D T / P numbers leave the rank.
    """
    D = u_BDS.shape[1]
    if D % axis.size:
        raise ValueError(f"channels: expected a multiple of {axis.size} ranks, got {D}")
    u_BdT = exchanged(u_BDS, 1, 2, axis)
    h_dL = h_DL.chunk(axis.size, dim=0)[axis.rank]
    T, L = u_BdT.shape[-1], h_dL.shape[-1]
    n = T + L - 1
    y_BdN = torch.fft.irfft(torch.fft.rfft(u_BdT, n=n) * torch.fft.rfft(h_dL, n=n), n=n)
    return exchanged(y_BdN[..., past : past + T], 2, 1, axis)


def exchanged(x: Tensor, split: int, join: int, axis: Axis) -> Tensor:
    """Deal out the parts of `x` along one dimension; join what comes in along another."""
    found: Tensor = _AllToAll.apply(x, split, join, axis)
    return found


class _AllToAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, split: int, join: int, axis: Axis) -> Tensor:
        ctx.dims, ctx.axis = (split, join), axis
        return _all_to_all(x, split, join, axis)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        split, join = ctx.dims
        return _all_to_all(grad, join, split, ctx.axis), None, None, None


def _all_to_all(x: Tensor, split: int, join: int, axis: Axis) -> Tensor:
    sent = torch.stack(x.chunk(axis.size, dim=split))
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent, group=axis.group)
    return torch.cat(received.unbind(), dim=join)
