"""Linear layers that multiply in half precision, and keep what the backward pass needs in it.

Under autocast to bfloat16, operands of a matrix product are bfloat16, its sums float32. Where a CPU
has no such products, they are computed here: operands are rounded and multiplied in float32.

Shape letters: I inputs, O outputs, N rows.
"""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.precision import as_signal, full_precision, is_half


class Linear(nn.Linear):
    """A linear layer for signals: a matrix that is rounded to bfloat16 where it is used.

    Attributes:
        rounds_weight: Whether other ranks may be sent the weight rounded.
    """

    rounds_weight = True

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] -> [..., O]."""
        return linear(x, self.weight, self.bias)


class WideLinear(nn.Linear):
    """A linear layer to something that needs float32, such as decays, from signals of any dtype."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] -> [..., O], float32 or wider."""
        return wide_linear(x, self.weight, self.bias)


def linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """The product x W^T + b, as `F.linear`, on any CPU.

    A half-precision weight rounds x and the product to its dtype.
    """
    if is_half(weight_OI) and not torch.is_autocast_enabled(x.device.type):
        return _half_linear(x, weight_OI, bias_O)
    if not rounds_here(x):
        return F.linear(x, weight_OI, bias_O)
    y: Tensor = _Product.apply(as_signal(x), weight_OI, bias_O, True)
    return y


def _half_linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    x = x.to(weight_OI.dtype)
    if x.device.type != "cpu" or (x.dtype == torch.bfloat16 and cpu_multiplies_bfloat16()):
        return F.linear(x, weight_OI, bias_O)
    wide_bias = None if bias_O is None else full_precision(bias_O)
    return F.linear(full_precision(x), full_precision(weight_OI), wide_bias).to(weight_OI.dtype)


def wide_linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    """The product x W^T + b in float32 or wider; for the backward pass x is kept as it is."""
    if not is_half(x):
        return F.linear(x, weight_OI, bias_O)
    y: Tensor = _Product.apply(x, weight_OI, bias_O, False)
    return y


def rounds_here(x: Tensor) -> bool:
    """Whether products of this tensor are to be in bfloat16, and its device has none."""
    return (
        x.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and not cpu_multiplies_bfloat16()
    )


@functools.cache
def cpu_multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for bfloat16 products; others are 100 times slower.

    torch answers for x86; Arm's processors are taken at oneDNN's word.
    """
    cpu: Any = torch.cpu
    if cpu._is_avx2_supported():
        return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class _Product(torch.autograd.Function):
    """A product of half-precision rows, computed in float32 from rounded or whole weights."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, rounds: bool) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.rounds, ctx.has_bias = rounds, bias is not None
        with torch.autocast(x.device.type, enabled=False):
            y = F.linear(full_precision(x), _operand(weight, x, rounds), bias)
        return y.to(x.dtype) if rounds else y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            grad_NO = full_precision(grads[0]).flatten(0, -2)
            x_NI = full_precision(x).flatten(0, -2)
            dx_NI = grad_NO @ _operand(weight, x, ctx.rounds)
            dweight_OI = grad_NO.t() @ x_NI
        if ctx.rounds:
            # as a product of bfloat16 operands returns it
            dweight_OI = dweight_OI.to(x.dtype)
        dbias_O = grad_NO.sum(0) if ctx.has_bias else None
        return dx_NI.to(x.dtype).view_as(x), dweight_OI.to(weight.dtype), dbias_O, None


def _operand(weight: Tensor, x: Tensor, rounds: bool) -> Tensor:
    return full_precision(weight.to(x.dtype)) if rounds else full_precision(weight)
