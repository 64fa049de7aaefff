"""FLOPs, launches and gradcheck case of `linear_cross_entropy`."""

from typing import Any

import torch

from kernels.linear_cross_entropy.op import linear_cross_entropy
from kernels.op_info import GradcheckCase, LaunchCase, OpInfo, Shape, randn


def _flops(x: Shape, weight: Shape, _labels: Any, with_grad: bool, **_: Any) -> int:
    (N, D), V = x, weight[0]
    # the logits, and the gradients of hidden states and weight
    return (3 if with_grad else 1) * 2 * N * V * D


def _launches(dtype: torch.dtype) -> list[LaunchCase]:
    from kernels.linear_cross_entropy import triton

    x, weight = torch.zeros(128, 512, dtype=dtype), torch.zeros(32768, 512, dtype=dtype)
    labels = torch.zeros(128, dtype=torch.int64)
    return [LaunchCase(triton.linear_cross_entropy, (x, weight, labels, True))]


def _gradcheck() -> GradcheckCase:
    inputs, labels = (randn(3, 4), randn(5, 4)), torch.tensor([1, -100, 4])
    return GradcheckCase(
        "linear_cross_entropy",
        lambda x, weight: linear_cross_entropy(x, weight, labels),
        inputs,
        (*inputs, labels, True),
    )


INFO = OpInfo(
    flops={"linear_cross_entropy": _flops},
    launches=_launches,
    gradchecks={"linear_cross_entropy": _gradcheck},
)
