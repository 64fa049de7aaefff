"""Faults of every kind in the middle of a run: its losses are those of the undisturbed run."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.torchrun import GIVE_UP_STATUS, REQUEUE_STATUS
from tests.conftest import SmallCorpus
from tests.e2e.runs import Run
from tests.losses import STEPS, Step

pytestmark = pytest.mark.system


PHASES = {
    "slow data": "waiting for the data of a step",
    "slow validation": "waiting for data of the validation",
}


@pytest.mark.parametrize(
    ("fault", "number"),
    [
        ("slow data", signal.SIGTERM),
        ("slow validation", signal.SIGUSR1),
        pytest.param("slow data", signal.SIGINT, marks=pytest.mark.slow),
        pytest.param("slow validation", signal.SIGHUP, marks=pytest.mark.slow),
        pytest.param("slow data", signal.SIGUSR1, marks=pytest.mark.slow),
        pytest.param("slow validation", signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_a_signal_stops_the_run_in_every_phase(
    fault: str,
    number: signal.Signals,
    small_corpus: SmallCorpus,
    tmp_path: Path,
    undisturbed: list[Step],
) -> None:
    run = Run(small_corpus, tmp_path)
    run.start(fault=fault)
    last = 4 if fault == "slow data" else 3
    # on a busy machine other steps wait for data, too
    run.wait_until(lambda: run.step() == last and run.is_in(PHASES[fault]))
    assert run.signalled(number) == REQUEUE_STATUS, run.printed()
    assert run.checkpoints()[-1] == f"step-{last:07d}"
    run.start()
    assert run.end() == 0, run.printed()
    assert run.losses() == undisturbed


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)]
)
def test_a_signal_while_the_model_is_built_leaves_nothing_to_go_on_from(
    number: signal.Signals, small_corpus: SmallCorpus, tmp_path: Path
) -> None:
    run = Run(small_corpus, tmp_path)
    run.start(fault="slow start")
    run.wait_until(lambda: run.is_in("building the engine"))
    assert run.signalled(number) == REQUEUE_STATUS, run.printed()
    assert run.losses() == []
    assert not (run.output / "checkpoints").exists()


def test_a_signal_during_a_save_and_then_a_damaged_checkpoint(
    small_corpus: SmallCorpus, tmp_path: Path, undisturbed: list[Step]
) -> None:
    run = Run(small_corpus, tmp_path)
    run.start(fault="slow save")
    run.wait_until(lambda: (run.output / "checkpoints/.step-0000006.partial").exists())
    assert run.signalled(signal.SIGTERM) == REQUEUE_STATUS, run.printed()
    older, newest = run.checkpoints()
    assert newest == f"step-{run.step():07d}"
    file = run.output / "checkpoints" / newest / "tensors" / "__1_0.distcp"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    run.start()
    assert run.end() == 0, run.printed()
    said = f"{file}: its SHA-256 differs from the manifest: damaged; looking for an older"
    assert run.printed().count(said) == 1
    assert f"resumed from {run.output}/checkpoints/{older}" in run.printed()
    assert run.losses() == undisturbed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_processes_ends_no_rank_in_the_middle_of_a_step(
    number: signal.Signals, small_corpus: SmallCorpus, tmp_path: Path, undisturbed: list[Step]
) -> None:
    run = Run(small_corpus, tmp_path)
    run.start("--checkpoint.every", "0")
    run.wait_until(lambda: run.step() >= 4)
    # first to the processes that read data
    for process in reversed(run.processes()):
        process.send_signal(number)
    assert run.end(limit_s=40) == REQUEUE_STATUS, run.printed()
    assert f"step {run.step()} is saved; --resume continues" in run.printed()
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
    small_corpus: SmallCorpus, tmp_path: Path, undisturbed: list[Step]
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
    small_corpus: SmallCorpus, tmp_path: Path, undisturbed: list[Step]
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
    # the one that hangs is to blame, not the one that waits for it
    assert [line.split()[2] for line in run.failures.read_text().splitlines()] == ["70"]
    assert "faulty_rank.py" in (hang / "rank-00001.txt").read_text()
    # the other one waits for it
    assert "faulty_rank.py" not in (hang / "rank-00000.txt").read_text().split("most recent")[1]


def test_a_checkpoint_of_another_model_is_refused_once_and_for_all(
    small_corpus: SmallCorpus, tmp_path: Path
) -> None:
    run = Run(small_corpus, tmp_path, steps=3, workers=0)
    run.start()
    assert run.end() == 0, run.printed()
    run.start("--model.dim", "64")
    assert run.end() == GIVE_UP_STATUS, run.printed()
    assert run.printed().count("another model: model.dim is 32 there, 64 here") == 1


@pytest.mark.slow
def test_a_rank_that_fails_says_so_once(
    small_corpus: SmallCorpus, tmp_path: Path, undisturbed: list[Step]
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


def test_a_writer_that_breaks_ends_its_rank_and_all_are_started_again(
    small_corpus: SmallCorpus, tmp_path: Path, undisturbed: list[Step]
) -> None:
    run = Run(small_corpus, tmp_path, workers=0)
    run.start(fault="broken writer")
    assert run.end() == 0, run.printed()
    assert run.losses() == undisturbed
    file = run.output / "errors" / "rank-00001.txt"
    said = f"rank 1 of 2, waiting for a checkpoint: KeyError: 'lost'; traceback in {file}"
    assert run.printed().count(said) == 1
    assert "_hash_files" in file.read_text()
    assert "Traceback" not in run.printed()


def test_a_store_that_is_down_costs_no_checkpoint(
    small_corpus: SmallCorpus, tmp_path: Path, undisturbed: list[Step]
) -> None:
    run = Run(small_corpus, tmp_path, workers=0)
    store = ["--checkpoint.remote", "memory://run", "--checkpoint.on-error", "stop"]
    run.start(*store, fault="store is down", rank=0)
    lacks = "checkpoint.remote memory://run does not hold every checkpoint yet"
    run.wait_until(lambda: lacks in run.printed() and run.step() >= 4)
    assert run.signalled(signal.SIGTERM) == REQUEUE_STATUS, run.printed()
    assert run.checkpoints()[-1] == f"step-{run.step():07d}"
    run.start(*store, fault="store is down", rank=0)
    assert run.end() == GIVE_UP_STATUS, run.printed()
    said = "all steps are done and saved, but checkpoint.remote memory://run lacks what is named"
    assert run.printed().count(said) == 1
    assert run.checkpoints()[-1] == f"step-{STEPS:07d}"
    assert len(run.checkpoints()) == 2
    run.start(*store)
    assert run.end() == 0, run.printed()
    assert run.losses() == undisturbed


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
    small_corpus: SmallCorpus, small_disk: Path, undisturbed: list[Step]
) -> None:
    run = Run(small_corpus, small_disk, workers=0)
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
    small_corpus: SmallCorpus, small_disk: Path, undisturbed: list[Step]
) -> None:
    run = Run(small_corpus, small_disk, workers=0)
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
