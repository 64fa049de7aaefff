"""FLOPs, launches and gradcheck case of `delta_write`."""

from typing import Any

import torch
import torch.nn.functional as F

from kernels.delta.op import delta_write
from kernels.delta.reference import SUBSTITUTED
from kernels.op_info import GradcheckCase, LaunchCase, OpInfo, Shape, randn


def _write(k: Shape, _e: Any, u: Shape, *_: Any, **_keywords: Any) -> int:
    N, H, C, K = k
    # scores, and the inverse's products with both right-hand sides
    return N * H * (_inverse(C) + 2 * C * C * (2 * K + u[-1]))


def _inverse(C: int) -> int:
    """Operations that join blocks on the diagonal; substitution inside of them counts as 0."""
    edge, total = min(SUBSTITUTED, C), 0
    size = edge
    while size < C:
        size *= 2
    while edge < size:
        total += 2 * size * edge * edge
        edge *= 2
    return total


def _write_backward(grad: Shape, _grad_lost: Any, k: Shape, *_: Any, **_keywords: Any) -> int:
    N, H, C, K = k
    # both right-hand sides and what they add to the gradient of the system; the scores again, and
    # the gradients of both of their factors
    return 2 * N * H * C * C * (5 * K + 2 * grad[-1])


def _launches(dtype: torch.dtype) -> list[LaunchCase]:
    from kernels.delta import triton

    k, total = torch.zeros(2, 4, 64, 64, dtype=dtype), torch.zeros(2, 4, 64)
    segment, inverse = torch.zeros(2, 64, dtype=torch.int64), torch.zeros(2, 4, 64, 64)
    inputs = (k, k, total, total, segment)
    return [
        LaunchCase(triton.delta_write, (k, *inputs)),
        LaunchCase(triton.delta_write_backward, (k, k, *inputs, k, k, inverse)),
    ]


def _gradcheck(C: int) -> GradcheckCase:
    segment = (torch.rand(2, C) < 0.2).cumsum(1)
    total = (-torch.rand(2, 2, C, dtype=torch.float64)).cumsum(-1).requires_grad_()
    k = F.normalize(randn(2, 2, C, 4), dim=-1).detach().requires_grad_()
    e = (1.5 * k.detach()).requires_grad_()
    inputs = (k, e, randn(2, 2, C, 3), total, randn(2, 2, C))
    return GradcheckCase(
        "delta_write",
        lambda k, e, u, total, read: delta_write(k, e, u, total, read, segment),
        inputs,
        (*inputs, segment),
    )


INFO = OpInfo(
    flops={"delta_write": _write, "delta_write_backward": _write_backward},
    launches=_launches,
    gradchecks={
        "delta_write": lambda: _gradcheck(5),
        "delta_write joined": lambda: _gradcheck(SUBSTITUTED + 2),
    },
)
