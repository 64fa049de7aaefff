"""The losses of a run, and the run that disturbed ones are compared with."""

from pathlib import Path
from typing import NamedTuple

from pretrain.jsonl import read_lines

STEPS = 24


class Step(NamedTuple):
    """What `metrics.jsonl` says of a step, or of a validation after it."""

    step: int
    loss: float | None
    grad_norm: float | None
    valid_loss: float | None


def losses(output: Path) -> list[Step]:
    """Every record of a run's directory, in order."""
    records = read_lines(output / "metrics.jsonl")
    return [
        Step(r["step"], r.get("loss"), r.get("grad_norm"), r.get("valid_loss")) for r in records
    ]
