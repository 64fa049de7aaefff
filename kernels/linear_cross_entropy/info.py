"""FLOPs, launches and gradcheck case of `linear_cross_entropy`."""

from typing import Any

import torch

import kernels.linear_cross_entropy.op  # noqa: F401  (registers the operator)
from kernels.op_info import GradcheckCase, LaunchCase, OpInfo, Shape, randn


def _flops(x: Shape, weight: Shape, _labels: Any, with_grad: bool, *_: Any, **__: Any) -> int:
    (N, D), V = x, weight[0]
    # the logits, and the gradients of hidden states and weight
    return (3 if with_grad else 1) * 2 * N * V * D


def _launches(dtype: torch.dtype) -> list[LaunchCase]:
    from kernels.linear_cross_entropy import triton

    x, weight = torch.zeros(128, 512, dtype=dtype), torch.zeros(32768, 512, dtype=dtype)
    labels = torch.zeros(128, dtype=torch.int64)
    return [LaunchCase(triton.linear_cross_entropy, (x, weight, labels, True, 1e-4))]


def _gradcheck() -> GradcheckCase:
    inputs, labels = (randn(3, 4), randn(5, 4)), torch.tensor([1, -100, 4])
    return GradcheckCase(
        "linear_cross_entropy",
        # the loss with its z-loss, whose gradient it is
        lambda x, weight: torch.ops.resonance.linear_cross_entropy(x, weight, labels, True, 0.1)[0],
        inputs,
        (*inputs, labels, True, 0.1),
    )


INFO = OpInfo(
    flops={"linear_cross_entropy": _flops},
    launches=_launches,
    gradchecks={"linear_cross_entropy": _gradcheck},
)
