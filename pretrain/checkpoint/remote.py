"""Checkpoints in an object store: upload with the manifest last, and verified download."""

import functools
import glob
import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.config import StorageConfig
from data_pipeline.errors import DataError, MissingFileError
from data_pipeline.storage.files import exists, filesystem, join, read_bytes, with_retries
from pretrain.checkpoint.catalog import expired, in_order, step_of
from pretrain.checkpoint.manifest import MANIFEST, Entry, damage, publish, read_manifest, wrong_size
from pretrain.commands import FetchCommand
from pretrain.config import CheckpointConfig, RunConfig
from pretrain.errors import CheckpointError, DamagedCheckpointError


def upload(checkpoint: Path, remote: str, config: StorageConfig) -> None:
    """Upload a complete checkpoint, its manifest last: without it, readers ignore the folder.

    Raises:
        DataError: The store cannot be written.
    """
    system = filesystem(remote, config)
    folder = join(remote, checkpoint.name)
    if exists(join(folder, MANIFEST), config):
        # it belongs to an earlier checkpoint of this name and does not describe the new files
        _remove(join(folder, MANIFEST), config)
    names = read_manifest((checkpoint / MANIFEST).read_bytes(), checkpoint / MANIFEST)
    for name in (*names, MANIFEST):
        target = join(folder, name)
        put = functools.partial(system.put_file, str(checkpoint / name), target)
        with_retries(target, config, put)


def is_stored(checkpoint: Path, remote: str, config: StorageConfig) -> bool:
    """Whether a store has a complete checkpoint with the same files.

    Raises:
        DataError: The store cannot be read.
    """
    try:
        stored = read_bytes(join(remote, f"{checkpoint.name}/{MANIFEST}"), config)
    except MissingFileError:
        return False
    # the manifest holds the hash of every file
    return stored == (checkpoint / MANIFEST).read_bytes()


def remote_checkpoints(remote: str, config: StorageConfig) -> list[str]:
    """URLs of the complete checkpoints of a store, oldest first.

    Raises:
        DataError: The store cannot be read.
    """
    system = filesystem(remote, config)
    # a remote with the characters of a glob in its name is a folder all the same
    pattern = join(glob.escape(remote), f"step-*/{MANIFEST}")
    manifests = with_retries(remote, config, lambda: system.glob(pattern))
    folders = in_order(Path(name).parent for name in manifests)
    return [join(remote, folder.name) for folder in folders]


def prune_remote(config: CheckpointConfig, storage: StorageConfig, last: int) -> list[str]:
    """Delete the expired checkpoints of a store, manifests first.

    Damaged ones, and those of steps that the run has left by going back, do not count: their
    manifests are renamed, so that readers ignore them, and nothing of them is deleted.

    Args:
        config: The run's `[checkpoint]` table.
        storage: Access to the store.
        last: Step of the newest checkpoint that the run has written.

    Returns:
        What was put aside, and what the store refused: neither prevents a run from being saved.
    """
    notes, sound = [], []
    try:
        for url in remote_checkpoints(config.remote, storage):
            reason = _reason_not_to_count(url, storage, last)
            if reason:
                notes.append(_put_aside(url, reason, storage))
            else:
                sound.append(Path(Path(url).name))
        for old in expired(sound, config):
            _delete(join(config.remote, old.name), storage)
    except (DataError, OSError) as error:
        notes.append(f"{config.remote}: old checkpoints cannot be removed there: {error}")
    return notes


def _reason_not_to_count(url: str, storage: StorageConfig, last: int) -> str:
    if step_of(Path(url)) > last:
        return f"the run went back, and is at step {last} now"
    system = filesystem(url, storage)
    try:
        files = read_manifest(read_bytes(join(url, MANIFEST), storage), join(url, MANIFEST))
    except CheckpointError as error:
        return str(error)
    listed = with_retries(url, storage, lambda: system.find(url, detail=True))
    root = str(system._strip_protocol(url)).rstrip("/")
    sizes = {name.removeprefix(f"{root}/"): info["size"] for name, info in listed.items()}
    problems = (wrong_size(join(url, name), sizes.get(name), files[name]) for name in files)
    return next(filter(None, problems), "")


def _put_aside(url: str, reason: str, storage: StorageConfig) -> str:
    system, manifest = filesystem(url, storage), join(url, MANIFEST)
    aside = f"{manifest}.aside"
    with_retries(manifest, storage, lambda: system.cp_file(manifest, aside))
    _remove(manifest, storage)
    return f"{url}: {reason}; it does not count: its manifest is {aside.rsplit('/', 1)[-1]} now"


def _delete(folder: str, storage: StorageConfig) -> None:
    system = filesystem(folder, storage)
    _remove(join(folder, MANIFEST), storage)
    with_retries(folder, storage, lambda: system.rm(glob.escape(folder), recursive=True))


def _remove(url: str, config: StorageConfig) -> None:
    system = filesystem(url, config)
    with_retries(url, config, lambda: system.rm_file(url))


def fetch_command(command: FetchCommand) -> str:
    """Download a checkpoint and verify it (`resonance checkpoint fetch`).

    Returns:
        Path of the checkpoint.

    Raises:
        CheckpointError: See `fetch`.
    """
    return str(fetch(command.url, command.output, command.storage))


def fetch_newest(run: RunConfig, *, or_older: bool) -> Path | None:
    """Download the newest checkpoint of a run's store into the run's directory.

    Args:
        run: The run.
        or_older: Whether to take an older one if the newest is damaged.

    Returns:
        Path of the checkpoint; None if the store has none.

    Raises:
        CheckpointError: See `fetch`.
    """
    remote, storage = run.checkpoint.remote, run.data.storage
    problems = []
    for url in _newest_first(remote, storage):
        try:
            return fetch(url, run.train.output / "checkpoints", storage)
        except DamagedCheckpointError as error:
            if not or_older:
                raise
            print(f"{error}; looking for an older checkpoint", file=sys.stderr)
            problems.append(str(error))
    if problems:
        raise CheckpointError("no undamaged checkpoint: " + "; ".join(problems))
    return None


def newest_remote(remote: str, config: StorageConfig) -> str:
    """URL of the newest complete checkpoint of a store; empty if there is none.

    Raises:
        CheckpointError: The store cannot be read.
    """
    return next(_newest_first(remote, config), "")


def _newest_first(remote: str, config: StorageConfig) -> Iterator[str]:
    try:
        yield from reversed(remote_checkpoints(remote, config))
    except DataError as error:
        raise CheckpointError(f"{remote}: cannot be read: {error}") from error


def require_writable(remote: str, config: StorageConfig) -> None:
    """Write and delete a small file in a store.

    Raises:
        CheckpointError: The store cannot be written.
    """
    probe = join(remote, ".writable")
    try:
        system = filesystem(remote, config)
        with_retries(probe, config, lambda: system.pipe_file(probe, b"resonance"))
        with_retries(probe, config, lambda: system.rm_file(probe))
    except DataError as error:
        raise CheckpointError(f"{remote}: cannot be written: {error}") from error


def fetch(url: str, root: Path, config: StorageConfig) -> Path:
    """Download a checkpoint from a store into a folder, and verify it.

    Args:
        url: URL of a checkpoint, or of a folder of checkpoints: then the newest.
        root: Folder that will hold the checkpoint under its name.
        config: Access to the store.

    Returns:
        Path of the checkpoint.

    Raises:
        DamagedCheckpointError: A file is missing, cut short or changed.
        CheckpointError: There is none, it cannot be read or written, or its manifest has names that
            lead out of the folder.
    """
    if not url.rstrip("/").rsplit("/", 1)[-1].startswith("step-"):
        newest = newest_remote(url, config)
        if not newest:
            raise CheckpointError(f"{url}: no checkpoint; expected step-*/{MANIFEST}")
        url = newest
    final = root / url.rstrip("/").rsplit("/", 1)[-1]
    # a name of its own: another process may be fetching, or a trainer saving, the same step
    partial = root / f".{final.name}.partial-{uuid.uuid4().hex}"
    manifest_url = join(url, MANIFEST)
    try:
        manifest = read_bytes(manifest_url, config)
    except MissingFileError as error:
        raise CheckpointError(f"{url}: no checkpoint: {error}") from error
    except DataError as error:
        raise CheckpointError(f"{url}: cannot be fetched: {error}") from error
    files = read_manifest(manifest, manifest_url)
    try:
        for name, entry in files.items():
            _fetch_file(join(url, name), partial / name, entry, config)
        (partial / MANIFEST).write_bytes(manifest)
        if problem := publish(partial, final):
            print(problem, file=sys.stderr)
    except MissingFileError as error:
        raise DamagedCheckpointError(f"{url}: {error}") from error
    except (DataError, OSError) as error:
        raise CheckpointError(f"{url}: cannot be fetched: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return final


def _fetch_file(url: str, target: Path, entry: Entry, config: StorageConfig) -> None:
    system = filesystem(url, config)
    target.parent.mkdir(parents=True, exist_ok=True)
    with_retries(url, config, lambda: system.get_file(url, str(target)))
    if problem := damage(target, entry):
        raise DamagedCheckpointError(f"{url}: {problem}")
