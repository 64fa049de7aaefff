"""Shares of a model's parameters and operations by component."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pretrain.monitoring.components import component_of
from pretrain.runtime.flops import EvenDispatch, FlopCounter
from spectral.block import Block
from spectral.config import ModelConfig
from spectral.lm import SpectralLM

# parts of a mixer that mix channels, not tokens
PROJECTIONS = ("in_proj", "out_proj", "decay_proj")
SPECTRAL_PARAMETERS = ("filters", "gates")
SPECTRAL_OPERATIONS = ("mixing along the sequence",)


def parameter_counts(model: nn.Module) -> dict[str, int]:
    """Number of parameters of each component."""
    counts: dict[str, int] = defaultdict(int)
    for name, parameter in model.named_parameters():
        counts[component_of(name)] += parameter.numel()
    return dict(counts)


def operation_counts(config: ModelConfig, length: int) -> dict[str, float]:
    """Operations of a forward pass per token by component, by the formulas of the ops."""
    counts: dict[str, int] = defaultdict(int)
    with FakeTensorMode(), FlopCounter() as counter:
        # in training mode, which does not look at values
        model = SpectralLM(config)
        model.layout = model.layout._replace(experts=EvenDispatch())
        for block in model.modules():
            if isinstance(block, Block):
                _count_in(counts, counter, "mixers", block.mixer)
                _count_in(counts, counter, "feed-forward", block.feed_forward)
                for name in PROJECTIONS:
                    part = getattr(block.mixer, name, None)
                    if isinstance(part, nn.Module):
                        _count_in(counts, counter, "projections", part)
        tokens = torch.zeros(1, length, dtype=torch.long)
        with torch.no_grad():
            model.hidden(model.embed(tokens))
    output = 2 * config.dim * config.vocab_size
    found = {
        "mixing along the sequence": (counts["mixers"] - counts["projections"]) / length,
        "projections": counts["projections"] / length,
        "feed-forward": counts["feed-forward"] / length,
        "output layer": float(output),
    }
    return {name: count for name, count in found.items() if count}


def _count_in(counts: dict[str, int], counter: FlopCounter, name: str, module: nn.Module) -> None:
    """Add what a module does in its forward passes to the count of a name."""
    begins: list[int] = []

    def enter(*_: Any) -> None:
        begins.append(counter.total)

    def leave(*_: Any) -> None:
        counts[name] += counter.total - begins.pop()

    enter_hook: Callable[..., None] = enter
    module.register_forward_pre_hook(enter_hook)
    module.register_forward_hook(leave)


def spectral_share(counts: dict[str, float] | dict[str, int], names: tuple[str, ...]) -> float:
    """Share of a count that belongs to some of its components."""
    return sum(counts.get(name, 0) for name in names) / max(sum(counts.values()), 1)
