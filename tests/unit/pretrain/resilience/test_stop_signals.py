"""Signals that ask a run to stop, as a rank receives them."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from launch.torchrun import LAUNCHER_PID
from pretrain.errors import LostContactError
from pretrain.resilience.stop_signals import StopFlag, follow_launcher
from pretrain.runtime.interrupts import FIRST, INTERRUPTED_STATUS, SECOND, STOP_SIGNALS

# a launcher that starts a rank, waits until it is ready, and is killed
LAUNCHER = """
import os, signal, sys
from pretrain.resilience.stop_signals import StopFlag, follow_launcher

ready, is_ready = os.pipe()
os.environ["RESONANCE_LAUNCHER_PID"] = str(os.getpid())
if os.fork():
    os.read(ready, 1)
    os.kill(os.getpid(), signal.SIGKILL)
with StopFlag() as stop:
    follow_launcher(signal.SIGTERM)
    os.write(is_ready, b".")
    while not stop.requested:
        signal.pause()
    print("asked to stop")
"""


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_each_signal_asks_to_stop(number: signal.Signals) -> None:
    before = signal.getsignal(number)

    def items() -> Iterator[int]:
        os.kill(os.getpid(), number)
        yield 1

    with StopFlag() as flag:
        assert flag.next(items()) is None
        assert flag.requested
        assert flag.next(iter([1])) is None
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_a_signal_that_is_ignored_stays_so(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with StopFlag() as flag:
            os.kill(os.getpid(), number)
            assert not flag.requested
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_only_a_second_interrupt_ends_the_process(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    leave = mock.Mock()
    with mock.patch("os._exit", leave), StopFlag():
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            os.kill(os.getpid(), number)
        leave.assert_not_called()
        assert capfd.readouterr().err.split("\n") == ["", FIRST, ""]
        os.kill(os.getpid(), signal.SIGINT)
    leave.assert_called_once_with(INTERRUPTED_STATUS)
    assert SECOND in capfd.readouterr().err
    monkeypatch.setenv("RANK", "1")
    with StopFlag():
        os.kill(os.getpid(), signal.SIGINT)
    assert capfd.readouterr().err == ""


def test_a_rank_stops_when_its_launcher_is_killed() -> None:
    # reads to the end of the rank's output, which outlives the launcher
    result = subprocess.run(
        [sys.executable, "-c", LAUNCHER], capture_output=True, text=True, cwd=Path.cwd()
    )
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert result.stdout == "asked to stop\n"


def test_a_rank_does_not_start_without_its_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LAUNCHER_PID, str(os.getpid()))
    with pytest.raises(LostContactError, match="which has started this rank, has ended"):
        # by default ignored
        follow_launcher(signal.SIGURG)
