"""The surroundings in which faults strike."""

from collections.abc import Callable, Mapping
from random import Random
from typing import NamedTuple

from tests.faults import host_faults, number_faults, store_faults
from tests.faults.layouts import LAYOUTS
from tests.faults.trial import Trial

KILLS = ("rank killed", "power lost")
SIGNALS = (*KILLS, "rank stopped", "launcher killed", "launcher stopped")
DISK = ("disk full", "folder read-only")
CHECKPOINT = ("checkpoint flipped", "checkpoint cut", "checkpoint deleted")


class Scene(NamedTuple):
    """Surroundings of a run.

    Attributes:
        prepare: Arranges them, before the run starts; may draw what it needs.
        faults: How many faults strike a run in them.
        also: Kinds that may strike here, besides those that need these surroundings.
        layouts: Names of the layouts that can be in them.
        repeats: Whether several of the faults that need them may strike one run.
    """

    prepare: Callable[[Trial, Random], None]
    faults: int = 8
    also: tuple[str, ...] = SIGNALS
    layouts: tuple[str, ...] = tuple(LAYOUTS)
    repeats: bool = True


def _plain(_trial: Trial, _random: Random) -> None:
    """Ranks read their data themselves."""


def _readers(trial: Trial, _random: Random) -> None:
    """Each rank has a process that reads its data."""
    trial.workers = 1


def _stopping(trial: Trial, _random: Random) -> None:
    """A checkpoint that cannot be written ends the run."""
    trial.options += ("--checkpoint.on-error", "stop")


def _watched(trial: Trial, _random: Random) -> None:
    """The watchdog acts soon."""
    trial.options += ("--health.hang-timeout-s", "12")


def _masking(trial: Trial, _random: Random) -> None:
    """Tokens of damaged shards are masked: the losses are others then."""
    trial.options += ("--data.on-corrupt-shard", "skip")
    trial.compared = False


# a stage of a pipeline computes its loss elsewhere than `number_faults.planted` reaches
_ONE_STAGE = tuple(name for name in LAYOUTS if "pipeline" not in name)

SCENES: Mapping[str, Scene] = {
    "plain": Scene(_plain, also=()),
    "readers": Scene(_readers, also=(*SIGNALS, *CHECKPOINT)),
    "stopping": Scene(_stopping),
    "watched": Scene(_watched, faults=3),
    "masking": Scene(_masking, also=(*SIGNALS, *DISK)),
    "store": Scene(store_faults.serve),
    "NaN, stop": Scene(number_faults.stop, layouts=_ONE_STAGE, repeats=False),
    "NaN, skip": Scene(number_faults.skip, layouts=_ONE_STAGE, repeats=False),
    # a checkpoint that a signal asks for would change where the run rolls back to
    "NaN, rollback": Scene(number_faults.roll_back, also=KILLS, layouts=_ONE_STAGE, repeats=False),
    # starts from nothing, which takes long
    "own clock": Scene(host_faults.with_own_clock, also=()),
    "two hosts": Scene(host_faults.with_two_hosts, faults=2, also=()),
}
