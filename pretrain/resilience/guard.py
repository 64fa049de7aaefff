"""Bad numbers: what to do about a step before it is applied (imports no torch).

A pure function of numbers that all ranks share, and of the losses before: every rank comes to the
same verdict. What was done is written into audit.jsonl, with the documents that were read.
"""

import math
import statistics
from collections import deque
from typing import Any, Literal, NamedTuple

from pretrain.config import GuardConfig
from pretrain.errors import RunError

Action = Literal["apply", "note", "stop", "skip", "rollback"]
# standard deviation of a normal distribution, by its median absolute deviation
MAD_SIGMA = 1.4826


class Verdict(NamedTuple):
    """What to do about a step.

    Attributes:
        action: "apply" and "note" apply it; "skip" and "rollback" pass over its data.
        reason: What is wrong with it; empty if nothing is.
    """

    action: Action
    reason: str = ""

    @property
    def applies(self) -> bool:
        """Whether the gradient is to be applied."""
        return self.action in ("apply", "note")


def bad_step_error(step: int, verdict: Verdict) -> RunError:
    """What a run that stops because of a step has to say."""
    error = RunError(
        f"step {step}: {verdict.reason}. It was not applied. Look at its documents in audit.jsonl; "
        "lower optim.learning_rate, raise optim.warmup_steps or let [guard] pass over such steps, "
        "and go on with --resume"
    )
    error.agreed = True
    return error


class Guard:
    """Judges steps.

    State, kept in checkpoints: the losses that a spike is measured against, and the steps at which
    data was passed over.
    """

    def __init__(self, config: GuardConfig):
        self.config = config
        self._losses: deque[float] = deque(maxlen=config.spike_history)
        self._passed_over: list[int] = []

    def judge(self, step: int, loss: float, grad_norm: float) -> Verdict:
        """Decide about a step that has its loss and gradient but is not applied yet.

        Args:
            step: Its number.
            loss: Mean over all tokens of all ranks.
            grad_norm: Of the whole gradient.
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
        """Go on from a saved state."""
        self._passed_over = list(state["passed_over"])
        self.rewind(state)

    def rewind(self, state: dict[str, Any]) -> None:
        """Go back to a saved state, but remember what was passed over since."""
        self._losses = deque(state["losses"], maxlen=self.config.spike_history)
