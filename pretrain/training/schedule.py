"""The learning rate as a pure function of run and step."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from pretrain.config import RunConfig
from pretrain.optim_config import OptimConfig


def learning_rate_factor(step: int, run: RunConfig) -> float:
    """Share of the peak learning rate at a step (counted from 0): linear warm-up, then decay."""
    optim, steps = run.optim, run.train.steps
    at = run.step_sizes.tokens_before if optim.schedule_by == "tokens" else int
    warmup = optim.warmup(steps)
    if step < warmup:
        return at(step + 1) / at(warmup)
    start, end = optim.decay(steps)
    progress = (at(step) - at(start)) / max(1, at(end) - at(start))
    return DECAYS[optim.schedule](min(max(progress, 0.0), 1.0), optim)


def learning_rate_at(step: int, run: RunConfig) -> float:
    """The learning rate at a step (counted from 0), before `optim.scale`."""
    return run.optim.learning_rate * learning_rate_factor(step, run)


def build_schedule(optimizer: torch.optim.Optimizer, run: RunConfig, step: int = 0) -> LambdaLR:
    """The scheduler of an optimizer's learning rates, which it sets to those of a step.

    Args:
        optimizer: A new one; for a step above 0, one that had a scheduler before.
        run: The run.
        step: Steps that are done.
    """
    return LambdaLR(
        optimizer, lambda number: learning_rate_factor(number, run), last_epoch=step - 1
    )


def enter_schedule(engine: Any, run: RunConfig, step: int) -> None:
    """Set a DeepSpeed engine's schedule to a step, whatever step it was at."""
    engine.lr_scheduler = build_schedule(engine.lr_scheduler.optimizer, run, step)
    engine.global_steps = step


def _cosine(progress: float, optim: OptimConfig) -> float:
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    return _above_floor(cosine, optim)


def _linear(progress: float, optim: OptimConfig) -> float:
    return _above_floor(1.0 - progress, optim)


def _root(progress: float, optim: OptimConfig) -> float:
    # better than a line by Hägele et al. 2024 (arXiv 2405.18392)
    return _above_floor(1.0 - math.sqrt(progress), optim)


def _constant(_progress: float, _optim: OptimConfig) -> float:
    return 1.0


def _above_floor(share: float, optim: OptimConfig) -> float:
    return optim.final_ratio + (1.0 - optim.final_ratio) * share


# by `optim.schedule`: share of the peak after a share of the decay
DECAYS: dict[str, Callable[[float, OptimConfig], float]] = {
    "cosine": _cosine,
    "wsd": _root,
    "linear": _linear,
    "constant": _constant,
}
