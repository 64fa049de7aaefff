"""One training run from its description to its measurements, with one thread.

A run does not depend on which process takes it, or on how many cores the machine has.
"""

import json
import math
import platform
import subprocess
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import spectral.mixers.context
from benchmarks.quality import mqar, text
from benchmarks.quality.models import build, non_embedding
from benchmarks.quality.plan import Budget, Run
from benchmarks.quality.training import accuracy, token_losses, train

Result = dict[str, Any]


class Worker:
    """Carries out runs.

    Args:
        budget: Sizes of batches.
        corpora: Texts that runs name.
    """

    def __init__(self, budget: Budget, corpora: list[text.Corpus]):
        self.budget, self.corpora = budget, {corpus.name: corpus for corpus in corpora}

    def measure(self, run: Run, path: Path) -> Result:
        """Train; write and return the run with its measurements, commit and machine."""
        torch.set_num_threads(1)
        phases = spectral.mixers.context.rotary_phases
        if not run.rotary:
            spectral.mixers.context.rotary_phases = _no_phases
        try:
            measured = self._recall(run) if run.task.startswith("mqar") else self._text(run)
        finally:
            spectral.mixers.context.rotary_phases = phases
        found = run._asdict() | measured | {"commit": _commit(), "machine": _machine()}
        part = path.with_suffix(".part")
        part.write_text(json.dumps(found, indent=1))
        part.rename(path)
        return found

    def _text(self, run: Run) -> Result:
        corpus, length = self.corpora[run.task], self.budget.length
        model = build(run.kind, run.size, text.VOCAB_SIZE, length, run.changes, run.seed)
        batches = text.batches(corpus.train, self.budget.batch, length, run.seed)
        found = train(model, batches, run.steps, run.rate)
        tokens, labels, recalled = text.valid_windows(corpus, length)
        # a model that has diverged is the worst of all
        losses = token_losses(model, tokens, labels).nan_to_num(nan=math.inf)
        return found | {
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

        found = train(model, batches(), run.steps, run.rate)
        tokens, labels = mqar.examples(1_000, length, pairs, seed=10**9)
        return found | {
            "num_parameters": non_embedding(model),
            "num_tokens": run.steps * self.budget.recall_batch * length,
            "accuracy": accuracy(model, tokens, labels),
        }


def _no_phases(
    position: int, length: int, head_dim: int, base: float, like: Tensor
) -> tuple[Tensor, Tensor]:
    """(cos_TF, sin_TF) that turn nothing."""
    del position, base
    return like.new_ones(length, head_dim // 2), like.new_zeros(length, head_dim // 2)


def _machine() -> str:
    """Processor and torch, as results should name them."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":")[1].strip() if names else model
    return f"one core of {model}, torch {torch.__version__}"


def _commit() -> str:
    """Short hash of the commit, with '-dirty' if files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=7"]
    root = Path(__file__).parents[2]
    found = subprocess.run(command, cwd=root, capture_output=True, text=True)
    return found.stdout.strip() or "unknown"
