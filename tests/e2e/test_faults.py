"""Faults of every kind in the middle of a run: its losses are those of the undisturbed run."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from launch.torchrun import GIVE_UP_STATUS, REQUEUE_STATUS
from pretrain.jsonl import read_lines
from tests.conftest import SmallCorpus
from tests.e2e.commands import ENVIRONMENT

ROOT = Path(__file__).parents[2]
STEPS = 24
LIMIT_S = 120.0


STARTED: list[subprocess.Popen[bytes]] = []


class Run:
    """A run of two ranks that can be disturbed.

    Attributes:
        output: Its directory.
        process: torchrun, of the last start.
    """

    def __init__(self, corpus: SmallCorpus, folder: Path, steps: int = STEPS):
        folder.mkdir(exist_ok=True)
        self.output = folder / "run"
        self.file = corpus.run_file(folder / "run.toml", steps=steps, output=str(self.output))
        self.log = folder / "log.txt"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str, fault: str = "none", rank: int = 1, restarts: int = 3) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "pretrain.elastic", "--standalone"),
                    *("--nproc-per-node=2", f"--max-restarts={restarts}"),
                    *("--module", "tests.e2e.faulty_rank", fault, str(rank)),
                    *("pretrain", str(self.file), "--auto-resume", "--health.heartbeat-s", "0.1"),
                    *options,
                ],
                env=ENVIRONMENT,
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
        while left := self._processes():
            assert time.monotonic() < deadline, f"left over: {left}"
            time.sleep(0.2)
        return status

    def _processes(self) -> list[psutil.Process]:
        found = psutil.process_iter(["cmdline"])
        return [each for each in found if str(self.file) in (each.info["cmdline"] or [])]

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
        records = read_lines(self.output / "metrics.jsonl")
        return int(max((record["step"] for record in records), default=0))

    def losses(self) -> list[tuple[Any, ...]]:
        records = read_lines(self.output / "metrics.jsonl")
        return [
            (r["step"], r.get("loss"), r.get("grad_norm"), r.get("valid_loss")) for r in records
        ]

    def checkpoints(self) -> list[str]:
        return sorted(path.name for path in (self.output / "checkpoints").iterdir())


@pytest.fixture(autouse=True)
def _nothing_is_left_over() -> Iterator[None]:
    """What a failed test has started ends with it."""
    yield
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="module")
def undisturbed(
    small_corpus: SmallCorpus, tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[Any, ...]]:
    run = Run(small_corpus, tmp_path_factory.mktemp("undisturbed"))
    run.start()
    assert run.end() == 0, run.printed()
    return run.losses()


PHASES = {
    "slow start": "building the engine",
    "slow data": "waiting for the data of a step",
    "slow validation": "waiting for data of the validation",
}


@pytest.mark.parametrize(
    ("fault", "number"),
    [
        ("slow data", signal.SIGTERM),
        ("slow validation", signal.SIGUSR1),
        pytest.param("slow start", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("slow start", signal.SIGUSR1, marks=pytest.mark.slow),
        pytest.param("slow data", signal.SIGUSR1, marks=pytest.mark.slow),
        pytest.param("slow validation", signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_a_signal_stops_the_run_in_every_phase(
    fault: str,
    number: signal.Signals,
    small_corpus: SmallCorpus,
    tmp_path: Path,
    undisturbed: list[tuple[Any, ...]],
) -> None:
    run = Run(small_corpus, tmp_path)
    run.start(fault=fault)
    run.wait_until(lambda: run.is_in(PHASES[fault]))
    assert run.process is not None
    run.process.send_signal(number)
    assert run.end(limit_s=40) == REQUEUE_STATUS, run.printed()
    if fault == "slow start":
        assert not (run.output / "checkpoints").exists()
    else:
        assert run.checkpoints()[-1] == ("step-0000004" if fault == "slow data" else "step-0000003")
    run.start()
    assert run.end() == 0, run.printed()
    assert run.losses() == undisturbed


def test_a_signal_to_all_processes_ends_no_rank_in_the_middle_of_a_step(
    small_corpus: SmallCorpus, tmp_path: Path, undisturbed: list[tuple[Any, ...]]
) -> None:
    run = Run(small_corpus, tmp_path)
    run.start("--checkpoint.every", "0")
    run.wait_until(lambda: run.step() >= 4)
    assert run.process is not None
    # to the processes that read data, too
    os.killpg(run.process.pid, signal.SIGTERM)
    assert run.end(limit_s=40) == REQUEUE_STATUS, run.printed()
    assert 4 <= run.step() < STEPS
    assert run.checkpoints() == [f"step-{run.step():07d}"]
    run.start("--checkpoint.every", "0")
    assert run.end() == 0, run.printed()
    assert run.losses() == undisturbed


def _kill_ranks(run: Run, times: int, choose: random.Random) -> None:
    """SIGKILL one rank after another, each after a few steps."""
    for count in range(times):
        aim = run.step() + choose.randrange(1, 4)
        run.wait_until(lambda: run.step() >= aim and bool(run.heartbeat(count % 2)))  # noqa: B023
        os.kill(run.heartbeat(count % 2)["pid"], signal.SIGKILL)
        killed_at = time.time()
        run.wait_until(lambda: run.heartbeat(count % 2).get("time", 0) > killed_at + 0.2)  # noqa: B023


def test_killed_ranks_are_started_again(
    small_corpus: SmallCorpus, tmp_path: Path, undisturbed: list[tuple[Any, ...]]
) -> None:
    run = Run(small_corpus, tmp_path)
    run.start()
    _kill_ranks(run, 2, random.Random(0))
    assert run.end() == 0, run.printed()
    assert run.losses() == undisturbed


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_ranks_are_killed_twenty_times(small_corpus: SmallCorpus, tmp_path: Path) -> None:
    whole, run = (Run(small_corpus, tmp_path / name, steps=90) for name in ("whole", "killed"))
    whole.start()
    assert whole.end() == 0, whole.printed()
    run.start(restarts=20)
    _kill_ranks(run, 20, random.Random(1))
    assert run.end(limit_s=300) == 0, run.printed()
    assert run.losses() == whole.losses()


def test_a_rank_that_hangs_is_named_and_the_run_goes_on(
    small_corpus: SmallCorpus, tmp_path: Path, undisturbed: list[tuple[Any, ...]]
) -> None:
    run = Run(small_corpus, tmp_path)
    run.start("--health.hang-timeout-s", "30", fault="hang")
    assert run.end() == 0, run.printed()
    assert run.losses() == undisturbed
    (hang,) = (run.output / "hangs").iterdir()
    report = (hang / "report.txt").read_text()
    assert report.startswith("no progress for 30 s: rank 1 (")
    assert "in forward pass 1 hangs" in report
    assert report in run.printed()
    assert "faulty_rank.py" in (hang / "rank-00001.txt").read_text()
    # the other one waits for it
    assert "faulty_rank.py" not in (hang / "rank-00000.txt").read_text().split("most recent")[1]


@pytest.mark.slow
def test_a_rank_that_fails_says_so_once(
    small_corpus: SmallCorpus, tmp_path: Path, undisturbed: list[tuple[Any, ...]]
) -> None:
    run = Run(small_corpus, tmp_path)
    run.start(fault="error")
    assert run.end() == 0, run.printed()
    assert run.losses() == undisturbed
    file = run.output / "errors" / "rank-00001.txt"
    message = f"rank 1 of 2, forward pass 1: KeyError: 'lost'; traceback in {file}"
    assert run.printed().count(message) == 1
    assert "_lose_key" in file.read_text()
    assert "Traceback" not in run.printed()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def _fill(folder: Path) -> Path:
    """A file that leaves less room than a checkpoint needs."""
    ballast = folder / "ballast"
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    ballast.write_bytes(bytes(free - 300_000))
    return ballast


def test_a_full_disk_does_not_end_the_run(
    small_corpus: SmallCorpus, small_disk: Path, undisturbed: list[tuple[Any, ...]]
) -> None:
    run = Run(small_corpus, small_disk)
    run.log = small_disk.parent / "log.txt"
    run.start()
    run.wait_until(lambda: run.step() >= 4)
    ballast = _fill(small_disk)
    run.wait_until(lambda: "training goes on" in run.printed())
    assert all(name.startswith("step-") for name in run.checkpoints())
    ballast.unlink()
    assert run.end() == 0, run.printed()
    assert run.losses() == undisturbed
    assert run.checkpoints()[-1] == f"step-{STEPS:07d}"


@pytest.mark.slow
def test_a_full_disk_stops_the_run_if_it_is_to(
    small_corpus: SmallCorpus, small_disk: Path, undisturbed: list[tuple[Any, ...]]
) -> None:
    run = Run(small_corpus, small_disk)
    run.log = small_disk.parent / "log.txt"
    run.start("--checkpoint.on-error", "stop", restarts=0)
    run.wait_until(lambda: run.step() >= 4)
    ballast = _fill(small_disk)
    assert run.end() == GIVE_UP_STATUS, run.printed()
    assert run.printed().count("could not write it") == 1
    assert "earlier checkpoints are untouched" in run.printed()
    assert all(name.startswith("step-") for name in run.checkpoints())
    ballast.unlink()
    run.start()
    assert run.end() == 0, run.printed()
    assert run.losses() == undisturbed
