"""Ways in which sites and shells differ, on a real Slurm: allocations, variables, wrappers."""

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from launch.job import Job
from launch.slurm import client
from launch.slurm.commands import test_only as estimate
from launch.submissions import read
from pretrain.errors import RunError
from pretrain.launch_commands import LaunchCancelCommand, LaunchSlurmCommand, LaunchStatusCommand
from pretrain.run_file import load_run
from pretrain.submit.jobs import launch_cancel, launch_status
from pretrain.submit.slurm import launch_slurm
from tests.conftest import SmallCorpus
from tests.launch.slurm_cluster import Cluster, wait_for_state

pytestmark = pytest.mark.system

StandIn = Callable[..., Job]
SUBMIT = """
import pickle, sys
from pathlib import Path
from launch.slurm import client
job = pickle.loads(Path(sys.argv[1]).read_bytes())
print(*client.submit(job, Path(job.directory) / "job.sh"))
"""
ROOT = Path(__file__).resolve().parents[2]
FORMS = ([], ["--exclusive"], ["--mem-per-cpu=100"])


def shown(job: Job) -> dict[str, dict[str, str | None]]:
    """The variables that the ranks noted, by host."""
    lines = (Path(job.working_directory) / "notes").read_text().splitlines()
    notes = [line.partition(" shows ") for line in lines if " shows " in line]
    return {words.split()[0]: json.loads(text) for words, _, text in notes}


def from_allocation(idle: Cluster, form: list[str], *command: str) -> str:
    """Run a command in an allocation of four tasks; returns the last word that it prints."""
    environment = {**idle.environment, "SLURM_LEAK": "1", "PMIX_LEAK": "1", "SALLOC_LEAK": "1"}
    result = subprocess.run(
        ["salloc", "--ntasks=4", *form, *command],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
    )
    return result.stdout.split()[-1]


@pytest.mark.parametrize("form", FORMS, ids=["plain", "exclusive", "memory-per-cpu"])
def test_submission_from_inside_an_allocation(
    stand_in: StandIn, idle: Cluster, tmp_path: Path, form: list[str]
) -> None:
    job = stand_in("show SLURM_LEAK PMIX_LEAK SALLOC_LEAK WORLD_SIZE", slurm={"memory": "500"})
    (tmp_path / "job").write_bytes(pickle.dumps(job))
    command = [sys.executable, "-c", SUBMIT, str(tmp_path / "job")]
    number = from_allocation(idle, form, *command)
    wait_for_state(number, "COMPLETED")
    leaks = dict.fromkeys(("SLURM_LEAK", "PMIX_LEAK", "SALLOC_LEAK"))
    assert list(shown(job).values()) == [{**leaks, "WORLD_SIZE": "2"}] * 2


def test_printed_script_submitted_by_hand_inside_an_allocation(
    stand_in: StandIn, idle: Cluster
) -> None:
    """All variables of the surrounding job reach the script; srun has its own options."""
    job = stand_in("show WORLD_SIZE", slurm={"memory": "500"})
    script = str(job.directory / "job.sh")
    number = from_allocation(idle, ["--mem-per-cpu=100"], "sbatch", "--parsable", script)
    wait_for_state(number, "COMPLETED")
    assert list(shown(job).values()) == [{"WORLD_SIZE": "2"}] * 2


def test_site_that_exports_nothing(
    stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_EXPORT", "NONE")
    monkeypatch.setenv("OF_THE_SHELL", "1")
    names = "GREETING OMP_NUM_THREADS RESONANCE_FAILURE_LOG OF_THE_SHELL PATH"
    table = {
        "BEHAVIOUR": f"show {names}",
        "STAND_IN": str(tmp_path),
        "GREETING": "it's $HOME",
        # this checkout, also where another one is installed
        "PYTHONPATH": str(ROOT),
    }
    job = stand_in("", threads=2, environment=table)
    (number,) = client.submit(job, Path(job.directory) / "job.sh")
    wait_for_state(number, "COMPLETED")
    ranks = shown(job)
    assert len(ranks) == 2
    for variables in ranks.values():
        assert variables.pop("PATH")
        assert variables == {
            "GREETING": "it's $HOME",
            "OMP_NUM_THREADS": "2",
            "RESONANCE_FAILURE_LOG": str(tmp_path / "launch/failures"),
            "OF_THE_SHELL": None,
        }


def test_variables_of_sbatch_do_not_replace_the_script(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, idle: Cluster
) -> None:
    strong = {
        "TIMELIMIT": "0:10",
        "WAIT": "",
        "ARRAY_INX": "0-3",
        "MEM_PER_CPU": "1",
        "ERROR": "/x",
    }
    for name, value in strong.items():
        monkeypatch.setenv(f"SBATCH_{name}", value)
    job = stand_in("finish", slurm={"memory": "500", "options": {"hold": True}})
    (number,) = client.submit(job, Path(job.directory) / "job.sh")
    found = idle.run("squeue", "--noheader", f"--jobs={number}", "--format=%i %l %m %r")
    assert found.split() == [number, "5:00", "500M", "JobHeldUser"]
    client.cancel([number])


@pytest.fixture
def run_file(
    small_corpus: SmallCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Path]:
    """Write a run whose job is held, with a line for [launch.slurm]."""
    monkeypatch.chdir(tmp_path)

    def write(line: str) -> Path:
        path = small_corpus.run_file(tmp_path / "run.toml")
        table = f'[launch.slurm]\ntime_limit = "5"\noptions = {{ hold = true }}\n{line}\n'
        path.write_text(path.read_text() + f"\nstop_lead_s = 30\n\n{table}")
        return path

    return write


@pytest.mark.usefixtures("wrapped")
def test_job_behind_wrappers_is_found_and_cancelled(run_file: Callable[[str], Path]) -> None:
    path = run_file('partition = "main,urgent"')
    command = LaunchSlurmCommand(run_file=path, submit=True)
    launch_slurm(command)
    (submitted,) = read(load_run(path).train.output / "launch")
    assert submitted.job.isdigit()
    assert submitted.job != "2027"
    assert " PENDING " in launch_status(LaunchStatusCommand(run_file=path))
    with pytest.raises(RunError, match=rf"in use: slurm {submitted.job} \(PENDING\)"):
        launch_slurm(command)
    cancelled = launch_cancel(LaunchCancelCommand(run_file=path))
    assert cancelled == f"cancelled {submitted.job}"
    assert " CANCELLED " in launch_status(LaunchStatusCommand(run_file=path))


@pytest.mark.usefixtures("wrapped")
def test_ranks_behind_wrappers(stand_in: StandIn, tmp_path: Path) -> None:
    job = stand_in("finish")
    (number,) = client.submit(job, Path(job.directory) / "job.sh")
    wait_for_state(number, "COMPLETED")
    assert (tmp_path / "notes").read_text().count("finished") == 2
    assert "status 0; now: done" in (tmp_path / f"launch/trial-{number}.log").read_text()


@pytest.mark.parametrize(
    ("partition", "words"),
    [
        ("main,nowhere", "no partition nowhere"),
        ("broken", "partition broken is down"),
        ("main,broken", ""),
    ],
)
def test_lists_of_partitions(
    run_file: Callable[[str], Path], idle: Cluster, partition: str, words: str
) -> None:
    path = run_file(f'partition = "{partition}"')
    command = LaunchSlurmCommand(run_file=path, submit=True)
    if words:
        with pytest.raises(RunError, match=words):
            launch_slurm(command)
    else:
        launch_slurm(command)
        found = idle.run("squeue", "--noheader", "--states=pending", "--format=%P")
        assert found.strip() == partition
        launch_cancel(LaunchCancelCommand(run_file=path))


@pytest.mark.parametrize(
    "slurm",
    [
        {"time_limit": "UNLIMITED", "partition": "endless"},
        {"time_limit": "0-0:5:30"},
        {"memory": "100MB"},
        {"memory": "100m"},
        {"mem_per_cpu": "10M"},
        {"gres": "gpu:2"},
        {"gres": "gpu:1", "mem_per_gpu": "100M"},
        {"gres": "gpu:2", "gpus_per_node": 2},
        {"nodelist": ["n[1-2]"]},
        {"comment": 'it\'s "odd" #1 \\ $HOME `id`'},
        {"exclusive": True, "options": {"nice": 100, "mail-type": "END", "no-kill": True}},
        {"options": {"switches": "1@00:10:00", "hint": "nomultithread", "overcommit": True}},
        {"deadline": "2036-01-31"},
    ],
    ids=str,
)
def test_what_sbatch_accepts(stand_in: StandIn, slurm: dict[str, object]) -> None:
    job = stand_in("finish", slurm=slurm)
    assert "to start at" in estimate(Path(job.directory) / "job.sh")


def test_comment_arrives_whole(stand_in: StandIn, idle: Cluster) -> None:
    comment = 'it\'s "odd" #1 \\ $HOME `id`; x'
    job = stand_in("finish", slurm={"comment": comment, "options": {"hold": True}})
    (number,) = client.submit(job, Path(job.directory) / "job.sh")
    assert idle.run("squeue", "--noheader", f"--jobs={number}", "--format=%k").strip() == comment
    client.cancel([number])
