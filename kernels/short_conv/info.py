"""FLOPs, launches and gradcheck cases of `short_conv`."""

from functools import partial
from typing import Any

import torch

from kernels.op_info import GradcheckCase, LaunchCase, OpInfo, Shape, randn
from kernels.short_conv.op import short_conv


def _forward(x: Shape, _past: Any, taps: Shape, *_reach: Any, **_: Any) -> int:
    B, T, D = x
    return 2 * B * T * D * taps[0]


def _backward(_grad: Any, x: Shape, past: Shape, taps: Shape, *_reach: Any, **_: Any) -> int:
    # the gradients of the signal (with its past) and of the taps
    return 2 * _forward(x, past, taps)


def _launches(dtype: torch.dtype) -> list[LaunchCase]:
    from kernels.short_conv import triton

    signal, past = (torch.zeros(2, T, 512, dtype=dtype) for T in (64, 3))
    taps, reach = torch.zeros(4, 512), torch.zeros(2, 64, dtype=torch.int64)
    return [
        LaunchCase(triton.short_conv, (signal, past, taps, reach)),
        LaunchCase(triton.short_conv_backward, (signal, signal, past, taps, reach)),
    ]


def _gradcheck(B: int, T: int, reaches: bool) -> GradcheckCase:
    inputs = (randn(B, T, 3), randn(B, 3, 3), randn(4, 3))
    reach = torch.randint(0, 4, (B, T)) if reaches else None
    return GradcheckCase(
        "short_conv",
        lambda x, past, taps: short_conv(x, past, taps, reach),
        inputs,
        (*inputs, reach),
    )


INFO = OpInfo(
    flops={"short_conv": _forward, "short_conv_backward": _backward},
    launches=_launches,
    # one row and several; the last signal is shorter than its past
    gradchecks={
        f"short_conv {B} rows {T} tokens{' reach' * reaches}": partial(_gradcheck, B, T, reaches)
        for B, T in ((1, 6), (2, 6), (2, 2))
        for reaches in (False, True)
    },
)
