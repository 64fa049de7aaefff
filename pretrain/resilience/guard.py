"""Verdicts on steps with bad numbers, before they are applied (imports no torch).

A verdict is a pure function of numbers that all ranks share and of earlier losses, so all ranks
reach the same one. It is recorded in audit.jsonl, with the documents of the step.
"""

import math
import statistics
from collections import deque
from typing import Any, Literal, NamedTuple

from pretrain.errors import RunError
from pretrain.health_config import GuardConfig

Action = Literal["apply", "note", "stop", "skip", "rollback"]
# standard deviation over median absolute deviation, for a normal distribution
MAD_SIGMA = 1.4826


class Verdict(NamedTuple):
    """A verdict on a step.

    Attributes:
        action: "apply" and "note" apply the step; "skip" and "rollback" skip its data.
        reason: Description of the bad number; empty if there is none.
    """

    action: Action
    reason: str = ""

    @property
    def applies(self) -> bool:
        """Whether the gradient is to be applied."""
        return self.action in ("apply", "note")


def bad_step_error(step: int, verdict: Verdict) -> RunError:
    """The error of a run that stops because of a bad step."""
    error = RunError(
        f"step {step}: {verdict.reason}. It was not applied. Look at its documents in audit.jsonl; "
        "lower optim.learning_rate, raise optim.warmup_steps or let [guard] skip such steps, and "
        "continue with --resume"
    )
    error.agreed = True
    return error


class Guard:
    """Verdicts on the steps of a run.

    State, kept in checkpoints: the losses that a spike is measured against, and the skipped steps.
    """

    def __init__(self, config: GuardConfig):
        self.config = config
        self._losses: deque[float] = deque(maxlen=config.spike_history)
        self._passed_over: list[int] = []

    def judge(self, step: int, loss: float, grad_norm: float) -> Verdict:
        """The verdict on a step whose gradient is computed but not applied yet.

        Args:
            step: Number of the step.
            loss: Mean over all tokens of all ranks.
            grad_norm: Norm of the whole gradient.
        """
        action: Action
        if not math.isfinite(loss):
            action, reason = self.config.on_nonfinite, f"the loss is {loss}"
        elif not math.isfinite(grad_norm):
            action, reason = self.config.on_nonfinite, f"the norm of the gradient is {grad_norm}"
        elif loss > self._highest():
            action = self.config.on_spike
            reason = f"the loss is {loss:.4f}; expected at most {self._highest():.4f}"
        else:
            action, reason = "apply", ""
        if action in ("apply", "note"):
            self._losses.append(loss)
            return Verdict(action, reason)
        first = step - self.config.limit_steps
        self._passed_over = [*(at for at in self._passed_over if at > first), step]
        if action != "stop" and len(self._passed_over) > self.config.limit:
            limit = f"{self.config.limit} bad steps in {self.config.limit_steps}"
            return Verdict("stop", f"{reason}, after {limit} (guard.limit)")
        return Verdict(action, reason)

    def _highest(self) -> float:
        """The highest loss that is no spike."""
        if len(self._losses) < self.config.spike_history:
            return math.inf
        median = statistics.median(self._losses)
        deviation = statistics.median(abs(loss - median) for loss in self._losses)
        rise = max(self.config.spike_sigmas * MAD_SIGMA * deviation, self.config.spike_rise)
        return median + rise

    def state_dict(self) -> dict[str, Any]:
        """State as JSON-able numbers."""
        return {"losses": list(self._losses), "passed_over": self._passed_over}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        self._passed_over = list(state["passed_over"])
        self.rewind(state)

    def rewind(self, state: dict[str, Any]) -> None:
        """Go back to a saved state, but keep the steps that were skipped since."""
        self._losses = deque(state["losses"], maxlen=self.config.spike_history)
