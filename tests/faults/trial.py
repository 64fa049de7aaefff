"""A small run that faults strike: its folders, its processes, its steps."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from launch.torchrun import OWN_STORES, torchrun_command
from pretrain.monitoring.jsonl import read_lines
from tests.conftest import SmallCorpus
from tests.faults.starting import Launcher

STEPS = 30
EVERY = 3
KEEP_EVERY = 9
# checkpoints of the tiny model, all that are kept, and one that is being written
DISK = "size=12m"
# in the environment of every process of a run, with the run's folder
MARK = "RESONANCE_FAULTS_RUN"


class Undo(NamedTuple):
    """The end of a fault that lasts.

    Attributes:
        at: When, on the monotonic clock.
        act: What ends it.
    """

    at: float
    act: Callable[[], object]


class Trial:
    """A run that faults strike.

    Attributes:
        folder: Working directory of all its processes.
        corpus: Its own copy of the corpus.
        output: Its directory, on a small file system.
        options: Further flags of `resonance pretrain`.
        environment: Further variables of its processes.
        module: What the ranks run.
        workers: Reader processes per rank.
        fresh: Whether its processes start from nothing instead of being forked.
        hosts: Addresses by network namespace; empty for one machine.
        store: The handler of its HTTP store, if it has one.
        damaged: Whether a fault lasts that only one can at a time.
        damaged_checkpoints: Those that a fault has damaged, by inode: a new one has another.
        dropped: Windows of the data that it is to skip.
        compared: Whether its numbers must be those of the undisturbed run.
        killed: Whether SIGKILL has ended a process.
        started: Launchers of the last start, one per host.
    """

    def __init__(self, folder: Path, corpus: SmallCorpus, ranks: int, options: tuple[str, ...]):
        self.folder, self.num_ranks, self.options = folder, ranks, options
        self.corpus = corpus.copied_to(folder / "corpus")
        self.disk, self.temporary = folder / "disk", folder / "tmp"
        self.output = self.disk / "run"
        self.log = folder / "log.txt"
        for new in (self.disk, self.temporary):
            new.mkdir()
        self.environment = {MARK: str(folder), "TMPDIR": str(self.temporary)}
        self.module = "pretrain.cli"
        self.workers = 0
        self.killed = False
        self.fresh = self.damaged = False
        self.hosts: dict[str, str] = {}
        self.store: Any = None
        self.damaged_checkpoints: dict[int, Path] = {}
        self.dropped: tuple[int, ...] = ()
        self.compared = True
        self.started: list[Launcher] = []
        self._undo: list[Undo] = []
        self._ends = contextlib.ExitStack()

    def __enter__(self) -> "Trial":
        command = ["mount", "-t", "tmpfs", "-o", DISK, "tmpfs", str(self.disk)]
        subprocess.run(command, check=True, capture_output=True)
        return self

    def __exit__(self, *_exception: object) -> None:
        self.undo_all()
        for pid in self.processes():
            send(pid, signal.SIGKILL)
        self.wait_for_processes()
        self._ends.close()
        subprocess.run(["umount", str(self.disk)], check=True, capture_output=True)

    def at_end(self, act: Callable[[], object]) -> None:
        """Do something after the end of the run."""
        self._ends.callback(act)

    def start(self) -> None:
        """Start it, as each time before."""
        self.started = [self.launched(self.log, host) for host in self.hosts or [""]]

    def launched(self, log: Path, host: str = "") -> Launcher:
        """A launcher of the run, on one of its hosts."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **self.environment}
        if host:
            environment |= {"GLOO_SOCKET_IFNAME": "eth0", OWN_STORES: "1"}
        return Launcher(
            self._command(host), environment, self.folder, log, fresh=self.fresh, namespace=host
        )

    def _command(self, host: str) -> list[str]:
        """What `resonance launch` runs on a machine."""
        file = self.corpus.run_file(
            self.folder / "run.toml", workers=self.workers, steps=STEPS, output=str(self.output)
        )
        rendezvous = ["--standalone"]
        if host:
            first, address = next(iter(self.hosts)), next(iter(self.hosts.values()))
            rendezvous = [f"--nnodes={len(self.hosts)}", "--rdzv-backend=c10d"]
            rendezvous += [f"--rdzv-endpoint={address}:29511", "--rdzv-id=faults"]
            rendezvous += [f"--local-addr={self.hosts[host]}"]
            rendezvous += ["--rdzv-conf", f"is_host={host == first},join_timeout=100"]
        options = ["--auto-resume", "--health.heartbeat-s", "0.1", *self.options]
        options += ["--checkpoint.keep-every", str(KEEP_EVERY)]
        words = torchrun_command(
            sys.executable,
            rendezvous,
            file,
            processes=self.num_ranks // max(1, len(self.hosts)),
            max_restarts=3,
            arguments=options,
        )
        return [self.module if word == "pretrain.cli" else word for word in words]

    def launchers(self) -> list[int]:
        """Processes of launchers that run."""
        return [launcher.pid for launcher in self.started if launcher.status() is None]

    def ranks(self) -> list[int]:
        """Processes of ranks, in the order of their start."""
        return sorted(pid for launcher in self.launchers() for pid in _children(launcher))

    def readers(self) -> list[int]:
        """Processes that read data for ranks."""
        children = [pid for rank in self.ranks() for pid in _children(rank)]
        return [pid for pid in children if b"--multiprocessing-fork" in _read(pid, "cmdline")]

    def processes(self) -> list[int]:
        """All that this run has started, those before that have started others."""
        mark = f"{MARK}={self.folder}".encode()
        pids = [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]
        # what is forked keeps the environment of the fork server there, but has its own folder
        return [
            pid for pid in pids if _folder(pid) == str(self.folder) or mark in _read(pid, "environ")
        ]

    def wait_for_processes(self, limit_s: float = 60.0) -> None:
        """Wait until nothing of it runs.

        Raises:
            AssertionError: Something still runs.
        """
        deadline = time.monotonic() + limit_s
        while left := self.processes():
            words = [_read(pid, "cmdline").replace(b"\0", b" ").decode()[-80:] for pid in left]
            assert time.monotonic() < deadline, f"processes are left: {words}"
            self.undo_due()
            time.sleep(0.05)

    def later(self, delay_s: float, act: Callable[[], object]) -> None:
        """End a fault after some time."""
        self._undo.append(Undo(time.monotonic() + delay_s, act))

    def undo_due(self) -> None:
        """End the faults whose time is over."""
        due = [undo for undo in self._undo if undo.at <= time.monotonic()]
        self._undo = [undo for undo in self._undo if undo not in due]
        for undo in due:
            undo.act()

    def undo_all(self) -> None:
        while self._undo:
            self._undo.pop().act()

    def step(self) -> int:
        """The last step that was done, as far as rank 0 has written."""
        return max((int(record["step"]) for record in self.records()), default=0)

    def records(self) -> list[dict[str, float]]:
        return read_lines(self.output / "metrics.jsonl")

    def printed(self) -> str:
        if not self.log.exists():
            return ""
        return self.log.read_text(encoding="utf-8", errors="replace")


def send(pid: int, number: signal.Signals) -> bool:
    """Send a signal; whether the process was there."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _children(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.NoSuchProcess:
        return []


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def _folder(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/cwd").readlink())
    except OSError:
        return ""
