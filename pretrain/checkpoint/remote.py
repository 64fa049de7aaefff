"""Checkpoints in an object store: upload with the manifest last, and verified download."""

import functools
import shutil
from pathlib import Path

from data_pipeline.config import StorageConfig
from data_pipeline.errors import DataError, MissingFileError
from data_pipeline.storage.files import exists, filesystem, join, read_bytes, with_retries
from pretrain.checkpoint.catalog import expired, in_order
from pretrain.checkpoint.manifest import MANIFEST, damage, publish, read_manifest, sweep
from pretrain.commands import FetchCommand
from pretrain.config import CheckpointConfig, RunConfig
from pretrain.errors import CheckpointError


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
    pattern = join(remote, f"step-*/{MANIFEST}")
    manifests = with_retries(remote, config, lambda: system.glob(pattern))
    folders = in_order(Path(name).parent for name in manifests)
    return [join(remote, folder.name) for folder in folders]


def prune_remote(config: CheckpointConfig, storage: StorageConfig) -> None:
    """Delete the expired checkpoints of a store, manifests first.

    Raises:
        DataError: The store cannot be changed.
    """
    system = filesystem(config.remote, storage)
    urls = remote_checkpoints(config.remote, storage)
    for old in expired([Path(Path(url).name) for url in urls], config):
        folder = join(config.remote, old.name)
        _remove(join(folder, MANIFEST), storage)
        with_retries(folder, storage, functools.partial(system.rm, folder, recursive=True))


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


def fetch_newest(run: RunConfig) -> Path | None:
    """Download the newest checkpoint of a run's store into the run's directory.

    Returns:
        Path of the checkpoint; None if the store has none.

    Raises:
        CheckpointError: See `fetch`.
    """
    remote, storage = run.checkpoint.remote, run.data.storage
    newest = newest_remote(remote, storage)
    return fetch(newest, run.train.output / "checkpoints", storage) if newest else None


def newest_remote(remote: str, config: StorageConfig) -> str:
    """URL of the newest complete checkpoint of a store; empty if there is none.

    Raises:
        CheckpointError: The store cannot be read.
    """
    try:
        return next(reversed(remote_checkpoints(remote, config)), "")
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
        CheckpointError: It is missing, unreadable or damaged, or its manifest has names that lead
            out of the folder.
    """
    if not url.rstrip("/").rsplit("/", 1)[-1].startswith("step-"):
        newest = newest_remote(url, config)
        if not newest:
            raise CheckpointError(f"{url}: no checkpoint; expected step-*/{MANIFEST}")
        url = newest
    final = root / url.rstrip("/").rsplit("/", 1)[-1]
    partial = root / f".{final.name}.partial"
    try:
        system = filesystem(url, config)
        manifest = read_bytes(join(url, MANIFEST), config)
        files = read_manifest(manifest, join(url, MANIFEST))
        root.mkdir(parents=True, exist_ok=True)
        sweep(root)
        for name, entry in files.items():
            target, source = partial / name, join(url, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            get = functools.partial(system.get_file, source, str(target))
            with_retries(source, config, get)
            if problem := damage(target, entry):
                raise CheckpointError(f"{url}: {problem}")
        (partial / MANIFEST).write_bytes(manifest)
        publish(partial, final)
    except MissingFileError as error:
        raise CheckpointError(f"{url}: no checkpoint: {error}") from error
    except (DataError, OSError) as error:
        raise CheckpointError(f"{url}: cannot be fetched: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return final
