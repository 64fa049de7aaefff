"""Peak memory of a rank by part, from the lives of its storages."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pretrain.planning.records import Allocation

# in the order in which they are shown
PARTS = (
    "parameters",
    "gradients",
    "optimizer",
    "activations",
    "logits",
    "workspace",
    "communication",
)


class Peak(NamedTuple):
    """The fullest moment of a rank.

    Attributes:
        segment: Name of the segment in which it is.
        device: Bytes on the device by part.
        host: Bytes in host memory by part, at their own fullest moment.
    """

    segment: str
    device: dict[str, int]
    host: dict[str, int]

    @property
    def device_bytes(self) -> int:
        """Bytes on the device."""
        return sum(self.device.values())

    @property
    def host_bytes(self) -> int:
        """Bytes in host memory."""
        return sum(self.host.values())


class Span(NamedTuple):
    """The clock's readings at the ends of a segment."""

    name: str
    begin: int
    end: int


def peak_of(
    allocations: Sequence[Allocation], spans: Sequence[Span], forwards: Sequence[Span]
) -> Peak:
    """The peak within some segments.

    Args:
        allocations: All storages, those of earlier segments included.
        spans: Segments, in their order.
        forwards: Forward passes within them.
    """
    begin, end = spans[0].begin, spans[-1].end
    on_device = [a for a in allocations if not a.label.startswith("host ")]
    on_host = [a for a in allocations if a.label.startswith("host ") or a.left is not None]
    moment = _fullest(
        [(a.birth, _last(a, end) if a.left is None else a.left, a.bytes) for a in on_device],
        begin,
        end,
    )
    host_moment = _fullest(
        [(a.birth if a.left is None else a.left, _last(a, end), a.bytes) for a in on_host],
        begin,
        end,
    )
    device: Counter[str] = Counter(dict.fromkeys(PARTS, 0))
    host: Counter[str] = Counter()
    for a in on_device:
        last = _last(a, end) if a.left is None else a.left
        if a.birth <= moment < last:
            device[_part(a, forwards)] += a.bytes
    for a in on_host:
        first = a.birth if a.left is None else a.left
        if first <= host_moment < _last(a, end):
            host[_part(a, forwards).removeprefix("host ")] += a.bytes
    segment = next(span.name for span in reversed(spans) if span.begin <= moment)
    return Peak(segment, dict(device), dict(host))


def _last(allocation: Allocation, end: int) -> int:
    """The clock's reading from which a storage is free; one that lives on is never."""
    return end + 1 if allocation.death is None else allocation.death


def _fullest(lives: Sequence[tuple[int, int, int]], begin: int, end: int) -> int:
    """The clock's reading between `begin` and `end` at which most bytes live."""
    change = np.zeros(end + 2, dtype=np.int64)
    for birth, death, size in lives:
        change[min(birth, end + 1)] += size
        change[min(death, end + 1)] -= size
    return begin + int(np.cumsum(change)[begin : end + 1].argmax())


def _part(allocation: Allocation, forwards: Sequence[Span]) -> str:
    """The part that a storage belongs to."""
    if allocation.label:
        return allocation.label
    for span in forwards:
        if span.begin <= allocation.birth <= span.end:
            kept = allocation.death is None or allocation.death > span.end
            return "activations" if kept else "workspace"
    return "workspace"
