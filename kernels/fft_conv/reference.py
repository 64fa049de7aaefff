"""Causal convolution inside chunks by FFT: the meaning that every fused kernel must match.

Shape letters: D channel, N rows (batch times chunks), C time inside a chunk, F = C + 1 bins of a
2C-point real FFT.
"""

import torch
from torch import Tensor


def _work_dtype(u: Tensor) -> torch.dtype:
    # cuFFT and MKL have no bfloat16, and float16 only for powers of two.
    return torch.float64 if u.dtype == torch.float64 else torch.float32


def fft_conv(u_DNC: Tensor, h_DC: Tensor) -> Tensor:
    """Convolve every chunk of every channel with the channel's own filter, causally.

    Both sides are zero-padded to 2C samples, so the circular convolution equals the linear one on
    the first C: y[t] sees u[0..t] of its own chunk and nothing else.

    Args:
        u_DNC: Signal in chunks, any floating dtype.
        h_DC: Filter taps, lag 0 first, lag in tokens.

    Returns:
        y_DNC, in the dtype of the signal.

    Error: |y - y_direct| <= 1e-6 * ||h||_1 * max|u| in float32.
    Cost: O(D N C log C) time; two spectra of 2 * D * N * F reals as scratch.
    Source: Poli et al. 2023, Hyena (arXiv 2302.10866).
    """
    C = u_DNC.shape[-1]
    dtype = _work_dtype(u_DNC)
    # The scale 1/(2C) of the inverse transform is folded into the (small) filter spectrum.
    h_DF = torch.fft.rfft(h_DC.to(dtype), n=2 * C, norm="forward")
    spectrum = torch.fft.rfft(u_DNC.to(dtype), n=2 * C).mul_(h_DF[:, None])
    y = torch.fft.irfft(spectrum, n=2 * C, norm="forward")
    return y[..., :C].to(u_DNC.dtype).contiguous()


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
    dtype = _work_dtype(u_DNC)
    g_DNF = torch.fft.rfft(grad_DNC.to(dtype), n=2 * C)
    u_DNF = torch.fft.rfft(u_DNC.to(dtype), n=2 * C)
    dh_DF = u_DNF.conj_physical_().mul_(g_DNF).sum(dim=1)
    dh = torch.fft.irfft(dh_DF, n=2 * C)[..., :C]
    h_DF = torch.fft.rfft(h_DC.to(dtype), n=2 * C, norm="forward")
    du = torch.fft.irfft(g_DNF.mul_(h_DF.conj()[:, None]), n=2 * C, norm="forward")[..., :C]
    return du.to(u_DNC.dtype).contiguous(), dh.to(h_DC.dtype).contiguous()
