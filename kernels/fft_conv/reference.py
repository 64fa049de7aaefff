"""Causal convolution inside chunks by FFT: the definition that every fused kernel must match.

Shape letters: D channel, N rows (batch times chunks), C time inside a chunk, F = C + 1 bins of a
2C-point real FFT.
"""

import torch
from torch import Tensor

from kernels.blocks import cache_blocks
from kernels.precision import work_dtype


def fft_conv(u_DNC: Tensor, h_DC: Tensor) -> Tensor:
    """Causal convolution of every chunk of every channel with the channel's own filter.

    Both sides are zero-padded to 2C samples, so the circular convolution equals the linear one on
    the first C: y[t] depends on u[0..t] of its own chunk and nothing else. Half precision is
    transformed in float32: cuFFT and MKL have no bfloat16, and float16 only for powers of two.

    Args:
        u_DNC: Signal in chunks, any floating dtype.
        h_DC: Filter taps, lag 0 first, lag in tokens.

    Returns:
        y_DNC, in the dtype of the signal.

    Error: |y - y_direct| <= 1e-6 * ||h||_1 * max|u| in float32.
    Cost: O(D N C log C) time; a block's two spectra as scratch on CPU, all spectra on a GPU.
    Source: Poli et al. 2023, Hyena (arXiv 2302.10866).
    """
    C = u_DNC.shape[-1]
    # the scale 1/(2C) of the inverse transform is folded into the (small) filter spectrum
    h_D1F = torch.fft.rfft(h_DC.to(work_dtype(u_DNC)), n=2 * C, norm="forward")[:, None]
    y_DNC = torch.empty_like(u_DNC, memory_format=torch.contiguous_format)
    padded = _Padded(u_DNC)
    for block in _blocks(u_DNC):
        spectrum = padded.spectrum(u_DNC[block]).mul_(h_D1F[block[0]])
        y_DNC[block] = torch.fft.irfft(spectrum, n=2 * C, norm="forward")[..., :C]
    return y_DNC


def fft_conv_backward(grad_DNC: Tensor, u_DNC: Tensor, h_DC: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `fft_conv` with respect to the signal and the filter.

    A causal convolution's adjoint is the correlation with the same filter, so both gradients share
    the one spectrum of the incoming gradient; nothing but the inputs was saved.

    Args:
        grad_DNC: Gradient of the output.
        u_DNC: The signal of the forward pass.
        h_DC: The filter of the forward pass.

    Returns:
        (du_DNC, dh_DC) in the dtypes of u and h.

    Cost: two forward and two (one of them of D C samples only) inverse transforms.
    """
    C = u_DNC.shape[-1]
    h_D1F = torch.fft.rfft(h_DC.to(work_dtype(u_DNC)), n=2 * C, norm="forward")
    h_D1F = h_D1F.conj_physical_()[:, None]
    dh_DF = torch.zeros_like(h_D1F[:, 0])
    du_DNC = torch.empty_like(u_DNC, memory_format=torch.contiguous_format)
    padded = _Padded(u_DNC)
    for block in _blocks(u_DNC):
        g_dnF = padded.spectrum(grad_DNC[block])
        u_dnF = padded.spectrum(u_DNC[block])
        dh_DF[block[0]] += u_dnF.conj_physical_().mul_(g_dnF).sum(dim=1)
        g_dnF.mul_(h_D1F[block[0]])
        du_DNC[block] = torch.fft.irfft(g_dnF, n=2 * C, norm="forward")[..., :C]
    dh_DC = torch.fft.irfft(dh_DF, n=2 * C)[..., :C]
    return du_DNC, dh_DC.to(h_DC.dtype).contiguous()


class _Padded:
    """A block's samples followed by zeros, in memory that is reused for every block."""

    def __init__(self, u_DNC: Tensor):
        self.wide: Tensor | None = None
        self.dtype = work_dtype(u_DNC)

    def spectrum(self, x_dnC: Tensor) -> Tensor:
        """Real FFT of 2C points of every row."""
        d, n, C = x_dnC.shape
        if self.wide is None or self.wide.shape[:2] != (d, n):
            self.wide = x_dnC.new_zeros(d, n, 2 * C, dtype=self.dtype)
        self.wide[..., :C] = x_dnC
        return torch.fft.rfft(self.wide)


def _blocks(u_DNC: Tensor) -> list[tuple[slice, slice]]:
    """Channels and rows of each block."""
    D, N, C = u_DNC.shape
    return [
        (channels, rows)
        for channels in cache_blocks(D, N * C, u_DNC.device)
        for rows in cache_blocks(N, C, u_DNC.device)
    ]
