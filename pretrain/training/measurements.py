"""Measurements of the model during training: validation, text files and tasks."""

import time
from typing import Any

from pretrain.config import RunConfig
from pretrain.evaluation.during_training import TrainingEvaluation
from pretrain.monitoring.journal import Journal
from pretrain.monitoring.jsonl import Record
from pretrain.parallel.mesh import Mesh
from pretrain.resilience.stop_signals import StopPoll
from pretrain.runtime.ranks import Ranks
from pretrain.training.progress import Progress
from pretrain.training.validation import validation


class Measurements:
    """The measurements that are due after some of the steps; all methods are collectives.

    Args:
        run: The run.
        mesh: This rank's place in the layout.
        engine: The DeepSpeed engine.
        ranks: This process among the ranks.
        poll: Notices signals to stop.
        progress: Steps that are done.
        journal: Receives the records.

    Raises:
        RunError: A text cannot be read, or lm-eval is missing or knows no such task.
    """

    def __init__(
        self,
        run: RunConfig,
        mesh: Mesh,
        engine: Any,
        ranks: Ranks,
        poll: StopPoll,
        progress: Progress,
        journal: Journal,
    ):
        self.run, self.mesh, self.engine, self.ranks = run, mesh, engine, ranks
        self.poll, self.progress, self.journal = poll, progress, journal
        self.evaluation: TrainingEvaluation | None = None
        if run.evaluate.every:
            self.evaluation = TrainingEvaluation(run, mesh, ranks, poll)

    def run_due(self, *, only_missing: bool = False) -> None:
        """Measure what is due after the current step.

        Args:
            only_missing: Whether to leave out what a run had measured before it was interrupted.

        Raises:
            Stopped: A rank was asked to stop.
        """
        run, step = self.run, self.progress.step
        validate_every = run.train.validate_every if run.data.valid else 0
        for key, every, measure in (
            ("valid_loss", validate_every, self.validate),
            ("eval_seconds", run.evaluate.every, self.evaluate),
        ):
            due = every > 0 and is_due(every, step, run.train.steps)
            if due and not (only_missing and self.journal.has(key, step)):
                measure()

    def validate(self) -> Record:
        """Compute what the objective reports of the held-out split; the validation's record.

        Raises:
            Stopped: A rank was asked to stop.
        """
        begin = time.perf_counter()
        report = validation(self.run, self.mesh, self.engine, self.ranks, self.poll)
        return self._log(report, "valid_seconds", begin)

    def evaluate(self) -> Record:
        """Measure the texts and tasks of `[evaluate]`; the evaluation's record.

        Raises:
            Stopped: A rank was asked to stop.
        """
        begin = time.perf_counter()
        measured = self.evaluation.measure(self.engine) if self.evaluation else {}
        return self._log(measured, "eval_seconds", begin)

    def _log(self, measured: Record, seconds: str, begin: float) -> Record:
        record = {"step": self.progress.step, "tokens": self.progress.tokens, **measured}
        record[seconds] = time.perf_counter() - begin
        self.journal.log(record)
        return record


def is_due(every: int, step: int, steps: int) -> bool:
    """Whether something is due after a step: at multiples of `every`, and after the last step."""
    return step == steps or (every > 0 and step % every == 0)
