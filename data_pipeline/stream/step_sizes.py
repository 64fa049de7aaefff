"""Sizes of the steps of a run: few or short windows at first, from some step on all (no torch)."""

from typing import NamedTuple

# (step, size): the steps before this one have this size, unless an earlier entry gives theirs
Stages = tuple[tuple[int, int], ...]


class StepSizes(NamedTuple):
    """Windows of every step, and tokens of each window.

    Attributes:
        rows: Windows of a step, over all ranks.
        length: Tokens of a window.
        row_stages: Smaller numbers of windows at the start.
        length_stages: Smaller windows at the start.
    """

    rows: int
    length: int
    row_stages: Stages = ()
    length_stages: Stages = ()

    def rows_at(self, step: int) -> int:
        """Windows of a step, counted from 0."""
        return _at(step, self.row_stages, self.rows)

    def length_at(self, step: int) -> int:
        """Tokens of each window of a step, counted from 0."""
        return _at(step, self.length_stages, self.length)

    def tokens_before(self, step: int) -> int:
        """Tokens of all steps before this one."""
        ends = sorted({end for end, _ in (*self.row_stages, *self.length_stages) if end < step})
        total = first = 0
        for end in (*ends, step):
            total += (end - first) * self.rows_at(first) * self.length_at(first)
            first = end
        return total


def _at(step: int, stages: Stages, last: int) -> int:
    return next((size for end, size in stages if step < end), last)
