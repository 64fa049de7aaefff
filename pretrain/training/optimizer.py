"""The optimizer of a run and its parameter groups.

The state that an optimizer keeps per parameter is `OptimConfig.state_tensors`: checkpoints, size
estimates and the planner read it there.
"""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from pretrain.optim_config import OptimConfig
from pretrain.runtime.wire import travels_rounded

Groups = list[dict[str, Any]]


def build_optimizer(
    model: nn.Module, optim: OptimConfig, *, shares_experts: bool = False
) -> torch.optim.Optimizer:
    """The optimizer of a model's parameters.

    Args:
        model: A rank's part of the model.
        optim: The `[optim]` table.
        shares_experts: Whether ranks hold different experts, which ZeRO must shard separately.
    """
    groups = parameter_groups(model, optim.weight_decay)
    if shares_experts:
        # imports DeepSpeed, which takes seconds
        from pretrain.parallel.expert_parallel import optimizer_groups

        groups = optimizer_groups(groups)
    return BUILDERS[optim.name](groups, optim)


def parameter_groups(model: nn.Module, weight_decay: float) -> Groups:
    """Parameters with weight decay (matrices of linear layers and embeddings) and those without.

    Norms, short filters and modes have a scale that means something; decay would move it.
    """
    decayed = {
        id(module.weight)
        for module in model.modules()
        if getattr(module, "weight_decays", isinstance(module, nn.Linear | nn.Embedding))
    }
    groups = []
    # ZeRO sends a group in one precision
    for decays, rounded in itertools.product((True, False), repeat=2):
        parameters = [
            p
            for p in model.parameters()
            if (id(p) in decayed) == decays and travels_rounded(p) == rounded
        ]
        if parameters:
            groups.append({"params": parameters, "weight_decay": weight_decay if decays else 0.0})
    return groups


def _adamw(groups: Groups, optim: OptimConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        groups, lr=optim.learning_rate, betas=(optim.beta1, optim.beta2), eps=optim.epsilon
    )


# by `optim.name`
BUILDERS: dict[str, Callable[[Groups, OptimConfig], torch.optim.Optimizer]] = {"adamw": _adamw}
