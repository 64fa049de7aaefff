"""Floating-point operations of torch's operators and of our own.

Multiply and add count as two; elementwise work is left out, as in `torch.utils.flop_counter`. The
formulas of our ops are in their `info.py`.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry, shape_wrapper

from kernels.op_info import Formula, op_infos

Shape = tuple[int, ...]


def op_formulas() -> dict[Any, Formula]:
    """Formulas of our ops by operator, as `FlopCounterMode(custom_mapping=...)` takes them."""
    return {
        getattr(torch.ops.resonance, name): formula
        for info in op_infos().values()
        for name, formula in info.flops.items()
    }


def formulas() -> dict[Any, Formula]:
    """Formulas of all operators, from their arguments and `out_val`."""
    ours = op_formulas() | {
        torch.ops.aten._fft_r2c: _real_transform,
        torch.ops.aten._fft_c2r: _real_transform,
        torch.ops.aten._fft_c2c: _transform,
    }
    return dict(flop_registry) | {op: shape_wrapper(formula) for op, formula in ours.items()}


def _transform(x: Shape, dim: Sequence[int], *_: Any, out_shape: Shape, **__: Any) -> int:
    points = math.prod(max(x[d], out_shape[d]) for d in dim)
    return round(5 * max(math.prod(x), math.prod(out_shape)) * math.log2(max(points, 2)))


def _real_transform(x: Shape, dim: Sequence[int], *_: Any, out_shape: Shape, **__: Any) -> int:
    return _transform(x, dim, out_shape=out_shape) // 2
