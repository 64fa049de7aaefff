"""Every key of a run that may change has a consequence."""

import json
from pathlib import Path

import pytest

from data_pipeline.idle_keys import leaves
from pretrain.config import RunConfig
from pretrain.run_file import dump_run
from pretrain.training.resumption import SCHEDULE, changed_keys, consequence_of


def test_every_key_that_may_change_has_a_consequence() -> None:
    for key, _ in leaves(RunConfig()):
        if not key.startswith("model.") and key not in SCHEDULE:
            assert consequence_of(key)


def test_the_learning_rate_before_and_after(tmp_path: Path) -> None:
    def run(train: dict[str, object], optim: dict[str, object]) -> RunConfig:
        return RunConfig.model_validate({"train": {"steps": 20} | train, "optim": optim})

    optim: dict[str, object] = {"learning_rate": 1.0, "warmup_steps": 10, "final_ratio": 0.0}
    (tmp_path / "run.toml").write_text(dump_run(run(train={}, optim=optim)))
    assert list(changed_keys(run(train={}, optim=optim), tmp_path, 15)) == []
    longer = run(train={"steps": 30}, optim=optim)
    (line,) = changed_keys(longer, tmp_path, 20)
    assert line == (
        "train.steps was 20 and is now 30: the learning rate of step 21 changes from 0 to 0.5"
    )
    (line,) = changed_keys(longer, tmp_path, 5)
    assert line.endswith("the learning rate stays 0.6 in step 6 and then takes another course")
    other = run(train={"output": "x" * 100}, optim=optim | {"final_ratio": 0.5})
    lines = list(changed_keys(other, tmp_path, 15))
    assert [line.split(" ")[0] for line in lines] == ["optim.final_ratio", "train.output"]
    assert "changes from 0.5 to 0.75" in lines[0]
    assert lines[1] == "train.output has changed: records and checkpoints are written there"


@pytest.mark.parametrize(
    ("key", "value", "effect"),
    [
        ("optim.name", "muon", "the optimizer's state (momentum and second moments of all"),
        ("optim.momentum", 0.9, "later steps use the new value"),
        ("optim.update_rms", 0.1, "later steps use the new value"),
        ("optim.average_decay", 0.9, "one that the checkpoint lacks begins at its parameters"),
        ("optim.clip", "groups", "later steps use the new value"),
        ("optim.schedule", "constant", "the learning rate of step 501 changes from 0.001"),
        ("optim.schedule_by", "tokens", "the learning rate stays"),
        ("optim.warmup_share", 0.9, "the learning rate of step 501 changes from"),
        ("optim.decay_start", 600, "the learning rate of step 501 changes from"),
        ("optim.decay_steps", 7, "the learning rate stays"),
        ("optim.decay_share", 0.5, "the learning rate stays"),
        ("train.branch_from", "other", "before the run's first checkpoint only"),
        ("train.batch_warmup", [[600, 4]], "later steps read the number of windows that it"),
        ("train.length_warmup", [[600, 64]], "later windows have the length that it gives"),
        ("train.z_loss", 0.1, "gradients of later steps have the new weight"),
        ("monitor.noise_every", 5, "the results of training do not depend on it"),
    ],
)
def test_keys_of_recipes_are_named(key: str, value: object, effect: str, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(dump_run(RunConfig()))
    table, _, name = key.partition(".")
    (line,) = changed_keys(RunConfig.model_validate({table: {name: value}}), tmp_path, 500)
    assert line.startswith(key)
    assert effect in line


def test_another_precision_is_reported_also_if_the_key_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(dump_run(RunConfig()))
    for saved, expected in (({}, []), ({"precision": "float32"}, [])):
        (tmp_path / "state.json").write_text(json.dumps(saved))
        assert list(changed_keys(RunConfig(), tmp_path, 1)) == expected
    (tmp_path / "state.json").write_text(json.dumps({"precision": "bf16"}))
    assert list(changed_keys(RunConfig(), tmp_path, 1)) == [
        "train.precision auto was bf16 there and is float32 here: later steps are computed in the "
        "new precision"
    ]
    run = RunConfig.model_validate({"train": {"precision": "bf16"}})
    (line,) = changed_keys(run, tmp_path, 1)
    assert line.startswith("train.precision was auto and is now bf16: later steps")


def test_values_that_may_hold_a_secret_are_not_printed(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(dump_run(RunConfig()))
    tables = {
        "data": {"datasets": [{"path": "a"}], "valid": "https://user:secret@host/x"},
        "launch": {"environment": {"NCCL_DEBUG": "INFO"}},
    }
    lines = list(changed_keys(RunConfig.model_validate(tables), tmp_path, 1))
    assert sorted(line.split(":")[0] for line in lines) == [
        "data.datasets has changed",
        "data.valid has changed",
        "launch.environment has changed",
    ]
