"""The lines at the end of every benchmark: a bar, the figure, and whether it holds.

Importing this puts the repository before the benchmarks' folder on the path: the script kernels.py
must not hide the package of that name.
"""

import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


class Bar(NamedTuple):
    """What a figure must reach.

    Attributes:
        name: What is measured, against what.
        figure: The measurement.
        limit: The bar.
        at_most: Whether the figure must not exceed it; otherwise it must reach it.
    """

    name: str
    figure: float
    limit: float
    at_most: bool = False

    @property
    def holds(self) -> bool:
        return self.figure <= self.limit if self.at_most else self.figure >= self.limit


def judge(bars: list[Bar]) -> None:
    """Print a line per bar; exit with 1 if one falls short."""
    for bar in bars:
        sign, verdict = "<=" if bar.at_most else ">=", "holds" if bar.holds else "falls short"
        print(f"bar: {bar.name}: {bar.figure:.3g} ({sign} {bar.limit:.3g}): {verdict}")
    sys.exit(not all(bar.holds for bar in bars))
