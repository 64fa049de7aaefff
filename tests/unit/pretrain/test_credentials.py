"""Credentials in the URLs of a run are stored and shown nowhere, and their absence is explained."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from data_pipeline.errors import DataError
from launch.errors import LaunchError
from pretrain.cli import main
from pretrain.config import RunConfig
from pretrain.errors import CheckpointError, LostContactError, RunError
from pretrain.monitoring.wandb_run import WandbRun
from pretrain.run_checks import check_run
from pretrain.run_file import dump_run, load_run, private_keys
from pretrain.submit.jobs import job_of, pods_job_of

SECRET = "hunter2"
KEYS = ["data.datasets.0.path", "data.valid", "data.storage.endpoint_url", "checkpoint.remote"]


@pytest.fixture
def run(tmp_path: Path) -> RunConfig:
    """A run with credentials in all kinds of URLs."""
    return RunConfig.model_validate(
        {
            "train": {"output": tmp_path / "run", "wandb": "auto"},
            "data": {
                "datasets": [{"path": f"https://127.0.0.1:9/train?X-Amz-Signature={SECRET}"}],
                "valid": f"https://user:{SECRET}@127.0.0.1:9/valid",
                "storage": {"endpoint_url": f"http://{SECRET}@127.0.0.1:9"},
            },
            "checkpoint": {"remote": f"s3://key:{SECRET}@bucket/runs"},
        }
    )


def test_a_stored_run_has_none_and_says_so_when_it_is_used(run: RunConfig, tmp_path: Path) -> None:
    assert private_keys(run) == sorted(KEYS, key=private_keys(run).index)
    assert set(private_keys(run)) == set(KEYS)
    text = dump_run(run)
    assert SECRET not in text
    path = tmp_path / "run.toml"
    path.write_text(text)
    stored = load_run(path)
    assert dump_run(stored) == text
    with pytest.raises(DataError, match=r"was written without its credentials.*your own run file"):
        check_run(stored, 1)


def test_a_run_without_credentials_is_stored_as_it_is(tmp_path: Path) -> None:
    table = {"data": {"valid": "s3://bucket/valid", "datasets": [{"path": "https://host/train"}]}}
    run = RunConfig.model_validate(table)
    assert private_keys(run) == []
    path = tmp_path / "run.toml"
    path.write_text(dump_run(run))
    assert load_run(path) == run


def test_jobs_whose_files_others_read_are_refused(run: RunConfig) -> None:
    for describe in (job_of, pods_job_of):
        with pytest.raises(RunError, match="found a URL with credentials") as caught:
            describe(run)
        assert SECRET not in str(caught.value)
        assert all(key in str(caught.value) for key in KEYS)
    with pytest.raises(RunError, match=r"data\.valid, .*found a URL with credentials"):
        job_of(RunConfig(), [run])


@pytest.mark.parametrize("kind", [DataError, RunError, CheckpointError, LostContactError])
def test_no_error_shows_any(kind: type[Exception]) -> None:
    error = kind(f"https://user:{SECRET}@host/x?sig={SECRET}: no such file")
    assert SECRET not in str(error)
    assert "https://REDACTED@host/x?sig=REDACTED: no such file" in str(error)


def test_the_command_line_shows_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    main_module = sys.modules[main.__module__]
    path = tmp_path / "run.toml"

    def fail(_: Path) -> RunConfig:
        raise LaunchError(f"https://user:{SECRET}@host")

    monkeypatch.setattr(main_module, "load_run", fail)
    with pytest.raises(SystemExit):
        main(["pretrain", str(path)])
    printed = capsys.readouterr().err
    assert SECRET not in printed
    assert "https://REDACTED@host" in printed
    monkeypatch.undo()
    path.write_text(f'[data]\nvalid = 3\nsequence_length = "https://user:{SECRET}@host"')
    with pytest.raises(SystemExit):
        main(["pretrain", str(path)])
    assert SECRET not in capsys.readouterr().err


def test_wandb_gets_none(run: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def init(**arguments: object) -> SimpleNamespace:
        calls.append(arguments)
        return SimpleNamespace(define_metric=lambda *_, **__: None)

    run.train.output.mkdir()
    monkeypatch.setitem(
        sys.modules, "wandb", SimpleNamespace(init=init, Settings=lambda **settings: settings)
    )
    for valid, hidden in (("data/valid", False), (run.data.valid, True)):
        monkeypatch.setattr(sys, "argv", ["resonance", "pretrain", "--data.valid", valid])
        WandbRun(run, 1)
        assert SECRET not in repr(calls[-1])
        # its own record of the command line
        assert calls[-1]["settings"]["x_disable_meta"] is hidden
