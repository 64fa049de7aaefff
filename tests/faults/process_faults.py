"""Signals to processes of a run."""

import signal
import time
from random import Random

from tests.faults.trial import Trial, send

# longer than a watchdog takes, and torchrun after it for the rank that does not end
HANG_S = 55.0


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


def hang_rank(trial: Trial, random: Random) -> bool:
    """Let a rank do nothing; the watchdog of another one ends the run's ranks."""
    pids = trial.ranks()
    if len(pids) < trial.num_ranks:
        return False
    pid = random.choice(pids)
    # a stopped process does not even end with its launcher
    trial.later(HANG_S, lambda: send(pid, signal.SIGCONT) and None)
    return send(pid, signal.SIGSTOP)


def start_again(trial: Trial, _random: Random) -> bool:
    """Start the run once more while it is running: the second start gives up.

    Raises:
        AssertionError: It does not, or prints more than a message.
    """
    if len(trial.ranks()) < trial.num_ranks or not trial.step():
        return False
    log = trial.folder / "second.txt"
    log.unlink(missing_ok=True)
    (first,) = trial.launchers()
    second = trial.launched(log)
    while second.status() is None:
        time.sleep(0.05)
    if first not in trial.launchers():
        # the first one was over meanwhile
        return False
    printed = log.read_text(encoding="utf-8")
    assert second.status() != 0, f"a second start trained along: {printed}"
    assert str(trial.output) in printed, f"a second start says nothing of the directory: {printed}"
    return True


def _kill(trial: Trial, pids: list[int], random: Random) -> bool:
    trial.killed = True
    return _strike(pids, signal.SIGKILL, random)


def _strike(pids: list[int], number: signal.Signals, random: Random) -> bool:
    return bool(pids) and send(random.choice(pids), number)
