"""Floating-point operations of torch's operators and of our own.

Multiply and add count as two; elementwise work is left out, as in `torch.utils.flop_counter`. The
formulas of our ops are in their `info.py`.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, shape_wrapper

from kernels.op_info import Formula, op_infos
from pretrain.runtime.fake_values import RESULTS, without_masks
from spectral.layout import ExpertDispatch

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


class EvenDispatch(ExpertDispatch):
    """As many rows for each expert: a model without data has no others."""

    def numbers(self, counts: Tensor, rows: int) -> Any:
        """Equal parts of the rows, up to one."""
        each, more = divmod(rows, counts.numel())
        return [each + (number < more) for number in range(counts.numel())]


class FlopCounter(TorchDispatchMode):
    """Context that counts operations on fake tensors; our operators count as a whole.

    Attributes:
        total: Operations so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total, self._formulas = 0, formulas()

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Count an operation, and run it."""
        del types
        kwargs = kwargs or {}
        if func in RESULTS:
            return RESULTS[func](*args, **kwargs)
        if func is torch.ops.aten.index.Tensor:
            args = (args[0], without_masks(args[1]))
        out = func(*args, **kwargs)
        if formula := self._formulas.get(func._overloadpacket):
            self.total += int(formula(*args, **kwargs, out_val=out))
        return out


def _transform(x: Shape, dim: Sequence[int], *_: Any, out_shape: Shape, **__: Any) -> int:
    points = math.prod(max(x[d], out_shape[d]) for d in dim)
    return round(5 * max(math.prod(x), math.prod(out_shape)) * math.log2(max(points, 2)))


def _real_transform(x: Shape, dim: Sequence[int], *_: Any, out_shape: Shape, **__: Any) -> int:
    return _transform(x, dim, out_shape=out_shape) // 2
