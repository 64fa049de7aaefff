"""Checkpoints in an object store: complete or not there, verified when they come back."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from data_pipeline.config import StorageConfig
from data_pipeline.storage.files import filesystem
from pretrain.checkpoint.manifest import MANIFEST, publish, read_manifest, seal, verified
from pretrain.checkpoint.remote import (
    fetch,
    fetch_newest,
    newest_remote,
    prune_remote,
    require_writable,
    upload,
)
from pretrain.config import CheckpointConfig, RunConfig
from pretrain.errors import CheckpointError, DamagedCheckpointError
from tests.object_store import object_store

REMOTE = "s3://runs/one"


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Iterator[StorageConfig]:
    """An empty bucket."""
    with object_store("runs", monkeypatch) as endpoint:
        yield StorageConfig(endpoint_url=endpoint, attempts=2, first_delay_s=0.01, timeout_s=5)


def _checkpoint(root: Path, step: int) -> Path:
    partial, final = root / ".partial", root / f"step-{step:07d}"
    (partial / "tensors").mkdir(parents=True)
    (partial / "state.json").write_text(json.dumps({"step": step}))
    (partial / "tensors" / "__0_0.distcp").write_bytes(os.urandom(2_000))
    seal(partial, {})
    publish(partial, final)
    return final


def _keys(storage: StorageConfig) -> list[str]:
    client = boto3.client("s3", endpoint_url=storage.endpoint_url)
    return [entry["Key"] for entry in client.list_objects_v2(Bucket="runs").get("Contents", [])]


def test_what_is_uploaded_comes_back(storage: StorageConfig, tmp_path: Path) -> None:
    assert newest_remote(REMOTE, storage) == ""
    for step in (9, 10):
        upload(_checkpoint(tmp_path / "here", step), REMOTE, storage)
    assert newest_remote(REMOTE, storage) == f"{REMOTE}/step-0000010"
    found = verified(fetch(REMOTE, tmp_path / "there", storage))
    assert json.loads((found / "state.json").read_text()) == {"step": 10}
    assert fetch(f"{REMOTE}/step-0000009", tmp_path / "there", storage).name == "step-0000009"


def test_a_folder_serves_as_a_store(tmp_path: Path) -> None:
    remote, storage = f"file://{tmp_path}/shared/runs/one", StorageConfig()
    checkpoint = _checkpoint(tmp_path / "here", 3)
    require_writable(remote, storage)
    upload(checkpoint, remote, storage)
    found = verified(fetch(remote, tmp_path / "there", storage))
    assert (found / MANIFEST).read_bytes() == (checkpoint / MANIFEST).read_bytes()


def test_a_store_is_tried_and_nothing_stays_behind(storage: StorageConfig) -> None:
    require_writable(REMOTE, storage)
    assert _keys(storage) == []
    with pytest.raises(CheckpointError, match=r"s3://nowhere/one: cannot be written"):
        require_writable("s3://nowhere/one", storage)


def test_a_store_that_can_only_be_read(
    storage: StorageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(url: str, _data: bytes) -> None:
        raise PermissionError(f"{url}: AccessDenied")

    monkeypatch.setattr(filesystem(REMOTE, storage), "pipe_file", refuse)
    with pytest.raises(CheckpointError, match=r"s3://runs/one: cannot be written: .*AccessDenied"):
        require_writable(REMOTE, storage)


def test_one_without_its_manifest_does_not_count(storage: StorageConfig, tmp_path: Path) -> None:
    upload(_checkpoint(tmp_path, 1), REMOTE, storage)
    upload(_checkpoint(tmp_path, 2), REMOTE, storage)
    client = boto3.client("s3", endpoint_url=storage.endpoint_url)
    client.delete_object(Bucket="runs", Key=f"one/step-0000002/{MANIFEST}")
    assert newest_remote(REMOTE, storage) == f"{REMOTE}/step-0000001"
    client.put_object(Bucket="runs", Key=f"one/step-0000002.bak/{MANIFEST}", Body=b"a user's own")
    assert newest_remote(REMOTE, storage) == f"{REMOTE}/step-0000001"
    with pytest.raises(CheckpointError, match=r"step-0000002: no checkpoint"):
        fetch(f"{REMOTE}/step-0000002", tmp_path / "there", storage)


def test_old_ones_go(storage: StorageConfig, tmp_path: Path) -> None:
    config = CheckpointConfig(remote=REMOTE, keep_last=1, keep_every=4)
    for step in (2, 4, 6, 7):
        upload(_checkpoint(tmp_path, step), REMOTE, storage)
    assert prune_remote(config, storage, 7) == []
    assert {key.split("/")[1] for key in _keys(storage)} == {"step-0000004", "step-0000007"}
    assert newest_remote(REMOTE, storage) == f"{REMOTE}/step-0000007"


def test_neither_a_step_that_was_left_nor_a_damaged_one_counts(
    storage: StorageConfig, tmp_path: Path
) -> None:
    config = CheckpointConfig(remote=REMOTE, keep_last=1)
    for step in (4, 6, 7, 10):
        upload(_checkpoint(tmp_path, step), REMOTE, storage)
    client = boto3.client("s3", endpoint_url=storage.endpoint_url)
    client.put_object(Bucket="runs", Key="one/step-0000006/tensors/__0_0.distcp", Body=b"cut")
    before = set(_keys(storage))
    # the run went back to step 4, and has written step 6, whose copy failed
    notes = prune_remote(config, storage, 6)
    assert len(notes) == 3
    assert "found 3 bytes; expected 2,000" in notes[0]
    assert "step-0000007: the run went back, and is at step 6 now" in notes[1]
    assert newest_remote(REMOTE, storage) == f"{REMOTE}/step-0000004"
    renamed = {key.removesuffix(".aside") for key in _keys(storage)}
    assert renamed == before, "something was deleted"
    assert prune_remote(config, storage, 6) == []


def test_a_store_in_which_nothing_can_be_removed_is_a_note(
    storage: StorageConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(url: str, **_options: object) -> None:
        raise PermissionError(f"{url}: AccessDenied")

    for step in (1, 2):
        upload(_checkpoint(tmp_path, step), REMOTE, storage)
    monkeypatch.setattr(filesystem(REMOTE, storage), "rm_file", refuse)
    (note,) = prune_remote(CheckpointConfig(remote=REMOTE, keep_last=1), storage, 2)
    assert "s3://runs/one: old checkpoints cannot be removed there" in note


def test_an_older_one_replaces_a_damaged_one_only_if_that_is_wanted(
    storage: StorageConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (1, 2):
        upload(_checkpoint(tmp_path / "here", step), REMOTE, storage)
    client = boto3.client("s3", endpoint_url=storage.endpoint_url)
    client.delete_object(Bucket="runs", Key="one/step-0000002/state.json")
    run = RunConfig().model_copy(update={"checkpoint": CheckpointConfig(remote=REMOTE)})
    train = run.train.model_copy(update={"output": tmp_path / "run"})
    data = run.data.model_copy(update={"storage": storage})
    run = run.model_copy(update={"train": train, "data": data})
    with pytest.raises(DamagedCheckpointError, match=r"step-0000002: .*state\.json: no such file"):
        fetch_newest(run, or_older=False)
    found = fetch_newest(run, or_older=True)
    assert found == verified(tmp_path / "run" / "checkpoints" / "step-0000001")
    assert "looking for an older checkpoint" in capsys.readouterr().err
    # an outage is no damage: going back would lose what the store still has
    gone = data.model_copy(update={"storage": storage.model_copy(update={"attempts": 1})})
    client.put_object(Bucket="runs", Key="one/step-0000002/state.json", Body=b"{}")
    system = filesystem(REMOTE, gone.storage)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(system, "get_file", lambda *_: (_ for _ in ()).throw(OSError("SlowDown")))
        with pytest.raises(CheckpointError, match=r"step-0000002: cannot be fetched: .*SlowDown"):
            fetch_newest(run.model_copy(update={"data": gone}), or_older=True)


@pytest.mark.parametrize(
    ("body", "message"),
    [(b"x" * 2_000, "SHA-256 differs"), (b"x", "found 1 bytes; expected 2,000")],
)
def test_a_changed_file_is_refused_and_leaves_nothing(
    body: bytes, message: str, storage: StorageConfig, tmp_path: Path
) -> None:
    upload(_checkpoint(tmp_path / "here", 3), REMOTE, storage)
    client = boto3.client("s3", endpoint_url=storage.endpoint_url)
    client.put_object(Bucket="runs", Key="one/step-0000003/tensors/__0_0.distcp", Body=body)
    with pytest.raises(CheckpointError, match=message):
        fetch(REMOTE, tmp_path / "there", storage)
    assert list((tmp_path / "there").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "sha256", "size"),
    [
        *[(name, "0" * 64, 1) for name in ("../outside", "/etc/outside", "a/../../outside",
                                           "..\\outside", ".", "..", "", "a//b", "a/", "./a",
                                           "a\0b", "a\nb", "x" * 256, MANIFEST)],
        *[("run.toml", sha256, 1) for sha256 in ("0", "../" * 21 + "a", "A" * 64, 0, None)],
        *[("run.toml", "0" * 64, size) for size in (-1, "1", True, 1.0, None, 2**63)],
    ],
)  # fmt: skip
def test_a_foreign_manifest_has_strict_types(name: str, sha256: object, size: object) -> None:
    manifest = {"format": 2, "files": {name: {"bytes": size, "sha256": sha256}}}
    with pytest.raises(CheckpointError, match=r"^s3://x: expected"):
        read_manifest(json.dumps(manifest), "s3://x")


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", '{"format": "2"}', '{"format": 2}', "", "{"])
def test_what_is_no_manifest_is_a_message(text: str) -> None:
    with pytest.raises(CheckpointError, match=r"^s3://x: expected"):
        read_manifest(text, "s3://x")


@pytest.mark.parametrize("name", ["../outside", "/etc/outside"])
def test_a_manifest_that_leads_elsewhere_is_refused(
    name: str, storage: StorageConfig, tmp_path: Path
) -> None:
    client = boto3.client("s3", endpoint_url=storage.endpoint_url)
    manifest = {"format": 2, "files": {name: {"bytes": 1, "sha256": "0" * 64}}}
    key = f"one/step-0000001/{MANIFEST}"
    client.put_object(Bucket="runs", Key=key, Body=json.dumps(manifest).encode())
    with pytest.raises(CheckpointError, match="expected a relative path inside the folder"):
        fetch(REMOTE, tmp_path / "there", storage)
    assert not (tmp_path / "there").exists()


def test_a_store_that_cannot_be_read_is_named(storage: StorageConfig, tmp_path: Path) -> None:
    nobody = storage.model_copy(update={"endpoint_url": "http://127.0.0.1:9"})
    with pytest.raises(CheckpointError, match=r"s3://runs/one: cannot be read"):
        fetch(REMOTE, tmp_path, nobody)
