"""Clipping of each parameter group's gradient by its own norm."""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from pretrain.checkpoint.deepspeed_state import torch_optimizer
from pretrain.parallel.placement import is_split

# key of a parameter group: factor of its gradient in the next step
SCALE = "gradient_scale"


def clip_groups(engine: Any, most: float) -> None:
    """Let the next step scale down the gradient of each group whose norm is above `most`.

    Groups that differ in the precision of their exchange alone count as one. A collective, after
    the passes of a step whose gradient is finite.
    """
    groups = torch_optimizer(engine).param_groups
    kinds = [(group["decays"], group.get("matrices")) for group in groups]
    squares: dict[tuple[Any, ...], float] = defaultdict(float)
    for kind, norm in zip(kinds, group_norms(engine), strict=True):
        squares[kind] += norm**2
    for kind, group in zip(kinds, groups, strict=True):
        group[SCALE] = min(1.0, most / (squares[kind] ** 0.5 + 1e-6))


def scale_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Scale the gradients of the groups that the optimizer is about to apply."""
    for group in optimizer.param_groups:
        scale = group.get(SCALE, 1.0)
        if scale < 1.0:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.mul_(scale)


def group_norms(engine: Any) -> list[float]:
    """Norm of the accumulated gradient of every parameter group, over all ranks; a collective."""
    stage, optimizer = engine.zero_optimization_stage(), engine.optimizer
    if stage == 0:
        return _whole_norms(engine)
    if stage == 3:
        squares = [0.0] * len(torch_optimizer(engine).param_groups)
        for number, norm in enumerate(optimizer._get_norm_groups()):
            squares[optimizer.sub_group_to_group_id[number]] += float(norm) ** 2
        return [square**0.5 / optimizer.loss_scale for square in squares]
    norms: list[Any] = []
    for number, _ in enumerate(optimizer.bit16_groups):
        local = optimizer.params_in_partition[number]
        if optimizer.cpu_offload:
            norms.append(optimizer.complete_grad_norm_calculation_for_cpu_offload(local))
        else:
            gradients = optimizer.averaged_gradients[number]
            norms.append(optimizer.get_grad_norm_direct(gradients, local))
    if optimizer.has_moe_layers:
        optimizer._average_expert_grad_norms(norms)
    return [float(norm) / optimizer.loss_scale for norm in norms]


def _whole_norms(engine: Any) -> list[float]:
    mpu = engine.mpu
    # parameters that every tensor rank holds count on the first rank only
    counts = mpu is None or mpu.get_model_parallel_rank() == 0
    squares = []
    for group in engine.optimizer.param_groups:
        gradients = [
            parameter.grad
            for parameter in group["params"]
            if parameter.grad is not None and (counts or is_split(parameter))
        ]
        squares.append(torch.nn.utils.get_total_norm(gradients).square())
    total: Tensor = torch.stack([square.to(squares[0].device) for square in squares])
    if mpu is not None:
        torch.distributed.all_reduce(total, group=mpu.get_model_parallel_group())
    return total.sqrt().tolist()
