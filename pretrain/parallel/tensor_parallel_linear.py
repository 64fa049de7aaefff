"""Megatron-core's column- and row-parallel linear layers, as tensor parallelism uses them.

Shape letters: D channels.
"""

from typing import Any

import torch.nn.functional as F
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from torch import Tensor

from pretrain.parallel.activation_sharding import summed_tokens
from pretrain.parallel.mesh import Axis
from pretrain.runtime.precision import current_autocast


class _CastBefore:
    """Cast of operands before Megatron's product, whose backward supports only CUDA's autocast."""

    def _forward_impl(self, input: Tensor, weight: Tensor, **others: Any) -> Tensor:
        dtype = current_autocast() or weight.dtype
        bias = others.pop("bias")
        if bias is not None:
            bias = bias.to(dtype)
        output: Tensor = super()._forward_impl(  # type: ignore[misc]
            input.to(dtype), weight.to(dtype), bias=bias, **others
        )
        return output


class Column(_CastBefore, ColumnParallelLinear):
    """A linear layer with this rank's share of the outputs."""

    weight_decays = True

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., this rank's outputs]."""
        output: Tensor = super().forward(x)[0]
        return output


class Row(_CastBefore, RowParallelLinear):
    """A linear layer with this rank's share of the inputs.

    Attributes:
        shard: Axis over which the sum's tokens are scattered; None: every rank gets all of them.
    """

    weight_decays = True
    shard: Axis | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[..., this rank's inputs] -> [..., D], this rank's tokens or the same on every rank."""
        if self.shard is not None:
            return summed_tokens(F.linear(x, self.weight), self.shard)
        output: Tensor = super().forward(x)[0]
        return output
