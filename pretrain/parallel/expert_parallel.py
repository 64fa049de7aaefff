"""Expert parallelism: neighbouring ranks of the data and sequence axes share every layer's experts.

A rank keeps its tokens and has an equal share of the experts. Rows go to their experts' ranks by
an all-to-all of uneven parts and come back by another: no row is dropped or padded, so a layout
changes no result. DeepSpeed's ZeRO reduces and shards the experts' gradients over the ranks that
hold the same experts, all others over all ranks; both are divided by the number of all ranks, as
the loss is scaled to be.

Tensor parallelism instead splits the hidden channels of every expert.

Shape letters: E experts, P ranks, L = E / P experts of a rank, R rows, D channels.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pretrain.parallel.collectives import exchanged_rows
from pretrain.parallel.mesh import Axis
from pretrain.parallel.placement import Placement, cut
from spectral.block import Block
from spectral.feed_forward.experts import ExpertsFeedForward
from spectral.layout import Compute, ExpertDispatch


def share_experts(block: Block, name: str, axis: Axis) -> None:
    """Leave this rank its experts of a block, in place; the router stays whole.

    Args:
        block: Whole, initialised.
        name: Of the block in the whole model.
        axis: The expert axis; it divides the experts.
    """
    experts = block.feed_forward
    assert isinstance(experts, ExpertsFeedForward)
    own = experts.num_experts // axis.size
    ranges = ((axis.rank * own, (axis.rank + 1) * own),)
    marker = _marker(experts.num_experts, axis.size)
    for key in ("gate_up_proj", "down_proj"):
        module: nn.Module = getattr(experts, key)
        shape = tuple(module.weight.shape)  # type: ignore[arg-type]
        cut(module, "weight", Placement(f"{name}.feed_forward.{key}.weight", shape, 0, ranges))
        # DeepSpeed asks every parameter over which ranks it is reduced
        module.weight.allreduce = False  # type: ignore[union-attr]
        module.weight.group_name = marker.expert_group_name  # type: ignore[union-attr]
    experts.marker = marker


class RankExpertDispatch(ExpertDispatch):
    """Experts are on the ranks of an axis, equally many on each, in their order."""

    def __init__(self, axis: Axis):
        self.axis = axis

    def run(self, compute: Compute, x_RD: Tensor, counts_E: Tensor) -> Tensor:
        """Exchange counts, then rows; compute this rank's experts; send the results back.

        Cost: R D numbers leave the rank each way, and again for their gradients; E counts. A rank
        has room for as many rows as ask for its experts: at most all of the axis.
        """
        own_PL = counts_E.view(self.axis.size, -1)
        asked_PL = torch.empty_like(own_PL)
        dist.all_to_all_single(asked_PL, own_PL, group=self.axis.group)
        own, asked = self.numbers(torch.stack([own_PL, asked_PL]), len(x_RD))
        sent, received = [sum(row) for row in own], [sum(row) for row in asked]
        here_RD = exchanged_rows(x_RD, sent, received, self.axis)
        # they lie by rank and then by expert
        P, L = own_PL.shape
        expert_PL = torch.arange(L, device=x_RD.device).expand(P, L)
        expert_R = expert_PL.flatten().repeat_interleave(
            asked_PL.flatten(), output_size=sum(received)
        )
        order_R = expert_R.argsort(stable=True)
        counts = [sum(column) for column in zip(*asked, strict=True)]
        y_RD = compute(here_RD[order_R], counts)[order_R.argsort()]
        return exchanged_rows(y_RD, received, sent, self.axis)


class TensorExpertDispatch(ExpertDispatch):
    """All experts are here, each with some of its hidden channels; outputs are summed."""

    def __init__(self, axis: Axis):
        self.axis = axis

    def run(self, compute: Compute, x_RD: Tensor, counts_E: Tensor) -> Tensor:
        """Sum the partial results. Cost: an all-reduce of R D numbers, and one of gradients."""
        from megatron.core.tensor_parallel.mappings import (
            copy_to_tensor_model_parallel_region,
            reduce_from_tensor_model_parallel_region,
        )

        x_RD = copy_to_tensor_model_parallel_region(x_RD, self.axis.group)
        y_RD = compute(x_RD, self.numbers(counts_E, len(x_RD)))
        total_RD: Tensor = reduce_from_tensor_model_parallel_region(y_RD, self.axis.group)
        return total_RD


def optimizer_groups(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Parameter groups in which the experts of a rank are apart from what all ranks have."""
    from deepspeed.moe.utils import split_params_into_different_moe_groups_for_optimizer

    named = [group | {"name": f"group {number}"} for number, group in enumerate(groups)]
    found: list[dict[str, Any]] = split_params_into_different_moe_groups_for_optimizer(named)
    return found


def _marker(num_experts: int, ranks: int) -> Any:
    """A module without parameters, by which DeepSpeed sees that a model has experts."""
    from deepspeed.moe.layer import MoE
    from deepspeed.utils import groups

    class Marker(MoE):
        def __init__(self) -> None:
            # not MoE's own: experts, gate and all-to-all are ours
            nn.Module.__init__(self)
            self.num_experts, self.ep_size = num_experts, ranks
            self.expert_group_name = f"ep_size_{ranks}"

        def set_deepspeed_parallelism(self, use_data_before_expert_parallel_: bool = False) -> None:
            """Let DeepSpeed make its groups, once for all layers; it calls this on all ranks."""
            groups._create_expert_and_data_parallel(
                self.ep_size, use_data_before_expert_parallel_=use_data_before_expert_parallel_
            )

    return Marker()
