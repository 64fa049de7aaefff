"""A gradient that is not a number, in one window of the data.

`planted` is what the ranks run in place of `pretrain.cli`.
"""

from random import Random

from pretrain.monitoring.jsonl import read_lines
from tests.faults.planted import DROP, NAN, ONCE
from tests.faults.trial import EVERY, STEPS, Trial

PLANTED = "tests.faults.planted"


def stop(trial: Trial, random: Random) -> None:
    """A gradient that is not a number once, as of a device that errs once, ends the run."""
    _plant(trial, random, "stop")
    trial.environment[ONCE] = str(trial.folder / "planted")


def skip(trial: Trial, random: Random) -> None:
    """A window gives a bad gradient each time, and is skipped."""
    window = _plant(trial, random, "skip")
    trial.dropped = (window,)


def roll_back(trial: Trial, random: Random) -> None:
    """The same; all windows since the last checkpoint are skipped with it."""
    window = _plant(trial, random, "rollback")
    trial.dropped = tuple(range(window // EVERY * EVERY if window >= EVERY else window, window + 1))


def drop(trial: Trial, windows: tuple[int, ...]) -> None:
    """Let a run never read these windows."""
    if windows:
        trial.module = PLANTED
        trial.environment[DROP] = " ".join(map(str, windows))


def appeared(trial: Trial, _random: Random) -> bool:
    """Whether the bad gradient has been there."""
    return bool(read_lines(trial.output / "audit.jsonl"))


def _plant(trial: Trial, random: Random, response: str) -> int:
    # few, so that few undisturbed runs are needed
    window = random.choice((1, STEPS // 3, STEPS // 2 + 2))
    trial.module = PLANTED
    trial.environment[NAN] = str(window)
    trial.options += ("--guard.on-nonfinite", response)
    return window
