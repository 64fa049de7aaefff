"""audit.jsonl: a record of every bad step, with the documents that were read (imports no torch)."""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pretrain.monitoring.jsonl import JsonLines
from pretrain.resilience.guard import Verdict


class MicroBatch(NamedTuple):
    """What one rank read for one forward pass.

    Attributes:
        rank, number: Whose it is, and which of the step's.
        loss: Sum over its tokens.
        documents: By row, the (dataset, document) of each segment.
    """

    rank: int
    number: int
    loss: float
    documents: Sequence[Sequence[tuple[int, int]]]


class AuditLog:
    """audit.jsonl of a run's directory: one record per bad step. Only rank 0 has one.

    It is never cut back: a step that is done again after a crash is written again.
    """

    def __init__(self, directory: Path):
        self._lines = JsonLines(directory / "audit.jsonl")

    def write(self, step: int, verdict: Verdict, batches: Sequence[MicroBatch]) -> None:
        """Write down a bad step.

        Args:
            step: Its number.
            verdict: What is done about it.
            batches: What all ranks read. If some of their losses are no numbers, only those.
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
