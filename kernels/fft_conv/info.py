"""FLOPs, launches and gradcheck case of `fft_conv`."""

import math
from typing import Any

import torch

from kernels.fft_conv.op import fft_conv
from kernels.op_info import GradcheckCase, LaunchCase, OpInfo, Shape, randn

CHUNKS = (64, 512, 1024, 2048, 4096, 8192)
# float32 tiles of longer Monarch transforms do not fit into registers
CHUNKS_FLOAT32 = (64, 512, 1024, 2048)


def _transforms(number: int, C: int) -> int:
    """Operations of real transforms of 2C points: half of a complex one's 5 n log2 n."""
    return number * round(2.5 * 2 * C * math.log2(2 * C))


def _forward(u: Shape, _h: Any, **_: Any) -> int:
    D, N, C = u
    # every row there and back; the filters there
    return _transforms(2 * D * N + D, C)


def _backward(_grad: Any, u: Shape, _h: Any, **_: Any) -> int:
    D, N, C = u
    # signal and gradient of every row there, one back; the filters there, their gradients back
    return _transforms(3 * D * N + 2 * D, C)


def _launches(dtype: torch.dtype) -> list[LaunchCase]:
    from kernels.fft_conv.triton import fft_conv_backward

    cases = []
    for C in CHUNKS_FLOAT32 if dtype == torch.float32 else CHUNKS:
        u, h = torch.zeros(2, 16, C, dtype=dtype), torch.zeros(2, C)
        # forward and signal's gradient differ in the sign of a plane
        cases.append(LaunchCase(fft_conv_backward, (u, u, h), str(C)))
    return cases


def _gradcheck() -> GradcheckCase:
    inputs = (randn(2, 3, 7), randn(2, 7))
    return GradcheckCase("fft_conv", fft_conv, inputs, inputs)


INFO = OpInfo(
    flops={"fft_conv": _forward, "fft_conv_backward": _backward},
    launches=_launches,
    gradchecks={"fft_conv": _gradcheck},
    tensor_cores=True,
)
