"""Learning rates that transfer across widths (`optim.scale = "width"`): muP for these layers.

Every signal, and what a step changes of it, keeps its size as the model becomes wider. With r the
width over `optim.base_width`, rates of the maps whose inputs grow with the width fall: an update of
AdamW is aligned with their inputs, so its products grow as r; one of Muon has a spectral norm that
grows as the square root of r. The read-out is the embedding, which is also looked up: it keeps its
rate, and the gains of the last norm, which begin at 1 / r, take the factor. Weight decay grows as a
rate falls, so that their product stays.

Sources: Yang et al. 2022, Tensor Programs V (arXiv 2203.03466); Yang, Simon and Bernstein 2023, A
Spectral Condition for Feature Learning (arXiv 2310.17813); for weight decay, Wortsman et al. 2023
(arXiv 2309.14322).
"""

import math
from typing import Any

from torch import nn

from pretrain.config import RunConfig
from pretrain.parallel.matrices import width_maps
from pretrain.parallel.placement import placements

# gains of the norm before the read-out
READ_OUT = "final_norm.weight"


def scaled_by_width(
    groups: list[dict[str, Any]], model: nn.Module, run: RunConfig
) -> list[dict[str, Any]]:
    """Parameter groups whose parameters share a rate; each of the given becomes three.

    Args:
        groups: Groups by other properties, with `weight_decay` and, for muon, `matrices`.
        model: A rank's part of the model.
        run: The run.
    """
    maps = width_maps(run.model)
    names = {id(parameter): placement.name for placement, parameter in placements(model)}
    ratio = run.model.dim / run.optim.base_width
    rate = run.optim.learning_rate
    scaled = []
    for group in groups:
        kinds: dict[str, list[nn.Parameter]] = {"maps": [], "read-out": [], "others": []}
        for parameter in group["params"]:
            name = names[id(parameter)]
            is_map, is_gain = name in maps, name == READ_OUT
            kinds["maps" if is_map else "read-out" if is_gain else "others"].append(parameter)
        divisors = {
            "maps": math.sqrt(ratio) if group.get("matrices") else ratio,
            "read-out": ratio,
            "others": 1.0,
        }
        for kind, parameters in kinds.items():
            scaled.append(
                group
                | {
                    "params": parameters,
                    "lr": rate / divisors[kind],
                    "weight_decay": group["weight_decay"] * divisors[kind],
                    # so do gradients before the read-out
                    "eps": run.optim.epsilon / ratio,
                }
            )
    return scaled
