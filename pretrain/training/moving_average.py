"""An exponential average of the parameters, kept and sharded like the optimizer's state."""

import torch

from pretrain.optim_config import AVERAGE


@torch.no_grad()
def move_averages(optimizer: torch.optim.Optimizer, decay: float) -> None:
    """Move the averages of the parameters that were just updated; none are kept with a decay of 0.

    The first steps are averaged over shorter times, min(decay, (1 + t) / (10 + t)) after t steps,
    or the initial parameters would stay in the average for long.
    """
    if not decay:
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            if AVERAGE not in state:
                state[AVERAGE] = parameter.detach().clone()
                continue
            steps = float(state["step"])
            state[AVERAGE].lerp_(parameter, 1.0 - min(decay, (1.0 + steps) / (10.0 + steps)))
