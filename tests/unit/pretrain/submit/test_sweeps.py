"""Sweeps: the tasks that are made, what is refused, and a sweep that is submitted again."""

from pathlib import Path

import pytest

from launch.errors import LaunchError
from launch.slurm.script import batch_script
from pretrain.cli import main
from pretrain.errors import RunError
from pretrain.run_file import dump_run, load_run
from pretrain.submit.sweep import check_tasks, sweep_runs
from tests.unit.launch.jobs import make_job
from tests.unit.launch.stand_ins import called, refused


def test_sweep(run_file: Path) -> None:
    run = load_run(run_file)
    runs = sweep_runs(run, ["train.seed=0,1", "optim.learning_rate=1e-3,3e-3"])
    found = [(one.train.seed, one.optim.learning_rate) for one in runs]
    assert found == [(0, 1e-3), (0, 3e-3), (1, 1e-3), (1, 3e-3)]
    assert [one.train.output.name for one in runs] == [f"task-{n:03d}" for n in range(4)]
    assert sweep_runs(run, ["train.precision=float32,bf16"])[1].train.precision == "bf16"


@pytest.mark.parametrize(
    ("description", "words"),
    [
        ("train.seed", "expected KEY=VALUE"),
        ("train.seed=", "expected KEY=VALUE"),
        ("train.sede=1", "did you mean"),
        ("nothing.seed=1", "no key"),
        ("train.seed=-1", "seed"),
        ("train.output=a,b", "chosen for each"),
        ("launch.nodes=1,2", "same for all"),
        ("train.seed=$(touch pwned)", "seed"),
        ("train.seed=0,1,0", "value 0 twice"),
        ("optim.learning_rate=1e-3,0.001", "twice"),
        ("checkpoint.remote=a,b", "chosen for each"),
    ],
)
def test_sweep_refuses(run_file: Path, description: str, words: str) -> None:
    with pytest.raises(RunError, match=words):
        sweep_runs(load_run(run_file), [description])


def test_sweep_refuses_a_key_that_is_named_twice(run_file: Path) -> None:
    with pytest.raises(RunError, match=r"train\.seed is named 2 times"):
        sweep_runs(load_run(run_file), ["train.seed=0,1", "train.seed=2,3"])


@pytest.mark.parametrize("slash", ["", "/"])
def test_tasks_have_stores_of_their_own(run_file: Path, slash: str) -> None:
    """Otherwise a task goes on from the last checkpoint of another, and trains nothing."""
    run = load_run(run_file)
    assert [one.checkpoint.remote for one in sweep_runs(run, ["train.seed=0,1"])] == ["", ""]
    text = run_file.read_text()
    remote = f'[checkpoint]\nremote = "s3://bucket/run{slash}"'
    run_file.write_text(text.replace("[checkpoint]", remote))
    runs = sweep_runs(load_run(run_file), ["train.seed=0,1"])
    found = [one.checkpoint.remote for one in runs]
    assert found == ["s3://bucket/run/task-000", "s3://bucket/run/task-001"]


def test_tasks_on_one_node_meet_at_ports_of_their_own() -> None:
    assert "\nport=$((29400 + SLURM_ARRAY_TASK_ID))\n" in batch_script(make_job(3, port=29400))
    assert "\nport=29400\n" in batch_script(make_job(port=29400))
    with pytest.raises(LaunchError, match="expected at most 65533"):
        batch_script(make_job(3, port=65534))


def train(run_file: Path, sweep: str) -> None:
    """Leave what the tasks of a sweep leave behind."""
    for run in sweep_runs(load_run(run_file), [sweep]):
        checkpoint = run.train.output / "checkpoints/step-0000006"
        checkpoint.mkdir(parents=True)
        (checkpoint / "run.toml").write_text(dump_run(run))


def test_other_values_in_the_directories_of_an_earlier_sweep(
    run_file: Path,
    programs: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise every task finds its directory finished, and trains nothing."""
    monkeypatch.setattr("pretrain.submit.check.find_newest", lambda output: output)
    train(run_file, "train.seed=0,1")
    arguments = "launch", "slurm", run_file, "--submit", "--sweep"
    error = refused(capsys, *arguments, "train.seed=2,3")
    assert "task-000/checkpoints/step-0000006 has train.seed = 0; expected 2" in error
    assert "-> choose another train.output and checkpoint.remote" in error
    # also a single value
    assert "has train.seed = 0; expected 7" in refused(capsys, *arguments, "train.seed=7")
    assert not any("--parsable" in call for call in called(programs))
    main([*map(str, arguments), "train.seed=0,1"])
    assert "submitted 41" in capsys.readouterr().out


def test_other_values_in_the_stores_of_an_earlier_sweep(run_file: Path) -> None:
    """A task whose directory is gone goes on from its store."""
    store = run_file.parent / "store"
    remote = f'[checkpoint]\nremote = "file://{store}"'
    run_file.write_text(run_file.read_text().replace("[checkpoint]", remote))
    run = load_run(run_file)
    earlier, same, other = (
        sweep_runs(run, [f"train.seed={values}"]) for values in ("0,1", "0,1", "0,2")
    )
    check_tasks(other, ["train.seed"])
    for one in earlier:
        checkpoint = store / one.train.output.name / "step-0000006"
        checkpoint.mkdir(parents=True)
        (checkpoint / "manifest.json").write_text("{}")
        (checkpoint / "run.toml").write_text(dump_run(one))
    check_tasks(same, ["train.seed"])
    with pytest.raises(RunError, match=r"task-001/step-0000006 has train.seed = 1; expected 2"):
        check_tasks(other, ["train.seed"])
