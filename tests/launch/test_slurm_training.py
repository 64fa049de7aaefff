"""The user's commands on a real Slurm: runs that train on two nodes, sweeps, refusals."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from launch.slurm import client
from launch.submissions import read
from pretrain.errors import RunError
from pretrain.launch_commands import (
    LaunchCancelCommand,
    LaunchCheckCommand,
    LaunchLogsCommand,
    LaunchSlurmCommand,
    LaunchStatusCommand,
)
from pretrain.run_file import load_run
from pretrain.submit.check import check
from pretrain.submit.jobs import launch_cancel, launch_logs, launch_status
from pretrain.submit.slurm import launch_slurm
from tests.conftest import SmallCorpus
from tests.launch.slurm_cluster import Cluster, wait_for, wait_for_state
from tests.losses import STEPS, Step, first_losses, losses, trained

pytestmark = pytest.mark.system

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


def begin(path: Path, cluster: Cluster, **options: object) -> Path:
    """Submit a run and let it come past its first checkpoint; returns its directory."""
    submit(path, **options)
    output = load_run(path).train.output
    wait_for(lambda: _last_step(output) > 3, 120, "steps after a checkpoint")
    assert len([name for name in cluster.names if len(cluster.pids(name)) > 1]) == 2
    return output


def _last_step(output: Path) -> int:
    return max((record.step for record in losses(output)), default=0)


def ask_to_stop(cluster: Cluster, job: str) -> None:
    """What Slurm sends to the batch script stop_lead_s before the time limit."""
    cluster.run("scancel", "--signal=USR1", "--batch", job)


def ranks_of(output: Path, step: int) -> int:
    """How many ranks wrote a checkpoint."""
    state = json.loads((output / f"checkpoints/step-{step:07d}/state.json").read_text())
    return int(state["layout"]["ranks"])


def test_asked_to_stop_saves_is_requeued_and_finishes(
    run_file: WriteRun, idle: Cluster, undisturbed: list[Step]
) -> None:
    path = run_file(steps=STEPS, validate_every=0)
    output = begin(path, idle)
    ask_to_stop(idle, read(output / "launch")[-1].job)
    wait_for_end(path, "COMPLETED")
    assert "requeued 1 times" in launch_status(LaunchStatusCommand(run_file=path))
    log = launch_logs(LaunchLogsCommand(run_file=path, lines=1000))
    assert "status 75; now: requeue" in log
    assert "resumed from" in log
    assert "status 0; now: done" in log
    assert "nothing to cancel" in launch_cancel(LaunchCancelCommand(run_file=path))
    assert ranks_of(output, STEPS) == 2
    assert trained(losses(output)) == trained(undisturbed)


@pytest.mark.parametrize(
    ("lost", "left"), [("n2", "n1"), pytest.param("n1", "n2", marks=pytest.mark.slow)]
)
def test_node_lost_and_finished_on_the_rest(
    run_file: WriteRun, idle: Cluster, undisturbed: list[Step], lost: str, left: str
) -> None:
    # one node of three is not to be used, so that one is left
    path = run_file("nodes = 2\nmin_nodes = 1", 'exclude = ["n3"]', steps=STEPS, validate_every=0)
    output = begin(path, idle)
    idle.kill_node(lost)
    wait_for_end(path, "COMPLETED")
    status = launch_status(LaunchStatusCommand(run_file=path))
    assert f"COMPLETED    {left} status 0 requeued 1 times" in status
    assert ranks_of(output, STEPS) == 1
    # one rank adds the same numbers up in another order
    found = losses(output)
    assert first_losses(found) == pytest.approx(first_losses(undisturbed), rel=1e-5, abs=0)
    assert list(trained(found)) == list(trained(undisturbed))


def test_chain_goes_on_where_the_first_stopped(
    run_file: WriteRun, idle: Cluster, undisturbed: list[Step]
) -> None:
    path = run_file(steps=STEPS, validate_every=0)
    output = begin(path, idle, chain=2)
    first, second = (job.job for job in read(output / "launch"))
    assert client.status([second])[0].state == "PENDING"
    ask_to_stop(idle, first)
    wait_for_state(second, "COMPLETED")
    state = client.status([first])[0]
    assert (state.state, state.status, state.requeues) == ("FAILED", 75, 0)
    assert trained(losses(output)) == trained(undisturbed)


def test_cancelled_run_leaves_no_process(run_file: WriteRun, idle: Cluster) -> None:
    path = run_file(steps=100_000, validate_every=0)
    begin(path, idle)
    with pytest.raises(RunError, match=r"is in use: slurm \d+ \(RUNNING\) has not ended"):
        submit(path)
    launch_cancel(LaunchCancelCommand(run_file=path))
    wait_for_end(path, "CANCELLED")
    assert "requeued" not in launch_status(LaunchStatusCommand(run_file=path))
    idle.wait_for_nodes("idle")
    left = {name: idle.pids(name) for name in idle.names}
    assert all(len(pids) == 1 for pids in left.values()), left


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
    with pytest.raises(RunError, match=r"has train\.seed = 1; expected 2") as caught:
        submit(path, sweep=("train.seed=0,2",))
    assert "is in use" not in str(caught.value)


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
