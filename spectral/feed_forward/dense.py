"""Feed-forwards of one token for other runtimes: no FFT, no sorting by expert.

Shape letters: B batch, D channels, H hidden channels, I inputs, O outputs, E experts, K experts per
token.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spectral.feed_forward.experts import ExpertsFeedForward
from spectral.feed_forward.mlp import FrequencyFeedForward, GatedFeedForward


class DenseExperts(nn.Module):
    """All experts for every token, weighted: no sorting by expert."""

    gate_up_EOI: Tensor
    down_EOI: Tensor

    def __init__(self, source: ExpertsFeedForward):
        super().__init__()
        self.router, self.count = source.router, source.num_experts
        self.per_token = source.experts_per_token
        self.register_buffer("gate_up_EOI", source.gate_up_proj.weight.detach().clone())
        self.register_buffer("down_EOI", source.down_proj.weight.detach().clone())

    def forward(self, x_BD: Tensor) -> Tensor:
        """[B, D] -> [B, D]."""
        probability_BE = self.router(x_BD).softmax(-1)
        weight_BK, expert_BK = probability_BE.topk(self.per_token)
        if self.per_token > 1:
            weight_BK = weight_BK / weight_BK.sum(-1, keepdim=True)
        gate_EBH, up_EBH = (x_BD @ self.gate_up_EOI.transpose(1, 2)).chunk(2, dim=-1)
        y_EBD = (F.silu(gate_EBH) * up_EBH) @ self.down_EOI.transpose(1, 2)
        chosen_BKE = F.one_hot(expert_BK, self.count).to(x_BD.dtype)
        weight_BE = (weight_BK[..., None] * chosen_BKE).sum(1)
        return (y_EBD * weight_BE.T[..., None]).sum(0)


class DenseFrequency(nn.Module):
    """The blend of a gated feed-forward and circular convolutions, as matrices."""

    matrices_2DD: Tensor
    alpha: Tensor

    def __init__(self, source: FrequencyFeedForward):
        super().__init__()
        self.gated = source.gated
        filters = source.filters_2F2.detach()
        unit = torch.eye(source.gated.gate_up_proj.in_features, dtype=filters.dtype)
        matrices = [
            torch.fft.irfft(
                torch.fft.rfft(unit) * torch.view_as_complex(each.contiguous()), n=len(unit)
            )
            for each in filters
        ]
        self.register_buffer("matrices_2DD", torch.stack(matrices))
        self.register_buffer("alpha", source.blend.detach().sigmoid())

    def forward(self, x_BD: Tensor) -> Tensor:
        """[B, D] -> [B, D]."""
        spectral_BD = F.gelu(x_BD @ self.matrices_2DD[0]) @ self.matrices_2DD[1]
        return (1.0 - self.alpha) * self.gated(x_BD) + self.alpha * spectral_BD


def dense_feed_forward(source: nn.Module) -> nn.Module:
    """The feed-forward of a block in such a form."""
    if isinstance(source, ExpertsFeedForward):
        return DenseExperts(source)
    if isinstance(source, FrequencyFeedForward):
        return DenseFrequency(source)
    return cast(GatedFeedForward, source)
