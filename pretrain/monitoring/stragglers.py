"""Ranks that work longer than the others (imports no torch)."""

import statistics
from collections import deque
from collections.abc import Sequence

STRAGGLER_STEPS = 20


class Stragglers:
    """Detection of ranks that are slower than the others over the last steps.

    State: each rank's seconds in the last steps, and the ranks already named.
    """

    def __init__(self, ratio: float, num_steps: int = STRAGGLER_STEPS):
        self._ratio = ratio
        self._steps: deque[Sequence[float]] = deque(maxlen=num_steps)
        self._named: set[int] = set()

    def add(self, seconds: Sequence[float]) -> str:
        """Add a step.

        Args:
            seconds: Working time of each rank, without waits for other ranks.

        Returns:
            A message about new stragglers; empty if there are none.
        """
        self._steps.append(seconds)
        if len(self._steps) < (self._steps.maxlen or 0):
            return ""
        means = [statistics.fmean(column) for column in zip(*self._steps, strict=True)]
        # the lower median, so that the slow one of two ranks is not compared with itself
        median = statistics.median_low(means)
        slow = {rank for rank, mean in enumerate(means) if mean > self._ratio * median}
        new, self._named = slow - self._named, slow
        return "; ".join(
            f"rank {rank} is a straggler: {means[rank]:.3f} s of work per step, the median is "
            f"{median:.3f} s"
            for rank in sorted(new)
        )
