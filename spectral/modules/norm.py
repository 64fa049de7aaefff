"""RMSNorm of signals in any dtype, with its sums and its scale in float32.

Shape letters: D channels.

Source: Zhang and Sennrich 2019 (arXiv 1910.07467).
"""

from typing import Any

import torch
from torch import Tensor, nn

from kernels.precision import full_precision, is_half


class RMSNorm(nn.RMSNorm):
    """x / sqrt(mean(x^2) + eps) * weight.

    torch's own keeps float32 copies of half-precision signals for the backward pass; this keeps the
    signal itself and one number per token.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D] in the dtype of x."""
        if not is_half(x):
            return super().forward(x)
        y: Tensor = _Norm.apply(x, self.weight, self.eps)
        return y


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        values = full_precision(x)
        inverse = values.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight_D, inverse)
        return (values * inverse * weight_D).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight_D, inverse = ctx.saved_tensors
        grad, normal = full_precision(grads[0]), full_precision(x) * inverse
        dweight_D = (grad * normal).flatten(0, -2).sum(0)
        dnormal = grad * weight_D
        # the radial part of a gradient does not move a normalised vector
        radial = (dnormal * normal).mean(-1, keepdim=True)
        dx = (dnormal - normal * radial) * inverse
        return dx.to(x.dtype), dweight_D.to(weight_D.dtype), None
