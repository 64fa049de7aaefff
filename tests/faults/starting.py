"""The launcher and the ranks of a run, as forks of a process that has imported everything.

The launcher is `pretrain.runtime.torchrun_agent`, with the arguments that `resonance launch local`
gives it. Each process has the parent, the session and the signals that it has in a real start; only
the imports are not made again. Readers are started by ranks as always.
"""

import ctypes
import importlib
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
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
        fresh: Import everything again in each process, instead of forking one that has done so.
        namespace: Network namespace that they are in; empty for this one.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        log: Path,
        *,
        fresh: bool = False,
        namespace: str = "",
    ):
        self._process: BaseProcess | subprocess.Popen[bytes]
        if fresh:
            with log.open("ab") as file:
                self._process = subprocess.Popen(
                    command,
                    env=environment,
                    cwd=folder,
                    stdout=file,
                    stderr=file,
                    start_new_session=True,
                )
        else:
            arguments = (list(command), dict(environment), folder, log, namespace)
            self._process = CONTEXT.Process(target=_launch, args=arguments, name="launcher")
            self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def status(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        if isinstance(self._process, subprocess.Popen):
            return self._process.poll()
        return self._process.exitcode


def _launch(
    command: list[str], environment: dict[str, str], folder: Path, log: Path, namespace: str
) -> None:
    os.setsid()
    os.chdir(folder)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if namespace:
        with Path(f"/run/netns/{namespace}").open() as opened:
            assert ctypes.CDLL(None).setns(opened.fileno(), 0) == 0
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
        # torchrun sends signals to the rank's session, which Popen has made when it comes back
        while self.poll() is None and os.getpgid(self.pid) != self.pid:
            time.sleep(0.001)

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        end = time.monotonic() + (math.inf if timeout is None else timeout)
        # not by multiprocessing: it waits for a pipe that the rank has closed
        while (status := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("rank", timeout or 0.0)
            time.sleep(0.01)
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
