"""FLOPs, launches and gradcheck cases of the chunk products of recall heads."""

import math
from typing import Any

import torch

from kernels.op_info import GradcheckCase, LaunchCase, OpInfo, Shape, randn
from kernels.recall.op import recall_local, recall_read, recall_state


def _product(k: Shape, V: int) -> int:
    """Operations of a product [C, K] times [K, V], or [K, C] times [C, V], per row and head."""
    return 2 * math.prod(k) * V


def _state(k: Shape, v: Shape, *_: Any, **_keywords: Any) -> int:
    return _product(k, v[-1])


def _state_backward(_grad: Any, k: Shape, v: Shape, *_: Any, **_keywords: Any) -> int:
    # the gradients of keys and values
    return 2 * _product(k, v[-1])


def _read(q: Shape, _weight: Any, state: Shape, *_: Any, **_keywords: Any) -> int:
    return _product(q, state[-1])


def _read_backward(_grad: Any, q: Shape, _weight: Any, state: Shape, **_: Any) -> int:
    # the gradients of queries and state
    return 2 * _product(q, state[-1])


def _local(q: Shape, _k: Any, v: Shape, *_: Any, **_keywords: Any) -> int:
    N, H, C, K = q
    # scores, and their product with the values
    return 2 * N * H * C * C * (K + v[-1])


def _local_backward(_grad: Any, q: Shape, _k: Any, v: Shape, *_: Any, **_keywords: Any) -> int:
    N, H, C, K = q
    # scores again and the gradients of queries and keys; the gradients of scores and values
    return 2 * N * H * C * C * (3 * K + 2 * v[-1])


def _launches(dtype: torch.dtype) -> list[LaunchCase]:
    from kernels.recall import triton

    q, total = torch.zeros(2, 4, 64, 64, dtype=dtype), torch.zeros(2, 4, 64)
    segment, state = torch.zeros(2, 64, dtype=torch.int64), torch.zeros(2, 4, 64, 64)
    return [
        LaunchCase(triton.recall_state, (q, q, total)),
        LaunchCase(triton.recall_state_backward, (state, q, q, total)),
        LaunchCase(triton.recall_read, (q, total, state, q)),
        LaunchCase(triton.recall_read_backward, (q, q, total, state)),
        LaunchCase(triton.recall_local, (q, q, q, total, segment)),
        LaunchCase(triton.recall_local_backward, (q, q, q, q, total, segment)),
    ]


def _gradcheck_state() -> GradcheckCase:
    inputs = (randn(2, 2, 5, 4), randn(2, 2, 5, 3), randn(2, 2, 5))
    return GradcheckCase("recall_state", recall_state, inputs, inputs)


def _gradcheck_read() -> GradcheckCase:
    inputs = (randn(2, 2, 5, 4), randn(2, 2, 5), randn(2, 2, 4, 3), randn(2, 2, 5, 3))
    return GradcheckCase("recall_read", recall_read, inputs, inputs)


def _gradcheck_local() -> GradcheckCase:
    segment = torch.tensor([[0, 0, 1, 1, 1], [2, 3, 3, 3, 4]])
    total = (-torch.rand(2, 2, 5, dtype=torch.float64)).cumsum(-1).requires_grad_()
    inputs = (randn(2, 2, 5, 4), randn(2, 2, 5, 4), randn(2, 2, 5, 3), total)
    return GradcheckCase(
        "recall_local",
        lambda q, k, v, total: recall_local(q, k, v, total, segment),
        inputs,
        (*inputs, segment),
    )


INFO = OpInfo(
    flops={
        "recall_state": _state,
        "recall_state_backward": _state_backward,
        "recall_read": _read,
        "recall_read_backward": _read_backward,
        "recall_local": _local,
        "recall_local_backward": _local_backward,
    },
    launches=_launches,
    gradchecks={
        "recall_state": _gradcheck_state,
        "recall_read": _gradcheck_read,
        "recall_local": _gradcheck_local,
    },
    tensor_cores=True,
)
