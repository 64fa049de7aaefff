"""The user's commands on a real Slurm: runs that train on two nodes, sweeps, refusals."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from launch.ledger import read
from pretrain.launch_check import check
from pretrain.launch_commands import (
    LaunchCancelCommand,
    LaunchCheckCommand,
    LaunchLogsCommand,
    LaunchSlurmCommand,
    LaunchStatusCommand,
)
from pretrain.launch_jobs import launch_cancel, launch_logs, launch_status
from pretrain.launch_slurm import launch_slurm
from pretrain.run_file import load_run
from tests.conftest import SmallCorpus
from tests.launch.slurm_cluster import Cluster, wait_for

WriteRun = Callable[..., Path]


@pytest.fixture
def run_file(
    idle: Cluster, small_corpus: SmallCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> WriteRun:
    """Write a run on one rank per node, with further lines for [launch] and [launch.slurm]."""
    monkeypatch.chdir(tmp_path)
    del idle  # only for its end: nothing of this run runs then

    def write(launch: str = "nodes = 2", slurm: str = "", **train: object) -> Path:
        path = small_corpus.run_file(tmp_path / "run.toml", **train)
        text = path.read_text().replace(
            "processes = 2",
            f'stop_lead_s = 30\nnetwork_interface = "eth0"\n{launch}\n\n'
            f'[launch.slurm]\ntime_limit = "5"\n{slurm}\n',
        )
        path.write_text(text)
        return path

    return write


def submit(path: Path, **options: object) -> str:
    return launch_slurm(LaunchSlurmCommand(run_file=path, submit=True, **options))


def wait_for_end(path: Path, state: str, number: int = 1) -> None:
    def reached() -> bool:
        return launch_status(LaunchStatusCommand(run_file=path)).count(f" {state} ") == number

    try:
        wait_for(reached, 240, f"{number} jobs {state}")
    except TimeoutError as error:
        log = launch_logs(LaunchLogsCommand(run_file=path, lines=200))
        raise TimeoutError(f"{error}: {log}") from error


def losses(output: Path) -> dict[int, float]:
    """The loss of every step; of a step that was done twice, the last."""
    lines = (output / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines if line.endswith("}")]
    return {record["step"]: record["loss"] for record in records if "loss" in record}


@pytest.mark.timeout(900)
def test_interrupted_training_equals_undisturbed_training(
    run_file: WriteRun, idle: Cluster, tmp_path: Path
) -> None:
    path = run_file(steps=24, validate_every=0)
    assert "submitted" in submit(path)
    wait_for_end(path, "COMPLETED")
    state = json.loads((tmp_path / "run/checkpoints/step-0000024/state.json").read_text())
    assert state["layout"]["ranks"] == 2
    assert "status 0; now: done" in launch_logs(LaunchLogsCommand(run_file=path))
    assert "nothing to cancel" in launch_cancel(LaunchCancelCommand(run_file=path))
    undisturbed = losses(tmp_path / "run")
    assert list(undisturbed) == list(range(1, 25))

    output = tmp_path / "again"
    path = run_file(steps=24, validate_every=0, output=str(output))
    submit(path)
    wait_for(lambda: (output / "metrics.jsonl").exists() and 4 in losses(output), 120, "step 4")
    number = read(output / "launch")[-1].job
    idle.run("scancel", "--signal=USR1", "--batch", number)
    wait_for_end(path, "COMPLETED")
    assert "requeued 1 times" in launch_status(LaunchStatusCommand(run_file=path))
    log = launch_logs(LaunchLogsCommand(run_file=path, lines=1000))
    assert "status 75; now: requeue" in log
    assert "resumed from" in log
    assert losses(output) == undisturbed


def test_sweep_is_one_array(run_file: WriteRun, tmp_path: Path) -> None:
    path = run_file(launch="nodes = 1", steps=3)
    submit(path, sweep=("train.seed=0,1",))
    wait_for_end(path, "COMPLETED", 2)
    losses = []
    for task in (0, 1):
        output = tmp_path / f"run/task-{task:03d}"
        assert load_run(output / "run.toml").train.seed == task
        losses.append(json.loads((output / "metrics.jsonl").read_text().splitlines()[0])["loss"])
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    ("launch", "slurm", "words"),
    [
        ("nodes = 1", 'partition = "nowhere"', "no partition nowhere"),
        ("nodes = 1", 'partition = "broken"', "partition broken is down"),
        ("nodes = 4", "", "Node count specification invalid"),
        ("nodes = 1", 'partition = "short"\ntime_limit = "30"', "time limit is invalid"),
        ("nodes = 1", "gpus_per_node = 4", "Requested node configuration is not available"),
        ("nodes = 1", 'deadline = "2020-01-01T00:00:00"', "is past"),
    ],
    ids=["unknown", "closed", "nodes", "limit", "gpus", "deadline"],
)
def test_what_slurm_could_never_start_is_not_submitted(
    run_file: WriteRun, idle: Cluster, launch: str, slurm: str, words: str
) -> None:
    path = run_file(launch=launch)
    text = path.read_text()
    if "time_limit" in slurm:
        text = text.replace('time_limit = "5"\n', "")
    path.write_text(text.rstrip() + f"\n{slurm}\n")
    with pytest.raises(ValueError, match="not submitted") as caught:
        submit(path)
    assert words.lower() in str(caught.value).lower()
    assert "->" in str(caught.value)
    assert idle.run("squeue", "--noheader", "--states=pending,running") == ""


def test_fake_gpus_are_given_to_ranks(run_file: WriteRun, idle: Cluster) -> None:
    path = run_file(launch="nodes = 2", slurm="gpus_per_node = 2")
    findings = check(load_run(path), "slurm")
    assert [finding for finding in findings if finding.level == "bad"] == []
    text = launch_slurm(LaunchSlurmCommand(run_file=path))
    assert "--gpus-per-node=2" in text
    assert "--nproc-per-node=2" in text
    assert idle.gpus_per_node == 2


def test_versions_of_the_nodes(run_file: WriteRun) -> None:
    findings = check(load_run(run_file()), "slurm", on_nodes=True)
    (nodes,) = [finding for finding in findings if finding.subject == "nodes"]
    assert (nodes.level, nodes.text) == ("ok", "2 nodes have the versions of this machine")
    assert LaunchCheckCommand(run_file=Path("x")).on_nodes is False
