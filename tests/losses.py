"""The losses of a run, and the run that disturbed ones are compared with."""

from pathlib import Path
from typing import NamedTuple

from launch.json_lines import read_lines

STEPS = 24


class Step(NamedTuple):
    """What `metrics.jsonl` says of a step, or of a validation after it."""

    step: int
    loss: float | None
    grad_norm: float | None
    valid_loss: float | None


# A layout is compared over ten steps (`tests/distributed/test_layouts.py`): AdamW makes the
# rounding errors of another order of sums grow. The first three steps are done before a fault.
COMPARED_STEPS = 13


def trained(records: list[Step]) -> dict[int, float]:
    """The loss of every step, validations left out."""
    return {record.step: record.loss for record in records if record.loss is not None}


def first_losses(records: list[Step]) -> dict[int, float]:
    """The losses that other numbers of ranks must give to 1e-5."""
    return {step: loss for step, loss in trained(records).items() if step <= COMPARED_STEPS}


def losses(output: Path) -> list[Step]:
    """Every record of a run's directory, in order."""
    records = read_lines(output / "metrics.jsonl")
    return [
        Step(r["step"], r.get("loss"), r.get("grad_norm"), r.get("valid_loss")) for r in records
    ]
