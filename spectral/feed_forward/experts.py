"""Mixture of experts: each token is fed to a few of many gated linear units.

No token is ever dropped. With a capacity per expert, a token could be dropped because of other
tokens routed to the same expert: of later tokens unless places are assigned in order, and in any
case of other documents and rows of the batch and of their number, so a decoder could not agree with
the parallel form. Here a token's output depends on that token alone; a loss balances the experts.

Shape letters: N tokens, D channels, E experts, K experts per token, R = N K rows (a token for one
of its experts), H hidden channels of an expert, I inputs, O outputs.

Source: sparsely-gated experts (Shazeer et al. 2017, arXiv 1701.06538), dropless as in MegaBlocks
(Gale et al. 2022, arXiv 2211.15841).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.precision import full_precision
from spectral.feed_forward.config import ExpertsConfig
from spectral.layout import SINGLE_DEVICE, Layout
from spectral.modules.linear import linear
from spectral.sequence.span import WHOLE, Span


class StackedLinear(nn.Module):
    """A linear layer for each expert, without bias."""

    weight_decays = rounds_weight = True

    def __init__(self, num_experts: int, inputs: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_experts, outputs, inputs))

    def forward(self, x_RI: Tensor, counts: list[int]) -> Tensor:
        """[R, I] -> [R, O]: the first counts[0] rows by the first expert, and so on."""
        parts = zip(x_RI.split(counts), self.weight.unbind(0), strict=True)
        return torch.cat([linear(x, weight_OI) for x, weight_OI in parts])


class ExpertsFeedForward(nn.Module):
    """y = sum over the K likeliest experts of weight_e * down_e(silu(gate_e(x)) * up_e(x)).

    The router is linear, its softmax is taken in float32. The weights are the chosen experts'
    probabilities, divided by their sum (as in Mixtral, arXiv 2401.04088); with K = 1 they are not
    divided, or no gradient would reach the router (as in Switch, arXiv 2101.03961).
    """

    def __init__(self, dim: int, hidden: int, config: ExpertsConfig):
        super().__init__()
        self.num_experts, self.experts_per_token = config.count, config.per_token
        self.balance_weight, self.router_z_weight = config.balance_weight, config.router_z_weight
        self.router = nn.Linear(dim, config.count, bias=False)
        self.gate_up_proj = StackedLinear(config.count, dim, 2 * hidden)
        self.down_proj = StackedLinear(config.count, hidden, dim)
        self.reset_parameters(dim**-0.5, hidden**-0.5)

    def reset_parameters(self, std: float, out_std: float) -> None:
        """Initialise: normal with these deviations in the first and the last linear map."""
        nn.init.normal_(self.router.weight, std=std)
        nn.init.normal_(self.gate_up_proj.weight, std=std)
        nn.init.normal_(self.down_proj.weight, std=out_std)

    def forward(self, x: Tensor, layout: Layout = SINGLE_DEVICE) -> tuple[Tensor, Tensor]:
        """Weighted sum of the outputs of each token's experts.

        Args:
            x: Tokens [..., D].
            layout: Routes rows to experts, and sums over spans.

        Returns:
            ([..., D], weighted sum of the two losses of `router_losses`).

        Cost: O(N D (E + K H)) time; R (2 D + 3 H) numbers of scratch. Rows are sorted by expert
        and each expert runs once; the host waits for the counts.
        """
        x_ND = x.flatten(0, -2)
        K = self.experts_per_token
        with torch.autocast(x.device.type, enabled=False):
            # bfloat16's eight bits of mantissa would choose other experts
            values = full_precision(x_ND)
            logits_NE = self.router(values)
            weight_NK, expert_NK = logits_NE.softmax(-1).topk(K)
            if K > 1:
                weight_NK = weight_NK / weight_NK.sum(-1, keepdim=True)
        expert_R = expert_NK.flatten()
        counts_E = expert_R.new_zeros(self.num_experts)
        counts_E = counts_E.index_add(0, expert_R, torch.ones_like(expert_R))
        order_R = expert_R.argsort(stable=True)
        y_RD = layout.experts.run(self._compute, x_ND[order_R // K], counts_E)
        y_NKD = y_RD[order_R.argsort()].unflatten(0, (-1, K))
        y_ND = (y_NKD * weight_NK[..., None]).sum(1)
        balance, router_z = router_losses(logits_NE, counts_E, layout.span)
        losses = self.balance_weight * balance + self.router_z_weight * router_z
        return y_ND.to(x.dtype).view(x.shape), losses

    def _compute(self, x_RD: Tensor, counts: list[int]) -> Tensor:
        gate_RH, up_RH = self.gate_up_proj(x_RD, counts).chunk(2, dim=-1)
        return self.down_proj(F.silu(gate_RH) * up_RH, counts)


def router_losses(logits_NE: Tensor, counts_E: Tensor, span: Span = WHOLE) -> tuple[Tensor, Tensor]:
    """Load-balancing loss and z-loss of all spans of a micro-batch, padding included.

    Args:
        logits_NE: Logits of the router.
        counts_E: Number of rows of each expert.
        span: Sums over the spans of other ranks.

    Returns:
        Load-balancing loss, E sum_e f_e P_e with the share f of rows and the mean probability P
        (Switch, arXiv 2101.03961): 1 if all experts are used equally, E if only one is used.
        Router z-loss, the mean of logsumexp(logits)^2 (ST-MoE, arXiv 2202.08906).
    """
    N, E = logits_NE.shape
    sums = torch.cat(
        [
            counts_E.to(logits_NE.dtype),
            logits_NE.softmax(-1).sum(0),
            logits_NE.logsumexp(-1).square().sum()[None],
            logits_NE.new_full((1,), N),
        ]
    )
    counts, probabilities, z, tokens = span.total(sums).split([E, E, 1, 1])
    balance = E * (counts / counts.sum() * probabilities / tokens).sum()
    return balance, (z / tokens)[0]
