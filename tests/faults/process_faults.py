"""Signals to processes of a run."""

import os
import signal
from random import Random

from tests.faults.trial import STEPS, Trial, send
from tests.processes import run_command

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
    """Start the run by hand while it is running: that is refused.

    Raises:
        AssertionError: It is not.
    """
    # it must still run some seconds later
    if len(trial.ranks()) < trial.num_ranks or not 0 < trial.step() < STEPS // 2:
        return False
    (first,) = trial.launchers()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **trial.environment}
    words = ["launch", "local", str(trial.folder / "run.toml"), "--resume"]
    second = run_command(words, environment)
    if first not in trial.launchers():
        return False
    assert second.returncode > 0, f"a second start ended with {second.returncode}"
    (line,) = second.stderr.splitlines()
    assert str(trial.output) in line, f"a second start does not name the directory: {line}"
    return True


def _kill(trial: Trial, pids: list[int], random: Random) -> bool:
    trial.killed = True
    return _strike(pids, signal.SIGKILL, random)


def _strike(pids: list[int], number: signal.Signals, random: Random) -> bool:
    return bool(pids) and send(random.choice(pids), number)
