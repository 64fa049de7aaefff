"""Heartbeat of a rank: its phase and progress, in a separate file per rank."""

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def heartbeat_file(directory: Path, rank: int) -> Path:
    """Path of a rank's heartbeat."""
    return directory / "heartbeat" / f"rank-{rank:05d}.json"


class Heartbeat:
    """Progress of this rank. The training loop beats; the watchdog's thread writes the file.

    Attributes:
        rank: Number of this rank.
        beats: Number of beats, equal on all ranks; a rank with fewer than the others is behind.
        phase: Name of the phase that began with the last beat.
        step_s: Working time in the last step, without waits for other ranks.
        on_beat: Receives the name of every phase that begins; None for nobody.
    """

    def __init__(self, directory: Path, rank: int):
        self.rank = rank
        self.beats = 0
        self.phase = "starting"
        self.step_s = 0.0
        self.on_beat: Callable[[str], None] | None = None
        self._last = time.monotonic()
        self._file = heartbeat_file(directory, rank)

    def beat(self, phase: str) -> None:
        """Begin a phase."""
        self.phase = phase
        self._last = time.monotonic()
        self.beats += 1
        if self.on_beat is not None:
            self.on_beat(phase)

    @property
    def idle_s(self) -> float:
        """Seconds since the last beat."""
        return time.monotonic() - self._last

    def write(self) -> None:
        """Replace the file.

        Raises:
            OSError: It cannot be written.
        """
        values: dict[str, Any] = {
            "rank": self.rank,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "time": time.time(),
            "beats": self.beats,
            "phase": self.phase,
            "idle_s": round(self.idle_s, 3),
            "step_s": round(self.step_s, 6),
        }
        self._file.parent.mkdir(parents=True, exist_ok=True)
        partial = self._file.with_suffix(".partial")
        partial.write_text(json.dumps(values), encoding="utf-8")
        partial.replace(self._file)
