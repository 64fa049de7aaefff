"""Verdicts about steps: what is bad, what is done about it, and when it is too much."""

import math

import pytest

from pretrain.health_config import GuardConfig
from pretrain.resilience.guard import Guard

FINE = GuardConfig(spike_history=10, on_spike="skip", limit=2, limit_steps=100)


def _after(losses: list[float], config: GuardConfig = FINE) -> Guard:
    guard = Guard(config)
    for step, loss in enumerate(losses, start=1):
        assert guard.judge(step, loss, 1.0).action == "apply"
    return guard


@pytest.mark.parametrize(
    ("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (3.0, math.inf), (3.0, math.nan)]
)
@pytest.mark.parametrize("policy", ["stop", "skip", "rollback"])
def test_what_is_no_number_is_never_applied(loss: float, norm: float, policy: str) -> None:
    verdict = Guard(GuardConfig.model_validate({"on_nonfinite": policy})).judge(1, loss, norm)
    assert verdict.action == policy
    assert not verdict.applies
    assert verdict.reason


def test_a_spike_is_measured_against_the_losses_before() -> None:
    noisy = [3.0, 3.2] * 5
    # median 3.1, deviation 0.1: 10 x 1.4826 x 0.1 above it
    assert _after(noisy).judge(11, 4.5, 1.0).action == "apply"
    assert _after(noisy).judge(11, 4.6, 1.0).action == "skip"
    # steady losses: the least rise decides
    assert _after([3.0] * 10).judge(11, 3.49, 1.0).action == "apply"
    assert _after([3.0] * 10).judge(11, 3.51, 1.0).action == "skip"


def test_there_is_no_spike_before_there_is_a_history() -> None:
    assert _after([3.0] * 9).judge(10, 100.0, 1.0).action == "apply"


def test_a_noted_spike_is_applied_and_becomes_history() -> None:
    guard = _after([3.0] * 10, FINE.model_copy(update={"on_spike": "note"}))
    verdict = guard.judge(11, 9.0, 1.0)
    assert (verdict.action, verdict.applies) == ("note", True)
    assert guard.state_dict()["losses"][-1] == 9.0


def test_bad_steps_are_bounded_and_forgotten() -> None:
    guard = Guard(FINE)
    assert [guard.judge(step, math.nan, 1.0).action for step in (1, 1, 1)] == [
        "skip",
        "skip",
        "stop",
    ]
    guard = Guard(FINE)
    assert [guard.judge(step, math.nan, 1.0).action for step in (1, 2, 102, 103)] == ["skip"] * 4


def test_going_back_forgets_losses_but_not_what_was_passed_over() -> None:
    guard = _after([3.0, 2.0])
    saved = guard.state_dict()
    guard.judge(3, 1.0, 1.0)
    guard.judge(4, math.nan, 1.0)
    guard.rewind(saved)
    assert guard.state_dict() == {"losses": [3.0, 2.0], "passed_over": [4]}
    resumed = Guard(FINE)
    resumed.load_state_dict(saved)
    assert resumed.state_dict() == {"losses": [3.0, 2.0], "passed_over": []}
