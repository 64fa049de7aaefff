"""Signals to processes of a run."""

import signal
from random import Random

from tests.faults.trial import Trial, send


def kill_rank(trial: Trial, random: Random) -> bool:
    return _kill(trial, trial.ranks(), random)


def stop_rank(trial: Trial, random: Random) -> bool:
    return _strike(trial.ranks(), signal.SIGTERM, random)


def kill_reader(trial: Trial, random: Random) -> bool:
    return _kill(trial, trial.readers(), random)


def stop_reader(trial: Trial, random: Random) -> bool:
    return _strike(trial.readers(), signal.SIGTERM, random)


def kill_launcher(trial: Trial, random: Random) -> bool:
    return _kill(trial, trial.launchers(), random)


def stop_launcher(trial: Trial, random: Random) -> bool:
    return _strike(trial.launchers(), signal.SIGTERM, random)


def kill_all(trial: Trial, random: Random) -> bool:
    """As a machine does that loses power; in any order."""
    if not trial.ranks():
        return False
    trial.killed = True
    pids = trial.processes()
    random.shuffle(pids)
    sent = [send(pid, signal.SIGKILL) for pid in pids]
    return any(sent)


def _kill(trial: Trial, pids: list[int], random: Random) -> bool:
    trial.killed = True
    return _strike(pids, signal.SIGKILL, random)


def _strike(pids: list[int], number: signal.Signals, random: Random) -> bool:
    return bool(pids) and send(random.choice(pids), number)
