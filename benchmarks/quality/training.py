"""Training and measuring: one loop for all models.

Shape letters: B batch, T time (tokens).
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.quality.models import Spectral, Transformer
from pretrain.config import RunConfig
from pretrain.training.optimizer import parameter_groups
from pretrain.training.schedule import learning_rate_factor

WARMUP_SHARE, LAST_RATE_SHARE = 0.05, 0.1
WEIGHT_DECAY, BETAS, CLIP = 0.1, (0.9, 0.95), 1.0
NUM_POINTS = 20
COST_ROUNDS = 6


def train(
    model: Spectral | Transformer,
    batches: Iterator[tuple[Tensor, Tensor]],
    steps: int,
    rate: float,
) -> dict[str, Any]:
    """Train by AdamW with warm-up and a cosine schedule.

    Returns:
        losses: Mean training loss of each of up to 20 equal parts of the training.
    """
    optimizer = _optimizer(model, rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _rate_factor(steps))
    model.train()
    losses = []
    for _, (tokens, labels) in zip(range(steps), batches, strict=False):
        losses.append(_step(model, optimizer, tokens, labels))
        schedule.step()
    part = max(1, steps // NUM_POINTS)
    curve = [sum(losses[i : i + part]) / len(losses[i : i + part]) for i in range(0, steps, part)]
    return {"losses": curve}


def step_ms(
    models: Sequence[Spectral | Transformer], batches: Iterator[tuple[Tensor, Tensor]]
) -> list[float]:
    """Milliseconds of each model's fastest step, alternating: other load hits all alike."""
    optimizers = [_optimizer(model, 1e-3) for model in models]
    fastest = [math.inf] * len(models)
    for _, (tokens, labels) in zip(range(COST_ROUNDS), batches, strict=False):
        for number, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
            start = time.perf_counter()
            _step(model.train(), optimizer, tokens, labels)
            fastest[number] = min(fastest[number], 1e3 * (time.perf_counter() - start))
    return fastest


def _rate_factor(steps: int) -> Callable[[int], float]:
    """The project's schedule, as a share of the peak learning rate per step."""
    run = RunConfig.model_validate(
        {
            "optim": {
                "warmup_steps": max(1, round(WARMUP_SHARE * steps)),
                "final_ratio": LAST_RATE_SHARE,
            },
            "train": {"steps": steps},
        }
    )
    return lambda step: learning_rate_factor(step, run)


def _optimizer(model: Spectral | Transformer, rate: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameter_groups(model, WEIGHT_DECAY), lr=rate, betas=BETAS)


def _step(
    model: Spectral | Transformer,
    optimizer: torch.optim.Optimizer,
    tokens_BT: Tensor,
    labels_BT: Tensor,
) -> float:
    loss = model.loss(tokens_BT, labels_BT)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    optimizer.step()
    return loss.item()


@torch.no_grad()
def token_losses(model: Spectral | Transformer, tokens_BT: Tensor, labels_BT: Tensor) -> Tensor:
    """Loss of every label in nats [B, T]; a few rows at a time."""
    model.eval()
    rows = []
    for tokens, labels in zip(tokens_BT.split(4), labels_BT.split(4), strict=True):
        rows.append(F.cross_entropy(model(tokens).transpose(1, 2), labels, reduction="none"))
    return torch.cat(rows)


@torch.no_grad()
def accuracy(model: Spectral | Transformer, tokens_BT: Tensor, labels_BT: Tensor) -> float:
    """Share of labels with the largest logit, among those that are not ignored."""
    model.eval()
    right = total = 0
    for tokens, labels in zip(tokens_BT.split(32), labels_BT.split(32), strict=True):
        counts = labels >= 0
        right += int(((model(tokens).argmax(-1) == labels) & counts).sum())
        total += int(counts.sum())
    return right / total
