"""torchrun as the launchers start it: requests to stop, restarts, exit statuses, signs of life."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launch.torchrun import FAILURE_LOG
from pretrain.runtime.torchrun_agent import _note_failure
from tests.launch.slurm_cluster import wait_for

pytestmark = pytest.mark.system

COMMAND = [
    sys.executable,
    "-m",
    "pretrain.runtime.torchrun_agent",
    "--standalone",
    "--nproc-per-node=2",
]
PRELUDE = """
import os, pathlib, signal, sys, time
here = pathlib.Path(__file__).parent
rank, attempt = os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]
(here / f"started-{rank}-{attempt}").touch()
"""
SAVE = (
    PRELUDE
    + """
def save(number, frame):
    # a second request is the end, and rank 0 takes longer
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(2 if rank == "0" else 0.5)
    (here / f"saved-{rank}").touch()
    sys.exit(75)
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, save)
(here / f"ready-{rank}").touch()
time.sleep(60)
"""
)
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    processes = []

    def run(program: str, *options: str) -> "subprocess.Popen[str]":
        script = tmp_path / "program.py"
        script.write_text(program)
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "RESONANCE_FAILURE_LOG": str(tmp_path / "failures"),
            "RESONANCE_HEARTBEAT": str(tmp_path / "heartbeat"),
        }
        process = subprocess.Popen(
            [*COMMAND, *options, str(script)],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def names(folder: Path, pattern: str) -> set[str]:
    return {path.name for path in folder.glob(pattern)}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_asked_to_stop(start: Start, tmp_path: Path, number: signal.Signals) -> None:
    process = start(SAVE, "--max-restarts=3")
    wait_for(lambda: len(names(tmp_path, "ready-*")) == 2, 60, "two ranks")
    process.send_signal(number)
    assert process.wait(30) == 75
    assert names(tmp_path, "saved-*") == {"saved-0", "saved-1"}
    assert names(tmp_path, "started-*") == {"started-0-0", "started-1-0"}
    assert not (tmp_path / "failures").exists()
    assert (tmp_path / "heartbeat").exists()


def test_first_machine_whose_name_nobody_knows(tmp_path: Path) -> None:
    """It is told that it hosts the rendezvous: the name may be known later, or to others only."""
    script = tmp_path / "program.py"
    script.write_text(PRELUDE)
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    command = [*COMMAND[:3], "--nnodes=1", "--rdzv-backend=c10d", "--rdzv-id=x"]
    command += [f"--rdzv-endpoint=no-such-host.invalid:{port}", "--node-index-variable=INDEX"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "INDEX": "0"}
    result = subprocess.run([*command, str(script)], env=environment, timeout=50)
    assert result.returncode == 0
    assert names(tmp_path, "started-*") == {"started-0-0"}


def test_ranks_that_cannot_save_are_not_started_again(start: Start, tmp_path: Path) -> None:
    program = PRELUDE + 'time.sleep(1); (here / f"ready-{rank}").touch(); time.sleep(60)'
    process = start(program, "--max-restarts=3")
    wait_for(lambda: len(names(tmp_path, "ready-*")) == 2, 60, "two ranks")
    process.send_signal(signal.SIGUSR1)
    assert process.wait(30) == 75
    assert names(tmp_path, "started-*-1") == set()


@pytest.mark.parametrize("status", [75, 78])
def test_ranks_that_leave_by_themselves(start: Start, tmp_path: Path, status: int) -> None:
    process = start(PRELUDE + f"sys.exit({status})", "--max-restarts=3")
    assert process.wait(60) == status
    assert names(tmp_path, "started-*-1") == set()


def test_killed_rank_is_restarted(start: Start, tmp_path: Path) -> None:
    program = PRELUDE + (
        'if rank == "1" and attempt == "0": os.kill(os.getpid(), signal.SIGKILL)\n'
        "time.sleep(2 if attempt == '0' else 0)\n"
    )
    process = start(program, "--max-restarts=1")
    assert process.wait(60) == 0
    assert names(tmp_path, "started-*-1") == {"started-0-1", "started-1-1"}
    (line,) = (tmp_path / "failures").read_text().splitlines()
    assert line.split()[2] == str(-signal.SIGKILL)


@pytest.mark.parametrize(
    ("statuses", "noted"), [([69, 70], "70"), ([69, 1, -9], "-9"), ([-15, 69], "69")]
)
def test_what_is_noted_is_the_cause(
    statuses: list[int], noted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FAILURE_LOG, str(tmp_path / "failures"))
    _note_failure(statuses, "7.0")
    assert (tmp_path / "failures").read_text().split()[2:] == [noted, "7.0"]


def test_failure_without_restarts_left(start: Start) -> None:
    process = start(PRELUDE + "sys.exit(3)", "--max-restarts=0")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "exitcode  : 3" in output
