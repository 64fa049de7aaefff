"""Lock of a run directory: at most one trainer writes there (imports no torch).

    RUN/lock/000003.json    host, process, job and start of the present trainer, or of the last one

Every trainer makes the file with the next number, exclusively: of several at once one succeeds, on
NFS too, and a lock is never taken twice. Rank 0 holds it, because it writes the records and gives
checkpoints their names, and it may outlive the process that started it. It touches the file every
`BEAT_S`; a released file has the time 0.

A lock is stale if its process is gone from the same kernel and pid namespace (a host's name alone
is no proof: containers share and repeat names and pids), or if it was not touched for `STALE_S` by
the clock of its file system. A trainer that slept through that time ends as soon as it reads that
another one has taken over.

filelock does not do this: its FileLock is flock, which some network file systems lack or keep to
one machine, and its SoftFileLock has no sign of life from other hosts.
"""

import json
import os
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from launch.torchrun import GIVE_UP_STATUS
from pretrain.errors import RunError

BEAT_S = 3.0
# several beats, and longer than a network file system is usually silent
STALE_S = 30.0
# a lock is watched for this long: after an outage of the file system, a live holder touches it
WATCH_S = 2 * BEAT_S
# a killed process takes a moment to end, and one that saves on request takes longer
PATIENCE_S = 5.0
LAUNCHER_PATIENCE_S = 120.0
_POLL_S = 0.1


class Holder(NamedTuple):
    """Process that holds a lock.

    Attributes:
        host: Name of its machine.
        pid: Number of the process.
        started: Start of the process, in clock ticks since its kernel started; 0 if unknown.
        kernel: Boot of the kernel and pid namespace in which the number is valid; may be empty.
        job: Slurm's number of the job; may be empty.
        since: Time at which it took the lock.
    """

    host: str
    pid: int
    started: int
    kernel: str
    job: str
    since: str

    @property
    def is_alive(self) -> bool | None:
        """Whether the process runs; None on another machine or in another container."""
        if not self.kernel or self.kernel != _kernel():
            return None
        return _start_of(self.pid) == self.started

    def __str__(self) -> str:
        job = f" of Slurm job {self.job}" if self.job else ""
        return f"process {self.pid} on {self.host}{job}, since {self.since}"


class RunLock:
    """Lock of a run directory; as a context manager, it is acquired at the beginning of the block.

    State: the file of the lock while it is held, and the thread that touches it.

    Args:
        directory: The run directory.
        patience_s: Time for a live holder to end.
    """

    def __init__(self, directory: Path, patience_s: float = PATIENCE_S):
        self._directory, self._folder = directory, directory / "lock"
        self._patience_s = patience_s
        self._file: Path | None = None
        self._thread = threading.Thread(target=self._beat, name="lock", daemon=True)
        self._released = threading.Event()

    def __enter__(self) -> "RunLock":
        self.acquire()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lock; a stale one is taken over, and the run directory is created if missing.

        Raises:
            RunError: Another trainer holds it, or it cannot be written.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            while self._file is None:
                newest = _newest(self._folder)
                if newest is not None:
                    self._wait_until_stale(newest)
                self._file = self._take(1 if newest is None else int(newest.stem) + 1)
        except OSError as error:
            raise RunError(
                f"{self._folder}: the lock of the run cannot be taken ({error.strerror or error}); "
                "expected room and permission to write there"
            ) from error
        self._thread.start()

    def release(self) -> None:
        """Free the lock if it is held; its file stays, as the number of the next one."""
        if self._file is None:
            return
        self._released.set()
        if self._thread.is_alive():
            self._thread.join()
        try:
            os.utime(self._file, (0, 0))
        except OSError as error:
            # it will count as stale, since this process ends
            print(f"{self._file}: cannot be released: {error}", file=sys.stderr)
        self._file = None

    def _take(self, number: int) -> Path | None:
        """The file of this number, made for this process; None if another process was faster."""
        file = self._folder / f"{number:06d}.json"
        try:
            with file.open("x", encoding="utf-8") as stream:
                json.dump(_this_process()._asdict(), stream)
        except FileExistsError:
            return None
        if _newest(self._folder) != file:
            # this process was late: others have taken and freed this number since
            file.unlink()
            return None
        for older in self._folder.glob("*.json"):
            if older != file:
                older.unlink(missing_ok=True)
        return file

    def _wait_until_stale(self, file: Path) -> None:
        """Wait until a lock is released or known to be stale.

        Raises:
            RunError: Its holder is alive.
        """
        begin, first_touch_s, announced = time.monotonic(), None, False
        while True:
            try:
                touch_s, silence_s, holder = _read(file)
            except FileNotFoundError:
                # another process has taken it over in the meantime
                return
            alive = holder.is_alive if holder else None
            if touch_s == 0 or alive is False:
                return
            watched_s = time.monotonic() - begin
            first_touch_s = touch_s if first_touch_s is None else first_touch_s
            alive = alive or touch_s != first_touch_s
            if alive and watched_s > self._patience_s:
                raise RunError(
                    f"{self._directory}: another trainer writes there: {holder or file}; expected "
                    "one trainer for each run directory. Nothing was changed; wait for it or stop "
                    "it, or give another train.output"
                )
            if not alive and watched_s > WATCH_S and max(watched_s, silence_s) > STALE_S:
                return
            if watched_s > PATIENCE_S and not announced:
                print(f"{file}: waiting for {holder or 'its writer'}", file=sys.stderr, flush=True)
                announced = True
            time.sleep(_POLL_S)

    def _beat(self) -> None:
        """Touch the file until it is released; end the process if another one has taken over."""
        refused = False
        while self._file is not None and not self._released.wait(BEAT_S):
            try:
                newest = _newest(self._folder)
                if newest is not None and newest > self._file:
                    print(
                        f"{self._directory}: another trainer has taken over, because this one gave "
                        f"no sign of life for {STALE_S:.0f} s: {_read(newest)[2]}; this one ends",
                        file=sys.stderr,
                        flush=True,
                    )
                    # not sys.exit: the main thread must write nothing more
                    os._exit(GIVE_UP_STATUS)
                os.utime(self._file)
                refused = False
            except OSError as error:
                if not refused:
                    print(f"{self._file}: cannot be touched: {error}", file=sys.stderr)
                refused = True


def _newest(folder: Path) -> Path | None:
    """The file with the highest number; None if there is none."""
    return max((file for file in folder.glob("*.json") if file.stem.isdecimal()), default=None)


def _read(file: Path) -> tuple[float, float, Holder | None]:
    """Time of the last touch, seconds since then, and the holder; None while it is being written.

    Both times are those of the file system. Opening a file is what makes NFS ask its server.
    """
    with file.open(encoding="utf-8", errors="replace") as stream:
        time_s = os.fstat(stream.fileno()).st_mtime
        text = stream.read()
    with tempfile.TemporaryFile(dir=file.parent) as probe:
        silence_s = os.fstat(probe.fileno()).st_mtime - time_s
    try:
        return time_s, silence_s, Holder(**json.loads(text))
    except (ValueError, TypeError):
        return time_s, silence_s, None


def _this_process() -> Holder:
    task = os.environ.get("SLURM_ARRAY_TASK_ID", "")
    job = os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID", "")
    return Holder(
        host=socket.gethostname(),
        pid=os.getpid(),
        started=_start_of(os.getpid()),
        kernel=_kernel(),
        job=f"{job}_{task}" if task else job,
        since=time.strftime("%Y-%m-%d %H:%M:%S %Z"),
    )


def _kernel() -> str:
    """Boot of this kernel and namespace of this process's pid; empty where there is no /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _start_of(pid: int) -> int:
    """Start of a running process in clock ticks since its kernel started; 0 if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    # the name, in parentheses, may contain anything
    fields: list[Any] = text.rpartition(")")[2].split()
    return 0 if fields[0] in "ZX" else int(fields[19])
