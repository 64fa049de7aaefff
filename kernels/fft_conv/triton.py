"""`fft_conv` on a GPU: Toeplitz products for chunks up to 512, Monarch transforms up to 8,192."""

from types import ModuleType

from torch import Tensor

from kernels.dispatch import NotServedError
from kernels.fft_conv import triton_monarch as monarch
from kernels.fft_conv import triton_toeplitz as toeplitz


def fft_conv(u_DNC: Tensor, h_DC: Tensor) -> Tensor:
    """Kernel of `reference.fft_conv`. The signal is read once and written once."""
    return _served(u_DNC).convolve(u_DNC, h_DC, conj=False)


def fft_conv_backward(grad_DNC: Tensor, u_DNC: Tensor, h_DC: Tensor) -> tuple[Tensor, Tensor]:
    """Kernels of `reference.fft_conv_backward`: that of the adjoint, and the filter's own."""
    method = _served(u_DNC)
    du_DNC = method.convolve(grad_DNC.to(u_DNC.dtype), h_DC, conj=True)
    return du_DNC, method.filter_gradient(grad_DNC.to(u_DNC.dtype), u_DNC, h_DC)


def _served(u_DNC: Tensor) -> ModuleType:
    C = u_DNC.shape[-1]
    if C > monarch.MAX_CHUNK:
        raise NotServedError(f"expected a chunk of at most {monarch.MAX_CHUNK} tokens, got {C}")
    return toeplitz if C <= toeplitz.MAX_CHUNK else monarch
