"""The launcher and the ranks of a run, as forks of a process that has imported everything.

The launcher is `pretrain.runtime.torchrun_agent`, with the arguments that `resonance launch local`
gives it. Each process has the parent, the session and the signals that it has in a real start; only
the imports are not made again. Readers are started by ranks as always.
"""

import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any
from unittest import mock

from tests.processes import CONTEXT, enter

FORK = multiprocessing.get_context("fork")


class Launcher:
    """A launcher that has been started.

    Args:
        command: The words of `python -m MODULE ARGUMENTS`.
        environment: All variables that it sees.
        folder: Working directory of it and of all that it starts.
        log: Receives what it and its ranks print.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path
    ):
        arguments = (list(command), dict(environment), folder, log)
        self._process = CONTEXT.Process(target=_launch, args=arguments, name="launcher")
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def status(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        return self._process.exitcode


def _launch(command: list[str], environment: dict[str, str], folder: Path, log: Path) -> None:
    os.setsid()
    os.chdir(folder)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    target = "torch.distributed.elastic.multiprocessing.subprocess_handler.SubprocessHandler._popen"
    mock.patch(target, lambda _handler, words, variables: ForkedRank(words, variables)).start()
    _run_module(command, environment)


class ForkedRank:
    """What torchrun uses of `subprocess.Popen`, for a fork of this process."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]):
        self._process = FORK.Process(target=_rank, args=(list(command), dict(environment)))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired("rank", timeout or 0.0)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _rank(command: list[str], environment: dict[str, str]) -> None:
    os.setsid()
    # the launcher's sockets end with it; a rank starts a resource tracker for itself
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    resource_tracker._resource_tracker.__init__()
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _run_module(command, environment)


def _run_module(command: list[str], environment: dict[str, str]) -> None:
    """Call `main` of a module as `python -m MODULE ARGUMENTS` does."""
    enter(environment)
    words = command[command.index("-m") + 1 :]
    sys.argv = words
    module: Any = importlib.import_module(words[0])
    module.main(words[1:])
