"""The learning rate: its curve, and entering it at any step."""

from types import SimpleNamespace
from typing import get_args

import pytest
import torch

from pretrain.config import RunConfig
from pretrain.optim_config import OptimConfig
from pretrain.train_config import TrainConfig
from pretrain.training.schedule import (
    DECAYS,
    build_schedule,
    enter_schedule,
    learning_rate_factor,
)


def make_run(**optim: object) -> RunConfig:
    return RunConfig(
        optim=OptimConfig.model_validate({"warmup_steps": 10, "final_ratio": 0.2} | optim),
        train=TrainConfig(steps=110),
    )


def test_learning_rate_warms_up_linearly_and_decays_by_cosine() -> None:
    run = make_run()
    assert learning_rate_factor(0, run) == pytest.approx(0.1)
    assert learning_rate_factor(9, run) == pytest.approx(1.0)
    assert learning_rate_factor(10, run) == pytest.approx(1.0)
    assert learning_rate_factor(60, run) == pytest.approx(0.6)
    assert learning_rate_factor(110, run) == pytest.approx(0.2)


def test_every_schedule_has_a_decay() -> None:
    assert set(get_args(OptimConfig.model_fields["schedule"].annotation)) == set(DECAYS)


@pytest.mark.parametrize("schedule", sorted(DECAYS))
@pytest.mark.parametrize("start", [0, 40])
@pytest.mark.parametrize("entered", [0, 5, 60, 110])
def test_a_schedule_is_entered_at_any_step_from_any_other(
    schedule: str, start: int, entered: int
) -> None:
    run = make_run(schedule=schedule)
    peaks = (1.0, 0.25)
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": peak} for peak in peaks]
    optimizer = torch.optim.SGD(groups)
    scheduler = build_schedule(optimizer, run)
    for _ in range(start):
        optimizer.step()
        scheduler.step()
    engine = SimpleNamespace(lr_scheduler=scheduler, global_steps=start)
    enter_schedule(engine, run, entered)
    assert engine.global_steps == engine.lr_scheduler.last_epoch == entered
    for step in range(entered, entered + 3):
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == [peak * learning_rate_factor(step, run) for peak in peaks]
        optimizer.step()
        engine.lr_scheduler.step()
