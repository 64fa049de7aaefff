"""Floating-point operations of our own ops, for `torch.utils.flop_counter`.

Multiply and add count as two; elementwise work is left out, as it is there. Formulas take the
shapes of the arguments.
"""

import math
from collections.abc import Callable
from typing import Any

import torch

import kernels.fft_conv.op
import kernels.linear_cross_entropy.op
import kernels.modal.op
import kernels.recall.op  # noqa: F401

Shape = tuple[int, ...]


def op_formulas() -> dict[Any, Callable[..., int]]:
    """Formulas by op, as `FlopCounterMode(custom_mapping=...)` takes them."""
    return {getattr(torch.ops.resonance, name): found for name, found in _FORMULAS.items()}


def _fft_conv(u: Shape, _h: Shape, *_rest: Any, **_: Any) -> int:
    rows, points = math.prod(u[:-1]), 2 * u[-1]
    # a real transform there, one back, each half of a complex one's 5 n log2 n
    return round(2 * rows * 2.5 * points * math.log2(max(points, 2)))


def _times(number: int, formula: Callable[..., int], first: int) -> Callable[..., int]:
    """A backward pass of `number` such products, whose shapes begin at argument `first`."""
    return lambda *shapes, **kwargs: number * formula(*shapes[first:], **kwargs)


def _modal_state(u: Shape, log_lambda: Shape, *_rest: Any, **_: Any) -> int:
    # [D, N, C] times [D, C, 2 M]
    return 2 * math.prod(u) * 2 * log_lambda[1]


def _modal_state_backward(_grad: Shape, u: Shape, fine: Shape, *_rest: Any, **_: Any) -> int:
    return 2 * _modal_state(u, (fine[0], fine[2]))


def _modal_read(state: Shape, *_rest: Any, out_shape: Any = None, **_: Any) -> int:
    # [D, N, 2 M] times [D, 2 M, C]
    return 2 * math.prod(out_shape) * 2 * state[2]


def _modal_read_backward(grad: Shape, state: Shape, *_rest: Any, **_: Any) -> int:
    return 2 * 2 * math.prod(grad) * 2 * state[2]


def _recall_product(q: Shape, v: Shape) -> int:
    # [C, K] times [K, V], or [K, C] times [C, V], for every row and head
    return 2 * math.prod(q) * v[-1]


def _recall_state(k: Shape, v: Shape, *_rest: Any, **_: Any) -> int:
    return _recall_product(k, v)


def _recall_read(q: Shape, _weight: Shape, state: Shape, *_rest: Any, **_: Any) -> int:
    return _recall_product(q, state)


def _recall_local(q: Shape, _k: Shape, v: Shape, *_rest: Any, **_: Any) -> int:
    return 2 * math.prod(q[:-1]) * q[-2] * (q[-1] + v[-1])


def _linear_cross_entropy(
    x: Shape, weight: Shape, _labels: Shape, with_grad: bool, **_: Any
) -> int:
    return (3 if with_grad else 1) * 2 * x[0] * weight[0] * weight[1]


_FORMULAS: dict[str, Callable[..., int]] = {
    "fft_conv": _fft_conv,
    # three transforms there, two back
    "fft_conv_backward": lambda _grad, u, h, **_: 5 * _fft_conv(u, h) // 2,
    "modal_state": _modal_state,
    "modal_state_backward": _modal_state_backward,
    "modal_read": _modal_read,
    "modal_read_backward": _modal_read_backward,
    "recall_state": _recall_state,
    "recall_state_backward": _times(2, _recall_state, first=1),
    "recall_read": _recall_read,
    "recall_read_backward": _times(2, _recall_read, first=1),
    "recall_local": _recall_local,
    # the weights again, and the gradients of four products
    "recall_local_backward": _times(3, _recall_local, first=1),
    "linear_cross_entropy": _linear_cross_entropy,
}
