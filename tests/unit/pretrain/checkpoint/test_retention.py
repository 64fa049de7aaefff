"""What becomes of complete checkpoints: stores that are slow, down or behind, and users' copies."""

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

import pretrain.checkpoint.retention as keeping
from data_pipeline.config import StorageConfig
from data_pipeline.errors import DataError
from pretrain.checkpoint.catalog import find_newest, go_back, list_checkpoints
from pretrain.checkpoint.manifest import publish, seal, sweep
from pretrain.checkpoint.remote import fetch, remote_checkpoints
from pretrain.checkpoint.retention import Retention
from pretrain.config import CheckpointConfig, RunConfig
from pretrain.errors import CheckpointError
from pretrain.resilience.heartbeat import Heartbeat
from tests.object_store import object_store

REMOTE = "s3://runs/one"


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Iterator[StorageConfig]:
    """An empty bucket."""
    with object_store("runs", monkeypatch) as endpoint:
        yield StorageConfig(endpoint_url=endpoint, attempts=1, timeout_s=5)


@pytest.fixture
def _one_rank() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Kept:
    """A run's directory with a retention.

    Attributes:
        said: What the retention told.
        refused: Names of checkpoints that the store does not take.
    """

    def __init__(
        self,
        folder: Path,
        storage: StorageConfig,
        monkeypatch: pytest.MonkeyPatch,
        *,
        local: bool = False,
        **keys: Any,
    ):
        config = CheckpointConfig(remote="" if local else REMOTE, **keys)
        run = RunConfig().model_copy(update={"checkpoint": config})
        self.run = run.model_copy(
            update={
                "train": run.train.model_copy(update={"output": folder}),
                "data": run.data.model_copy(update={"storage": storage}),
            }
        )
        self.said: list[str] = []
        self.refused: set[str] = set()
        self.retention = Retention(self.run, self.said.append)
        upload = keeping.upload

        def upload_unless_refused(checkpoint: Path, *arguments: Any) -> None:
            if checkpoint.name in self.refused:
                raise DataError(f"{REMOTE}/{checkpoint.name}: no route to the store")
            upload(checkpoint, *arguments)

        monkeypatch.setattr(keeping, "upload", upload_unless_refused)

    def write(self, step: int) -> Path:
        root = self.run.train.output / "checkpoints"
        partial, final = root / ".partial", root / f"step-{step:07d}"
        partial.mkdir(parents=True)
        (partial / "state.json").write_text(json.dumps({"step": step}))
        (partial / "__0_0.distcp").write_bytes(os.urandom(1_000))
        seal(partial, {})
        publish(partial, final)
        self.retention.keep(final)
        return final

    def finish(self) -> bool:
        return self.retention.finish(Heartbeat(self.run.train.output, 0))

    def here(self) -> list[str]:
        return [path.name for path in list_checkpoints(self.run.train.output)]

    def there(self) -> list[str]:
        return [url.rsplit("/", 1)[1] for url in remote_checkpoints(REMOTE, self.run.data.storage)]


Make = Callable[..., Kept]


@pytest.fixture
def kept(storage: StorageConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    return lambda **keys: Kept(tmp_path / "run", storage, monkeypatch, **keys)


@pytest.mark.usefixtures("_one_rank")
def test_what_could_not_be_copied_is_copied_with_the_next(kept: Make) -> None:
    run = kept(keep_last=2)
    run.refused = {"step-0000003"}
    run.write(3)
    assert not run.finish()
    assert (run.here(), run.there()) == (["step-0000003"], [])
    assert f"checkpoint.remote {REMOTE} does not hold every checkpoint yet" in run.said[0]
    assert "step-0000003: no route to the store" in run.said[0]
    run.refused = set()
    run.write(6)
    assert run.finish()
    assert run.here() == run.there() == ["step-0000003", "step-0000006"]


@pytest.mark.usefixtures("_one_rank")
def test_old_ones_go_while_the_store_is_down_and_the_newest_stays(kept: Make) -> None:
    run = kept(keep_last=1)
    run.refused = {f"step-{step:07d}" for step in (1, 2, 3)}
    for step in (1, 2, 3):
        run.write(step)
        assert not run.finish()
        assert run.here() == [f"step-{step:07d}"]
    run.refused = set()
    # the end of the run tries once more
    assert run.finish()
    assert run.there() == ["step-0000003"]


@pytest.mark.usefixtures("_one_rank")
@pytest.mark.parametrize("on_error", ["continue", "stop"])
def test_the_end_of_a_run_says_that_the_store_lacks_something(on_error: str, kept: Make) -> None:
    run = kept(on_error=on_error)
    run.refused = {"step-0000003"}
    run.write(3)
    heartbeat = Heartbeat(run.run.train.output, 0)
    expected = f"all steps are done and saved, but checkpoint.remote {REMOTE} lacks"
    if on_error == "stop":
        with pytest.raises(CheckpointError, match=expected) as error:
            run.retention.finish_run(heartbeat)
        assert error.value.agreed
    else:
        run.retention.finish_run(heartbeat)
        assert run.said[-1].startswith(expected)
    assert run.here() == ["step-0000003"]


@pytest.mark.usefixtures("_one_rank")
def test_what_is_being_copied_is_not_removed_and_delays_nothing(
    kept: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = kept(keep_last=1)
    begun, go_on = threading.Event(), threading.Event()
    upload = keeping.upload

    def slow(*arguments: Any) -> None:
        begun.set()
        assert go_on.wait(60)
        upload(*arguments)

    monkeypatch.setattr(keeping, "upload", slow)
    run.write(1)
    assert begun.wait(60)
    run.write(2)
    run.write(3)
    assert run.here() == ["step-0000001", "step-0000003"]
    go_on.set()
    assert run.finish()
    assert run.here() == run.there() == ["step-0000003"]
    assert run.said == []


@pytest.mark.usefixtures("_one_rank")
def test_a_checkpoint_that_is_written_anew_replaces_the_stored_one(
    kept: Make, storage: StorageConfig, tmp_path: Path
) -> None:
    run = kept()
    run.write(3)
    assert run.finish()
    again = run.write(3)
    assert run.finish()
    found = fetch(REMOTE, tmp_path / "got", storage)
    for file in again.iterdir():
        assert (found / file.name).read_bytes() == file.read_bytes()


@pytest.mark.usefixtures("_one_rank")
def test_a_damaged_checkpoint_is_named_and_not_copied(kept: Make) -> None:
    run = kept(keep_last=3)
    run.refused = {"step-0000001"}
    damaged = run.write(1) / "__0_0.distcp"
    assert not run.finish()
    damaged.write_bytes(b"x" * 1_000)
    run.refused = set()
    run.write(2)
    assert run.finish()
    assert f"{damaged}: its SHA-256 differs" in run.said[-1]
    assert "it is kept as step-0000001.damaged and does not count" in run.said[-1]
    assert run.here() == run.there() == ["step-0000002"]


@pytest.mark.usefixtures("_one_rank")
@pytest.mark.parametrize("keep_last", [1, 2])
def test_after_going_back_what_was_just_written_stays(keep_last: int, kept: Make) -> None:
    run = kept(keep_last=keep_last)
    for step in (5, 10):
        run.write(step)
    assert run.finish()
    # the run goes back to 5, and takes another course; nobody has renamed 10
    run.write(6)
    assert run.finish()
    root = run.run.train.output / "checkpoints"
    assert run.here() == run.there() == ["step-0000005", "step-0000006"][-keep_last:]
    assert (root / "step-0000010.abandoned" / "manifest.json").is_file()
    assert "step-0000010: the run went back, and is at step 6 now; it is kept as" in run.said[0]
    # once more: what is put aside keeps its name
    run.write(10)
    run.write(7)
    assert run.finish()
    assert (root / "step-0000010.abandoned-2").is_dir()


def test_one_that_is_cut_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Kept(tmp_path / "run", StorageConfig(), monkeypatch, keep_last=2, local=True)
    run.write(1)
    (run.write(2) / "__0_0.distcp").write_bytes(b"cut")
    run.write(3)
    # of three, the last two sound ones
    assert run.here() == ["step-0000001", "step-0000003"]
    assert "found 3 bytes; expected 1,000 bytes; it is kept as step-0000002.damaged" in run.said[0]


def test_an_old_one_that_cannot_be_removed_is_named_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Kept(tmp_path / "run", StorageConfig(), monkeypatch, keep_last=1, local=True)
    elsewhere = tmp_path / "elsewhere"
    run.write(1).rename(elsewhere)
    root = run.run.train.output / "checkpoints"
    (root / "step-0000001").symlink_to(elsewhere)
    remove = shutil.rmtree

    def busy(path: Path, *arguments: Any) -> None:
        if "step-0000002" in str(path):
            raise OSError(39, "Directory not empty", ".nfs0001")
        remove(path, *arguments)

    monkeypatch.setattr(shutil, "rmtree", busy)
    for step in (2, 3, 4):
        run.write(step)
        run.retention.warn("")
    assert run.here() == ["step-0000004"]
    # a link is removed, and not what it leads to
    assert (elsewhere / "manifest.json").is_file()
    (warned,) = run.said
    assert "step-0000002.discarded-" in warned
    assert "cannot be removed, and can be deleted by hand" in warned
    # leftovers are tried again, and a user's own files are not touched
    (root / ".step-mine").touch()
    assert len(sweep(root)) == 1
    monkeypatch.undo()
    assert sweep(root) == []
    assert {path.name for path in root.iterdir()} == {"step-0000004", ".step-mine"}


def test_going_back_puts_damaged_ones_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Kept(tmp_path / "run", StorageConfig(), monkeypatch, keep_last=9, local=True)
    for step in (5, 10, 15):
        checkpoint = run.write(step)
        if step > 5:
            (checkpoint / "state.json").write_text("{}")
    assert go_back(run.run.train.output) == checkpoint.with_name("step-0000005")
    assert run.here() == ["step-0000005"]
    assert checkpoint.with_name("step-0000010.damaged").is_dir()
    # with nothing sound, nothing is renamed
    (checkpoint.with_name("step-0000005") / "state.json").unlink()
    with pytest.raises(CheckpointError, match="no undamaged checkpoint"):
        go_back(run.run.train.output)
    assert run.here() == ["step-0000005"]


def test_a_copy_that_a_user_made_is_no_checkpoint(tmp_path: Path) -> None:
    for name in ("step-0000002.bak", "step-", "step-last"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert list_checkpoints(tmp_path) == []
    assert find_newest(tmp_path) is None
    for step in (9_999_999, 10_000_000):
        (tmp_path / "checkpoints" / f"step-{step:07d}").mkdir()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-9999999", "step-10000000"]
