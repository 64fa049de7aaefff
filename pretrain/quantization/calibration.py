"""Second moments of the inputs of linear layers on a text.

Shape letters: B batch, T tokens, C channels.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spectral.lm import SpectralLM

WINDOW, ROWS = 512, 4


@torch.no_grad()
def input_moments(model: SpectralLM, names: Sequence[str], ids: Sequence[int]) -> dict[str, Tensor]:
    """Mean of x x^T over the inputs of each linear layer, by the name of its weight."""
    moments: dict[str, Tensor] = {}
    count = 0
    hooks = []

    def watch(name: str) -> Callable[..., None]:
        def add(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            x_NC = inputs[0].detach().flatten(0, -2).double()
            moments[name] = moments.get(name, 0) + x_NC.T @ x_NC

        return add

    for name in names:
        module = model.get_submodule(name.rpartition(".")[0])
        if isinstance(module, nn.Linear):
            hooks.append(module.register_forward_pre_hook(watch(name)))
    try:
        tokens = torch.tensor(ids)
        windows = tokens.split(min(WINDOW, len(tokens)))
        whole = [window for window in windows if len(window) == len(windows[0])]
        for begin in range(0, len(whole), ROWS):
            rows_BT = torch.stack(whole[begin : begin + ROWS])
            model(rows_BT)
            count += rows_BT.numel()
    finally:
        for hook in hooks:
            hook.remove()
    return {name: moment / count for name, moment in moments.items()}
