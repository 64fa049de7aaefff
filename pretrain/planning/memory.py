"""Peak memory of a rank by part, from the lives of its storages."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
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
    """A full moment of a rank.

    Attributes:
        segment: Name of the segment in which it is.
        device: Bytes on the device by part.
        host: Bytes in host memory by part, at the fullest moment of that.
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


def fullest(peaks: Iterable[Peak]) -> Peak:
    """The fullest of some moments, on the device, and on the host by itself."""
    peaks = list(peaks)
    device = max(peaks, key=lambda peak: peak.device_bytes)
    return device._replace(host=max(peaks, key=lambda peak: peak.host_bytes).host)


def moments_of(
    allocations: Sequence[Allocation], spans: Sequence[Span], forwards: Sequence[Span]
) -> list[Peak]:
    """The fullest moments of both halves of every segment.

    Args:
        allocations: All storages, those of earlier segments included.
        spans: Segments, in their order.
        forwards: Forward passes within them.
    """
    end = spans[-1].end
    device = _Lives(
        (a, a.birth, _last(a, end) if a.left is None else a.left)
        for a in allocations
        if not a.label.startswith("host ")
    )
    host = _Lives(
        (a, a.birth if a.left is None else a.left, _last(a, end))
        for a in allocations
        if a.label.startswith("host ") or a.left is not None
    )
    moments = []
    for name, first, last in spans:
        middle = (first + last) // 2
        for begin, finish in ((first, middle), (middle, last)):
            parts = Counter(dict.fromkeys(PARTS, 0))
            for a in device.at_fullest(begin, finish):
                parts[_part(a, forwards)] += a.bytes
            outside: Counter[str] = Counter()
            for a in host.at_fullest(begin, finish):
                outside[_part(a, forwards).removeprefix("host ")] += a.bytes
            moments.append(Peak(name, dict(parts), dict(outside)))
    return moments


class _Lives:
    """Storages with the readings of the clock between which they are in one memory."""

    def __init__(self, lives: Iterable[tuple[Allocation, int, int]]):
        self._allocations, births, deaths = [], [], []
        for allocation, birth, death in lives:
            self._allocations.append(allocation)
            births.append(birth)
            deaths.append(death)
        sizes = [allocation.bytes for allocation in self._allocations]
        self._births, self._deaths = np.array(births, np.int64), np.array(deaths, np.int64)
        # how many bytes live at each reading
        change = np.zeros(max(deaths, default=0) + 1, np.int64)
        np.add.at(change, self._births, sizes)
        np.subtract.at(change, self._deaths, sizes)
        self._held = np.cumsum(change)

    def at_fullest(self, begin: int, end: int) -> Iterator[Allocation]:
        """The storages at the fullest moment between two readings."""
        held = self._held[begin : end + 1]
        if not held.size:
            return
        moment = begin + int(held.argmax())
        for place in np.flatnonzero((self._births <= moment) & (self._deaths > moment)):
            yield self._allocations[place]


def _last(allocation: Allocation, end: int) -> int:
    """The clock's reading from which a storage is free; one that lives on is never."""
    return end + 1 if allocation.death is None else allocation.death


def _part(allocation: Allocation, forwards: Sequence[Span]) -> str:
    """The part that a storage belongs to."""
    if allocation.label:
        return allocation.label
    for span in forwards:
        if span.begin <= allocation.birth <= span.end:
            kept = allocation.death is None or allocation.death > span.end
            return "activations" if kept else "workspace"
    return "workspace"
