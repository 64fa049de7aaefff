"""The optimizer of a run and its parameter groups."""

from typing import Any

from torch import nn


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on the matrices of linear layers and embeddings, on nothing else.

    Norms, short filters and modes have a scale that means something; decay would move it.
    """
    decayed = {
        id(module.weight)
        for module in model.modules()
        if getattr(module, "weight_decays", isinstance(module, nn.Linear | nn.Embedding))
    }
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if id(p) in decayed], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) not in decayed], "weight_decay": 0.0},
    ]
