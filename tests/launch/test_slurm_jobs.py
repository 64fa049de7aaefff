"""Batch jobs on a real Slurm whose ranks are stand-ins: preemption, bad nodes, failures, paths."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from launch.job import Job
from launch.slurm import client
from launch.submissions import read
from tests.launch.slurm_cluster import Cluster, wait_for, wait_for_state

pytestmark = pytest.mark.system

StandIn = Callable[..., Job]


def submit(job: Job) -> str:
    (number,) = client.submit(job, Path(job.directory) / "job.sh")
    return number


def notes(job: Job) -> list[list[str]]:
    """What the ranks noted: [host, job number, word, ...]."""
    file = Path(job.working_directory) / "notes"
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def count(job: Job, word: str) -> int:
    return sum(line[2] == word for line in notes(job))


def finish_next_time(job: Job) -> None:
    """Let ranks that are started from now on finish at once, as if these had been asked to stop."""
    with (Path(job.working_directory) / "notes").open("a", encoding="utf-8") as file:
        file.write("nobody 0 asked\n")


def wait_for_ranks(job: Job, number: int = 2) -> None:
    wait_for(lambda: count(job, "start") >= number, 90, f"{number} ranks")


@pytest.mark.slow
def test_preempted_job_saves_and_comes_back(stand_in: StandIn, idle: Cluster) -> None:
    job = stand_in("stop", nodes=3)
    number = submit(job)
    wait_for_ranks(job, 3)
    urgent = idle.run(
        "sbatch", "--parsable", "--partition=urgent", "--nodes=3", "--chdir=/tmp",
        "--exclusive", "--output=/dev/null", "--wrap=sleep 1",
    )  # fmt: skip
    wait_for_state(urgent.strip(), "COMPLETED")
    state = wait_for_state(number, "COMPLETED")
    assert state.requeues == 1
    assert count(job, "asked") == 3
    assert all(line[3:] == ["--auto-resume", "3"] for line in notes(job) if line[2] == "start")
    assert count(job, "finished") == 3


@pytest.mark.slow
@pytest.mark.usefixtures("wrapped")
def test_bad_node_is_left_out(stand_in: StandIn) -> None:
    job = stand_in("crash n1", max_restarts=0, slurm={"exclude_after": 2, "max_failures": 5})
    number = submit(job)
    wait_for_state(number, "FAILED", 150)
    wait_for(lambda: len(read(Path(job.directory))) == 2, 30, "a second job")
    second = read(Path(job.directory))[-1].job
    wait_for_state(second, "COMPLETED")
    assert {line[0] for line in notes(job) if line[1] == second} == {"n2", "n3"}
    crashed = [line for line in notes(job) if line[0] == "n1"]
    assert len(crashed) == 2


@pytest.mark.slow
def test_repeated_failure_gives_up(stand_in: StandIn) -> None:
    job = stand_in("crash n1", nodes=3, max_restarts=0, slurm={"max_failures": 0})
    number = submit(job)
    state = wait_for_state(number, "FAILED")
    assert state.requeues == 0
    assert state.status not in (None, 0)


@pytest.mark.slow
def test_killed_rank_is_restarted_in_the_same_job(stand_in: StandIn) -> None:
    job = stand_in("stop", nodes=1, max_restarts=1)
    number = submit(job)
    wait_for_ranks(job, 1)
    finish_next_time(job)
    ranks = [pid for pid in processes() if "stand_in.py" in pid[1] and "elastic" not in pid[1]]
    os.kill(ranks[0][0], signal.SIGKILL)
    state = wait_for_state(number, "COMPLETED")
    assert state.requeues == 0
    assert count(job, "start") == 2
    assert count(job, "finished") == 1


def test_path_that_sbatch_and_bash_must_not_read(stand_in: StandIn, tmp_path: Path) -> None:
    folder = "it's $(touch pwned); `touch pwned` \"x\" #y 'z' & ü"
    job = stand_in("finish", folder, nodes=1)
    number = submit(job)
    wait_for_state(number, "COMPLETED")
    assert "now: done" in (tmp_path / folder / f"trial-{number}.log").read_text()
    assert not list(tmp_path.rglob("pwned"))


def processes() -> list[tuple[int, str]]:
    """Every process on this machine with its command."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        found.append((int(folder.name), command))
    return found
