"""Hangs: without progress, every rank writes its stacks and exits.

    RUN/hangs/NAME/rank-00001.txt    stacks of all threads of rank 1
    RUN/hangs/NAME/report.txt        which rank is behind the others, and where

When one rank hangs, all ranks stop making progress, since they wait for it. The rank with fewer
beats than the others is the one that hangs. Then all exit, the others with the status of ranks that
lost contact, and torchrun starts them again.
"""

import faulthandler
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from launch.torchrun import LOST_CONTACT_STATUS
from pretrain.config import RunConfig
from pretrain.resilience.heartbeat import Heartbeat, heartbeat_file

HANG_STATUS = os.EX_SOFTWARE
DUMP_GRACE_S = 5.0


class Watchdog(threading.Thread):
    """A thread that writes this rank's heartbeat, and ends the process if there is no progress.

    Args:
        run: The run, with its directory and limits.
        heartbeat: Heartbeat of the training loop.
        world_size: Number of ranks.
        name: Name of this start of the run, the same on all ranks.
    """

    def __init__(self, run: RunConfig, heartbeat: Heartbeat, world_size: int, name: str):
        super().__init__(name="watchdog", daemon=True)
        self._heartbeat, self._world_size = heartbeat, world_size
        self._directory = run.train.output
        self._hang = run.train.output / "hangs" / name
        self._limit_s = run.health.hang_timeout_s
        self._tick_s = run.health.heartbeat_s
        if self._limit_s:
            self._tick_s = min(self._tick_s, self._limit_s / 4)
        self._closed = threading.Event()
        self._refused = False

    def __enter__(self) -> "Watchdog":
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._closed.set()
        self.join()
        faulthandler.cancel_dump_traceback_later()

    def run(self) -> None:
        """Check the heartbeat periodically, until closed."""
        while True:
            self._write_heartbeat()
            if self._limit_s:
                # for code that lets no thread run: this thread cannot check then
                faulthandler.dump_traceback_later(2 * self._limit_s + self._tick_s, exit=True)
                if self._heartbeat.idle_s > self._limit_s or self._hang.exists():
                    self._end()
            if self._closed.wait(self._tick_s):
                return

    def _write_heartbeat(self) -> None:
        try:
            self._heartbeat.write()
            self._refused = False
        except OSError as error:
            if not self._refused:
                print(f"rank {self._heartbeat.rank}: no heartbeat: {error}", file=sys.stderr)
            self._refused = True

    def _end(self) -> None:
        """Write the stacks, wait for those of other ranks, report the rank that hangs, and exit."""
        status = HANG_STATUS
        try:
            self._hang.parent.mkdir(parents=True, exist_ok=True)
            first = _make_folder(self._hang)
            with (self._hang / f"rank-{self._heartbeat.rank:05d}.txt").open("w") as file:
                file.write(f"{self._heartbeat.phase}, {self._heartbeat.idle_s:.0f} s ago\n")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
            self._wait_for(self._world_size, "rank-*.txt")
            if first:
                report = self._report()
                print(report, file=sys.stderr, flush=True)
                (self._hang / "report.txt").write_text(report + "\n", encoding="utf-8")
            self._wait_for(1, "report.txt")
            if self._heartbeat.rank not in [rank["rank"] for rank in self._behind()[0]]:
                status = LOST_CONTACT_STATUS
                # the rank that exits first is recorded as the cause
                time.sleep(1.0)
        except (OSError, ValueError) as error:
            # a full disk or a damaged heartbeat file; the process exits all the same
            print(f"rank {self._heartbeat.rank} hangs; {error}", file=sys.stderr, flush=True)
            faulthandler.dump_traceback(sys.stderr, all_threads=True)
        # not sys.exit: the main thread, which would have to act on it, is what hangs
        os._exit(status)

    def _wait_for(self, count: int, pattern: str) -> None:
        deadline = time.monotonic() + DUMP_GRACE_S + 2 * self._tick_s
        while len(list(self._hang.glob(pattern))) < count and time.monotonic() < deadline:
            time.sleep(0.1)

    def _behind(self) -> tuple[list[dict[str, Any]], int]:
        """The ranks with the least progress, and the number of ranks that were compared."""
        ranks = read_heartbeats(self._directory, self._world_size)
        least = min((rank["beats"] for rank in ranks), default=0)
        return [rank for rank in ranks if rank["beats"] == least], len(ranks)

    def _report(self) -> str:
        behind, num_ranks = self._behind()
        named = ", ".join(
            f"rank {rank['rank']} ({rank['host']}, process {rank['pid']}) in {rank['phase']}"
            for rank in behind[:8]
        )
        what = "hangs" if len(behind) < num_ranks else "hang: no rank is behind the others"
        who = f"{named} {what}" if behind else "no rank has left a heartbeat"
        return (
            f"no progress for {self._limit_s:.0f} s: {who}; stacks of all ranks are in {self._hang}"
        )


def read_heartbeats(directory: Path, world_size: int) -> list[dict[str, Any]]:
    """The last heartbeat of every rank that has written one, in the order of ranks.

    A file that cannot be read is named on stderr and left out.
    """
    beats = []
    for file in (heartbeat_file(directory, rank) for rank in range(world_size)):
        try:
            beat = json.loads(file.read_text(encoding="utf-8"))
            named = {key: beat[key] for key in ("rank", "host", "pid", "phase")}
            beats.append(beat | named | {"beats": int(beat["beats"])})
        except FileNotFoundError:
            continue
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            print(f"{file}: no heartbeat ({type(error).__name__}: {error})", file=sys.stderr)
    return beats


def _make_folder(path: Path) -> bool:
    """Create a folder unless it exists.

    Returns:
        Whether this process created it.
    """
    try:
        path.mkdir()
    except FileExistsError:
        return False
    return True
