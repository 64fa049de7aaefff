"""`fft_conv` as a torch operator: opaque to autograd and torch.compile, so neither splits it."""

from typing import Any

import torch
from torch import Tensor

from kernels.dispatch import check_tensors, run
from kernels.fft_conv.reference import fft_conv as fft_conv_reference
from kernels.fft_conv.reference import fft_conv_backward as fft_conv_backward_reference


@torch.library.custom_op("resonance::fft_conv", mutates_args=())
def _fft_conv(u_DNC: Tensor, h_DC: Tensor) -> Tensor:
    return run(fft_conv_reference, u_DNC, h_DC)


@torch.library.custom_op("resonance::fft_conv_backward", mutates_args=())
def _fft_conv_backward(grad_DNC: Tensor, u_DNC: Tensor, h_DC: Tensor) -> tuple[Tensor, Tensor]:
    return run(fft_conv_backward_reference, grad_DNC, u_DNC, h_DC)


@_fft_conv.register_fake
def _(u_DNC: Tensor, h_DC: Tensor) -> Tensor:
    return u_DNC.new_empty(u_DNC.shape)


@_fft_conv_backward.register_fake
def _(grad_DNC: Tensor, u_DNC: Tensor, h_DC: Tensor) -> tuple[Tensor, Tensor]:
    return u_DNC.new_empty(u_DNC.shape), h_DC.new_empty(h_DC.shape)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad_DNC: Tensor) -> tuple[Tensor, Tensor]:
    return _fft_conv_backward(grad_DNC, *ctx.saved_tensors)


_fft_conv.register_autograd(_backward, setup_context=_setup_context)


def fft_conv(u_DNC: Tensor, h_DC: Tensor) -> Tensor:
    """Causal convolution of every chunk; see `kernels.fft_conv.reference.fft_conv`.

    Raises:
        ValueError: The filter's (D, C) differs from the signal's.
    """
    if u_DNC.ndim != 3 or h_DC.shape != (u_DNC.shape[0], u_DNC.shape[2]):
        raise ValueError(
            "fft_conv: expected a signal [D, N, C] and a filter [D, C], "
            f"got {tuple(u_DNC.shape)} and {tuple(h_DC.shape)}"
        )
    check_tensors("fft_conv", u_DNC, signal=u_DNC, filter=h_DC)
    return _fft_conv(u_DNC, h_DC)
