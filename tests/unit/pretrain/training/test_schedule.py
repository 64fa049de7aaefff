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


def test_a_line_and_a_constant() -> None:
    line, constant = make_run(schedule="linear"), make_run(schedule="constant")
    assert [learning_rate_factor(step, line) for step in (4, 10, 60, 85, 110)] == pytest.approx(
        [0.5, 1.0, 0.6, 0.4, 0.2]
    )
    assert [learning_rate_factor(step, constant) for step in (4, 10, 110)] == [0.5, 1.0, 1.0]


def test_wsd_is_stable_and_decays_at_the_end() -> None:
    run = make_run(schedule="wsd", decay_steps=36)
    steps = (9, 10, 74, 83, 110)
    assert [learning_rate_factor(step, run) for step in steps] == pytest.approx(
        [1.0, 1.0, 1.0, 0.6, 0.2]
    )
    assert make_run(schedule="wsd").optim.decay(110) == (88, 110)


def test_warm_up_and_decay_as_shares_and_a_later_start() -> None:
    run = make_run(schedule="linear", warmup_share=0.2, decay_start=60)
    assert learning_rate_factor(10, run) == 0.5
    assert [learning_rate_factor(step, run) for step in (22, 60, 85, 110)] == pytest.approx(
        [1.0, 1.0, 0.6, 0.2]
    )


def test_a_schedule_by_tokens_counts_smaller_steps_as_less() -> None:
    train = TrainConfig(
        steps=110, batch_warmup=((5, 4),), length_warmup=((10, 256),), micro_batch_size=4
    )
    optim = OptimConfig(warmup_steps=10, schedule="linear", final_ratio=0.0, schedule_by="tokens")
    run = RunConfig(train=train, optim=optim)
    # 4 or 8 windows of 256 or 512 tokens: 1 of 1,024 tokens, then 2, then 4
    assert run.step_sizes.tokens_before(10) == 1024 * (5 + 10)
    assert run.step_sizes.tokens_before(110) == 1024 * (5 + 10 + 400)
    assert [learning_rate_factor(step, run) for step in (0, 4, 5, 9, 10, 60)] == pytest.approx(
        [1 / 15, 5 / 15, 7 / 15, 1.0, 1.0, 0.5]
    )


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
