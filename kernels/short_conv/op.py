"""`short_conv` as a torch operator with its own backward."""

from typing import Any

import torch
from torch import Tensor

from kernels.dispatch import check_tensors, run
from kernels.short_conv.reference import short_conv as short_conv_reference
from kernels.short_conv.reference import short_conv_backward as short_conv_backward_reference


@torch.library.custom_op("resonance::short_conv", mutates_args=())
def _short_conv(x: Tensor, past: Tensor, taps: Tensor, reach: Tensor | None) -> Tensor:
    return run(short_conv_reference, x, past, taps, reach)


@torch.library.custom_op("resonance::short_conv_backward", mutates_args=())
def _short_conv_backward(
    grad: Tensor, x: Tensor, past: Tensor, taps: Tensor, reach: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    return run(short_conv_backward_reference, grad, x, past, taps, reach)


@_short_conv.register_fake
def _(x: Tensor, past: Tensor, taps: Tensor, reach: Tensor | None) -> Tensor:
    return x.new_empty(x.shape)


@_short_conv_backward.register_fake
def _(
    grad: Tensor, x: Tensor, past: Tensor, taps: Tensor, reach: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), past.new_empty(past.shape), taps.new_empty(taps.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_short_conv_backward(grad, *ctx.saved_tensors), None


_short_conv.register_autograd(_backward, setup_context=_setup_context)


def short_conv(
    x_BTD: Tensor, past_BPD: Tensor, taps_WD: Tensor, reach_BT: Tensor | None = None
) -> Tensor:
    """Convolution of each channel with its own few taps; see `reference.short_conv`.

    Raises:
        ValueError: The shapes or dtypes do not fit together.
    """
    B, T, D = x_BTD.shape
    W = taps_WD.shape[0]
    if T < 1 or taps_WD.shape != (W, D) or past_BPD.shape != (B, W - 1, D):
        raise ValueError(
            "short_conv: expected a signal [B, T, D] with T >= 1, taps [W, D] and a past "
            f"[B, W - 1, D], got {tuple(x_BTD.shape)}, {tuple(taps_WD.shape)} and "
            f"{tuple(past_BPD.shape)}"
        )
    if past_BPD.dtype != x_BTD.dtype:
        raise ValueError(
            f"short_conv: expected a past of {x_BTD.dtype}, as the signal, got {past_BPD.dtype}"
        )
    if reach_BT is not None and reach_BT.shape != (B, T):
        raise ValueError(f"short_conv: expected reach {(B, T)}, got {tuple(reach_BT.shape)}")
    check_tensors("short_conv", x_BTD, signal=x_BTD, past=past_BPD, taps=taps_WD, reach=reach_BT)
    return _short_conv(x_BTD, past_BPD, taps_WD, reach_BT)
