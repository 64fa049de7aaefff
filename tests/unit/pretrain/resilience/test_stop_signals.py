"""Ranks receive a signal when their launcher ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from launch.torchrun import LAUNCHER_PID
from pretrain.errors import LostContactError
from pretrain.resilience.stop_signals import follow_launcher

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
