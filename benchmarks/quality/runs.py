"""Training runs from description to measurements, with one thread.

A run depends neither on the process that trains it nor on the number of cores.
"""

import math
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import torch
from torch import Tensor

import spectral.mixers.context
from benchmarks.harness.results import commit, processor, write_json
from benchmarks.quality import groups, mqar, text
from benchmarks.quality.models import build, non_embedding
from benchmarks.quality.plan import Budget, Run
from benchmarks.quality.stored import Result
from benchmarks.quality.training import accuracy, token_losses, train

# state tracking is tested at four times this length
TRACKED_TOKENS = 64


class Worker:
    """Trains and measures runs.

    Args:
        budget: Sizes of batches.
        corpora: Texts on which runs train, named in their `task`.
    """

    def __init__(self, budget: Budget, corpora: list[text.Corpus]):
        self.budget, self.corpora = budget, {corpus.name: corpus for corpus in corpora}

    def measure(self, run: Run, path: Path) -> Result:
        """The run with its measurements, commit and machine; also written to `path`."""
        torch.set_num_threads(1)
        phases = spectral.mixers.context.rotary_phases
        if not run.rotary:
            spectral.mixers.context.rotary_phases = _no_phases
        try:
            kind = run.task.split("-")[0]
            measured = {"mqar": self._recall, "track": self._track}.get(kind, self._text)(run)
        finally:
            spectral.mixers.context.rotary_phases = phases
        machine = f"one core of {processor()}, torch {torch.__version__}"
        result = run._asdict() | measured | {"commit": commit("quality"), "machine": machine}
        write_json(path, result)
        return result

    def _text(self, run: Run) -> Result:
        corpus, length = self.corpora[run.task], self.budget.length
        model = build(run.kind, run.size, text.VOCAB_SIZE, length, run.changes, run.seed)
        batches = text.batches(corpus.train, self.budget.batch, length, run.seed)
        curve = train(model, batches, run.steps, run.rate)
        tokens, labels, recalled = text.valid_windows(corpus, length)
        # a model that has diverged is the worst of all
        losses = token_losses(model, tokens, labels).nan_to_num(nan=math.inf)
        return curve | {
            "num_parameters": non_embedding(model),
            "num_tokens": run.steps * self.budget.batch * length,
            "valid_loss": losses.mean().item(),
            "recalled_loss": losses[recalled].mean().item(),
            "other_loss": losses[~recalled].mean().item(),
            "recalled_share": recalled.double().mean().item(),
        }

    def _recall(self, run: Run) -> Result:
        length, pairs = (int(part) for part in run.task.split("-")[1:])
        model = build(run.kind, run.size, mqar.VOCAB_SIZE, length, run.changes, run.seed)

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            for step in count():
                yield mqar.examples(self.budget.recall_batch, length, pairs, seed=step)

        curve = train(model, batches(), run.steps, run.rate)
        tokens, labels = mqar.examples(1_000, length, pairs, seed=10**9)
        return curve | {
            "num_parameters": non_embedding(model),
            "num_tokens": run.steps * self.budget.recall_batch * length,
            "accuracy": accuracy(model, tokens, labels),
        }

    def _track(self, run: Run) -> Result:
        group = run.task.split("-", 1)[1]
        longer = 4 * TRACKED_TOKENS
        model = build(run.kind, run.size, groups.VOCAB_SIZE, longer, run.changes, run.seed)

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            for step in count():
                yield groups.examples(group, self.budget.recall_batch, TRACKED_TOKENS, seed=step)

        curve = train(model, batches(), run.steps, run.rate)
        same, far = (
            accuracy(model, *groups.examples(group, 200, length, seed=10**9))
            for length in (TRACKED_TOKENS, longer)
        )
        return curve | {
            "num_parameters": non_embedding(model),
            "num_tokens": run.steps * self.budget.recall_batch * TRACKED_TOKENS,
            "accuracy": same,
            "accuracy_longer": far,
        }


def _no_phases(
    position: int, length: int, head_dim: int, base: float, like: Tensor
) -> tuple[Tensor, Tensor]:
    """(cos_TF, sin_TF) that rotate nothing."""
    del position, base
    return like.new_ones(length, head_dim // 2), like.new_zeros(length, head_dim // 2)
