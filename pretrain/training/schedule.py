"""The learning rate as a pure function of the step."""

import math
from typing import Any

from pretrain.config import OptimConfig, RunConfig


def learning_rate_factor(step: int, run: RunConfig) -> float:
    """Share of the peak learning rate at a step (counted from 0): linear warm-up, then cosine."""
    optim: OptimConfig = run.optim
    if step < optim.warmup_steps:
        return (step + 1) / optim.warmup_steps
    progress = (step - optim.warmup_steps) / max(1, run.train.steps - optim.warmup_steps)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
    return optim.final_ratio + (1.0 - optim.final_ratio) * cosine


def load_schedule(engine: Any, steps: int) -> None:
    """Let the learning rate be that of a step; every rate is a pure function of it."""
    scheduler = engine.lr_scheduler
    scheduler.last_epoch, scheduler._step_count = steps, steps + 1
    rates = [
        base * factor(steps)
        for base, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    ]
    scheduler._last_lr = rates
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    engine.global_steps = steps
