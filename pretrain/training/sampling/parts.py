"""Seconds of a step by its parts, and those that a rank spends in collectives."""

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from pretrain.resilience.heartbeat import Heartbeat

# first words of a heartbeat's phase -> part of a step
PARTS = {
    "waiting for the data": "data",
    "exchange": "exchange",
    "forward pass": "forward",
    "backward pass": "backward",
    "passes through the pipeline": "pipeline",
    "gradient norm": "norm",
    "optimizer": "optimizer",
    "checkpoint": "checkpoint",
    "waiting for a checkpoint": "checkpoint",
}
COMMUNICATION = "communication"
NAMES = (*dict.fromkeys(PARTS.values()), COMMUNICATION)
COLLECTIVES = (
    "all_reduce",
    "all_gather",
    "all_gather_into_tensor",
    "all_to_all_single",
    "barrier",
    "broadcast",
    "recv",
    "reduce",
    "reduce_scatter_tensor",
    "send",
)


class StepParts:
    """Seconds of the sampled step, from heartbeats and calls of collectives.

    Collectives are counted within the part that calls them, too, and include waits for other ranks.
    On a GPU, phases of a sampled step end when the device has done their work.
    """

    def __init__(self, heartbeat: Heartbeat, device: torch.device):
        self._heartbeat, self._device = heartbeat, device
        self._originals: dict[str, Any] = {}
        self._begin, self._part = 0.0, ""
        self._is_inside = False
        self.seconds: dict[str, float] = {}

    def start(self, data_s: float) -> None:
        """Begin a sampled step, after a wait for its data."""
        self.seconds = dict.fromkeys(NAMES, 0.0) | {"data": data_s}
        self._begin, self._part = time.perf_counter(), ""
        self._heartbeat.on_beat = self._enter
        for name in COLLECTIVES:
            self._originals[name] = getattr(dist, name)
            setattr(dist, name, self._timed(self._originals[name]))

    def stop(self) -> dict[str, float]:
        """End it, and return its seconds by part."""
        self._enter("")
        self._heartbeat.on_beat = None
        for name, function in self._originals.items():
            setattr(dist, name, function)
        return self.seconds

    def _enter(self, phase: str) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        if self._part:
            self.seconds[self._part] += now - self._begin
        fitting = (part for words, part in PARTS.items() if phase.startswith(words))
        self._begin, self._part = now, next(fitting, "")

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **keywords: Any) -> Any:
            if self._is_inside:
                return function(*arguments, **keywords)
            begin, self._is_inside = time.perf_counter(), True
            try:
                work = function(*arguments, **keywords)
            finally:
                self._is_inside = False
                self.seconds[COMMUNICATION] += time.perf_counter() - begin
            return work if work is None else _TimedWork(work, self.seconds)

        return timed


class _TimedWork:
    """A collective that runs in the background; the wait for it counts."""

    def __init__(self, work: Any, seconds: dict[str, float]):
        self._work, self._seconds = work, seconds

    def wait(self, *arguments: Any) -> Any:
        """Wait for the end."""
        begin = time.perf_counter()
        try:
            return self._work.wait(*arguments)
        finally:
            self._seconds[COMMUNICATION] += time.perf_counter() - begin

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)
