"""FLOPs, launches and gradcheck case of `matrix_scan`."""

import math
from typing import Any

import torch

from kernels.matrix_scan.op import matrix_scan
from kernels.op_info import GradcheckCase, LaunchCase, OpInfo, Shape, randn


def _scan(transition: Shape, update: Shape, *_: Any, **_keywords: Any) -> int:
    return 2 * math.prod(transition) * update[-1]


def _scan_backward(grad: Shape, _final: Any, transition: Shape, *_: Any, **_keywords: Any) -> int:
    # the recurrence backwards, and the gradient of its matrices
    return 4 * math.prod(transition) * grad[-1]


def _launches(_dtype: torch.dtype) -> list[LaunchCase]:
    """Launches on states, which are float32 whatever the dtype of signals."""
    from kernels.matrix_scan import triton

    state = torch.zeros(2, 32, 8, 64, 64)
    return [
        LaunchCase(triton.matrix_scan, (state, state, state[:, 0])),
        LaunchCase(triton.matrix_scan_backward, (state, state[:, 0], state, state)),
    ]


def _gradcheck() -> GradcheckCase:
    inputs = (randn(2, 4, 3, 4, 4), randn(2, 4, 3, 4, 2), randn(2, 3, 4, 2))
    return GradcheckCase("matrix_scan", matrix_scan, inputs, inputs)


INFO = OpInfo(
    flops={"matrix_scan": _scan, "matrix_scan_backward": _scan_backward},
    launches=_launches,
    gradchecks={"matrix_scan": _gradcheck},
    tensor_cores=True,
)
