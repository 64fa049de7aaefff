"""The surroundings in which faults strike."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from tests.faults.trial import Trial


class Scene(NamedTuple):
    """Surroundings of a run.

    Attributes:
        prepare: Arranges them, before the run starts.
        faults: How many faults strike a run in them.
        also: Scenes whose faults may strike here, too.
    """

    prepare: Callable[[Trial], None]
    faults: int = 8
    also: tuple[str, ...] = ("plain",)


def _plain(_trial: Trial) -> None:
    """Ranks read their data themselves."""


def _readers(trial: Trial) -> None:
    """Each rank has a process that reads its data."""
    trial.workers = 1


SCENES: Mapping[str, Scene] = {
    "plain": Scene(_plain, also=()),
    "readers": Scene(_readers),
}
