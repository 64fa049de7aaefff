"""Signals that ask a run to stop, as a rank receives them."""

import os
import signal
from collections.abc import Iterator
from unittest import mock

import pytest

from pretrain.resilience.stop_signals import StopFlag
from pretrain.runtime.interrupts import FIRST, INTERRUPTED_STATUS, SECOND, STOP_SIGNALS


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
