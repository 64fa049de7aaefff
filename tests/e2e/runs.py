"""A run of two ranks that tests disturb."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from launch.torchrun import FAILURE_LOG
from tests.conftest import SmallCorpus
from tests.e2e.commands import ENVIRONMENT
from tests.losses import STEPS, Step, losses

ROOT = Path(__file__).parents[2]
LIMIT_S = 120.0
# what a failed test has started ends with it
STARTED: list[subprocess.Popen[bytes]] = []


class Run:
    """A run of two ranks that can be disturbed.

    Attributes:
        output: Its directory.
        failures: Where torchrun notes which rank failed.
        process: torchrun, of the last start.
    """

    def __init__(self, corpus: SmallCorpus, folder: Path, steps: int = STEPS, workers: int = 1):
        folder.mkdir(exist_ok=True)
        self.output = folder / "run"
        self.file = corpus.run_file(
            folder / "run.toml", workers=workers, steps=steps, output=str(self.output)
        )
        self.log = folder / "log.txt"
        self.failures = folder / "failures"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str, fault: str = "none", rank: int = 1, restarts: int = 3) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "pretrain.runtime.torchrun_agent", "--standalone"),
                    *("--nproc-per-node=2", f"--max-restarts={restarts}"),
                    *("--module", "tests.e2e.faulty_rank", fault, str(rank)),
                    *("pretrain", str(self.file), "--auto-resume", "--health.heartbeat-s", "0.1"),
                    *options,
                ],
                env=ENVIRONMENT | {FAILURE_LOG: str(self.failures)},
                cwd=ROOT,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        STARTED.append(self.process)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Until it holds; the run must not have ended before."""
        deadline = time.monotonic() + LIMIT_S
        while not condition():
            assert self.process is not None
            assert self.process.poll() is None, self.printed()
            assert time.monotonic() < deadline, self.printed()
            time.sleep(0.02)

    def end(self, limit_s: float = LIMIT_S) -> int:
        """Wait for the end; returns the status. Nothing of the run may be left over."""
        assert self.process is not None
        try:
            status = self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise AssertionError(f"did not end within {limit_s} s\n{self.printed()}") from None
        deadline = time.monotonic() + 15
        while left := self.processes():
            assert time.monotonic() < deadline, f"left over: {left}"
            time.sleep(0.2)
        return status

    def signalled(self, number: signal.Signals) -> int:
        """Send torchrun a signal; returns the status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.end(limit_s=40)

    def processes(self) -> list[psutil.Process]:
        """All that this run has started, those before that have started others."""
        # processes that read data do not name the run file
        found = psutil.process_iter(["environ"])
        mark = str(self.failures)
        return [each for each in found if (each.info["environ"] or {}).get(FAILURE_LOG) == mark]

    def printed(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def heartbeat(self, rank: int) -> dict[str, Any]:
        """The last heartbeat of a rank of this start of the run; nothing if there is none yet."""
        file = self.output / "heartbeat" / f"rank-{rank:05d}.json"
        values = json.loads(file.read_text()) if file.exists() else {}
        return values if psutil.pid_exists(values.get("pid", 2**30)) else {}

    def is_in(self, phase: str, rank: int = 1) -> bool:
        """Whether a rank is stuck in a phase."""
        beat = self.heartbeat(rank)
        return beat.get("phase", "").startswith(phase) and beat["idle_s"] > 0.5

    def step(self) -> int:
        """The last step that was done, as far as rank 0 has written."""
        return max((record.step for record in self.losses()), default=0)

    def losses(self) -> list[Step]:
        return losses(self.output)

    def checkpoints(self) -> list[str]:
        return sorted(path.name for path in (self.output / "checkpoints").iterdir())
