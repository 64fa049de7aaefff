"""Figures of a benchmark and the bars that they must reach."""

from collections.abc import Sequence
from typing import NamedTuple


class Figure(NamedTuple):
    """A measured number, with a bar if one is set.

    Attributes:
        name: Quantity that was measured, and against what.
        value: The measurement.
        unit: Unit of the value; "ratio" for a quotient of two measurements.
        limit: Bar that the value must reach; None if it is only reported.
        at_most: Whether the bar is the largest value allowed instead of the smallest.
    """

    name: str
    value: float
    unit: str = "ratio"
    limit: float | None = None
    at_most: bool = False

    @property
    def holds(self) -> bool | None:
        """Whether the bar is reached; None without a bar."""
        if self.limit is None:
            return None
        return self.value <= self.limit if self.at_most else self.value >= self.limit


class Outcome(NamedTuple):
    """Everything that a benchmark reports.

    Attributes:
        setting: What was measured on, in one sentence.
        figures: Measured numbers; names are unique.
    """

    setting: str
    figures: list[Figure]


def print_bars(figures: Sequence[Figure], *, judged: bool) -> bool:
    """Print a line per bar: its name, the figure, the limit and the verdict.

    Args:
        figures: Those without a bar are passed over.
        judged: False for the quick form, whose figures say nothing.

    Returns:
        Whether every judged bar holds.
    """
    verdicts = {True: "holds", False: "falls short"}
    bars = [figure for figure in figures if figure.limit is not None]
    for bar in bars:
        verdict = verdicts[bool(bar.holds)] if judged else "not judged"
        sign = "<=" if bar.at_most else ">="
        print(f"bar: {bar.name}: {bar.value:.3g} ({sign} {bar.limit:.3g}): {verdict}")
    return not judged or all(bar.holds for bar in bars)
