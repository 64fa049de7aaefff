"""audit.jsonl: a record of every bad step, with the documents that were read (imports no torch)."""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pretrain.monitoring.jsonl import JsonLines
from pretrain.resilience.guard import Verdict


class MicroBatch(NamedTuple):
    """Documents and loss of one forward pass of one rank.

    Attributes:
        rank: Rank that read it.
        number: Its number within the step.
        loss: Sum over its tokens.
        documents: By row, the (dataset, document) of each segment.
    """

    rank: int
    number: int
    loss: float
    documents: Sequence[Sequence[tuple[int, int]]]


class AuditLog:
    """audit.jsonl of a run directory, one record per bad step; only on rank 0.

    It is never truncated: a step that is repeated after a crash is recorded again.
    """

    def __init__(self, directory: Path):
        self._lines = JsonLines(directory / "audit.jsonl")

    def write(self, step: int, verdict: Verdict, batches: Sequence[MicroBatch]) -> None:
        """Record a bad step.

        Args:
            step: Number of the step.
            verdict: The guard's verdict on it.
            batches: Micro-batches of all ranks. If some have losses that are NaN or infinite, only
                those are recorded.
        """
        bad = [batch for batch in batches if not math.isfinite(batch.loss)]
        self._lines.append(
            {
                "time": time.time(),
                "step": step,
                "action": verdict.action,
                "reason": verdict.reason,
                "batches": [
                    # JSON has no NaN
                    batch._asdict() | {"loss": batch.loss if math.isfinite(batch.loss) else None}
                    for batch in bad or batches
                ],
            }
        )

    def close(self) -> None:
        """Close the file."""
        self._lines.close()
