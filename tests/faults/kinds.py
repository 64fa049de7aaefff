"""Kinds of faults: each a record with its name, what it does and the surroundings that it needs."""

from collections.abc import Callable, Mapping
from random import Random
from typing import NamedTuple

from tests.faults import process_faults
from tests.faults.trial import Trial

ANY = (1, 2, 4)


class Kind(NamedTuple):
    """A kind of fault.

    Attributes:
        name: Its name in plans, records and docs/survival.md.
        does: What it does, in a few words, for the table there.
        strike: Does it to a run; whether there was something to strike.
        scene: The surroundings that it needs, see `tests.faults.scenes`.
        ranks: Numbers of ranks that it makes sense with.
        weight: How often it is drawn, relative to the others.
    """

    name: str
    does: str
    strike: Callable[[Trial, Random], bool]
    scene: str = "plain"
    ranks: tuple[int, ...] = ANY
    weight: float = 1.0


_ALL = (
    Kind("rank killed", "SIGKILL of a rank", process_faults.kill_rank),
    Kind("rank stopped", "SIGTERM of a rank", process_faults.stop_rank),
    Kind("launcher killed", "SIGKILL of the launcher alone", process_faults.kill_launcher),
    Kind("launcher stopped", "SIGTERM of the launcher", process_faults.stop_launcher),
    Kind("power lost", "SIGKILL of all processes at once", process_faults.kill_all),
    Kind("reader killed", "SIGKILL of a reader process", process_faults.kill_reader, "readers"),
    Kind("reader stopped", "SIGTERM of a reader process", process_faults.stop_reader, "readers"),
)
KINDS: Mapping[str, Kind] = {kind.name: kind for kind in _ALL}
