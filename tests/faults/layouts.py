"""The layouts of the runs that faults strike."""

from collections.abc import Mapping
from typing import NamedTuple


class Layout(NamedTuple):
    """How a run is split over ranks.

    Attributes:
        ranks: Number of ranks.
        options: Further flags of `resonance pretrain`.
    """

    ranks: int
    options: tuple[str, ...] = ()


LAYOUTS: Mapping[str, Layout] = {
    "1": Layout(1),
    "2 data": Layout(2),
    "2 tensor": Layout(2, ("--parallel.tensor", "2")),
    "2 pipeline": Layout(2, ("--parallel.pipeline", "2")),
    "2 sequence": Layout(2, ("--parallel.sequence", "2")),
    "4 data, ZeRO-3": Layout(4, ("--parallel.zero-stage", "3")),
    "4 tensor and data": Layout(4, ("--parallel.tensor", "2")),
}
