"""Ranks that work longer than the others (imports no torch)."""

import statistics
from collections import deque
from collections.abc import Sequence

STRAGGLER_STEPS = 20


class Stragglers:
    """Finds ranks that are slower than the others, over the last steps.

    State: each rank's seconds in the last steps, and who was named already.
    """

    def __init__(self, ratio: float, num_steps: int = STRAGGLER_STEPS):
        self._ratio = ratio
        self._steps: deque[Sequence[float]] = deque(maxlen=num_steps)
        self._named: set[int] = set()

    def add(self, seconds: Sequence[float]) -> str:
        """Take in a step.

        Args:
            seconds: By rank, the time that it worked, waits for other ranks left out.

        Returns:
            Who has become a straggler; empty if nobody has.
        """
        self._steps.append(seconds)
        if len(self._steps) < (self._steps.maxlen or 0):
            return ""
        means = [statistics.fmean(column) for column in zip(*self._steps, strict=True)]
        # the lower one, or the slow one of two ranks would be measured against itself
        median = statistics.median_low(means)
        slow = {rank for rank, mean in enumerate(means) if mean > self._ratio * median}
        new, self._named = slow - self._named, slow
        return "; ".join(
            f"rank {rank} is a straggler: {means[rank]:.3f} s of work per step, the median is "
            f"{median:.3f} s"
            for rank in sorted(new)
        )
