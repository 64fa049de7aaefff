"""`short_conv` as a torch operator with its own backward."""

from typing import Any

import torch
from torch import Tensor

from kernels.dispatch import check_tensors, run
from kernels.short_conv.reference import short_conv as short_conv_reference
from kernels.short_conv.reference import short_conv_backward as short_conv_backward_reference


@torch.library.custom_op("resonance::short_conv", mutates_args=())
def _short_conv(x: Tensor, taps: Tensor, reach: Tensor | None) -> Tensor:
    return run(short_conv_reference, x, taps, reach)


@torch.library.custom_op("resonance::short_conv_backward", mutates_args=())
def _short_conv_backward(
    grad: Tensor, x: Tensor, taps: Tensor, reach: Tensor | None
) -> tuple[Tensor, Tensor]:
    return run(short_conv_backward_reference, grad, x, taps, reach)


@_short_conv.register_fake
def _(x: Tensor, taps: Tensor, reach: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1] - taps.shape[0] + 1, x.shape[2])


@_short_conv_backward.register_fake
def _(grad: Tensor, x: Tensor, taps: Tensor, reach: Tensor | None) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), taps.new_empty(taps.shape)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    return *_short_conv_backward(grad, *ctx.saved_tensors), None


_short_conv.register_autograd(_backward, setup_context=_setup_context)


def short_conv(x_BSD: Tensor, taps_WD: Tensor, reach_BT: Tensor | None = None) -> Tensor:
    """Convolve each channel with its own few taps; see `reference.short_conv`.

    Raises:
        ValueError: The shapes do not fit together.
    """
    B, S, D = x_BSD.shape
    W = taps_WD.shape[0]
    if taps_WD.shape != (W, D) or S < W:
        raise ValueError(
            "short_conv: expected a signal [B, T + W - 1, D] with T >= 1 and taps [W, D], "
            f"got {tuple(x_BSD.shape)} and {tuple(taps_WD.shape)}"
        )
    if reach_BT is not None and reach_BT.shape != (B, S - W + 1):
        raise ValueError(
            f"short_conv: expected reach {(B, S - W + 1)}, got {tuple(reach_BT.shape)}"
        )
    check_tensors("short_conv", x_BSD, signal=x_BSD, taps=taps_WD, reach=reach_BT)
    return _short_conv(x_BSD, taps_WD, reach_BT)
