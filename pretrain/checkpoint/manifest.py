"""The completion marker of a checkpoint: size and SHA-256 of every file (imports no torch).

A folder without `manifest.json` is no checkpoint. It is the last file to be written; then the
folder is renamed to its final name.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from data_pipeline.errors import DataError
from data_pipeline.foreign import Count, ForeignTable, RelativePath, Sha256, first_problem
from data_pipeline.input_files import (
    MAX_JSON_BYTES,
    open_regular,
    read_regular,
    require_regular,
)
from pretrain.errors import CheckpointError

MANIFEST = "manifest.json"
# format of all files of a checkpoint; raised when an older reader would misread them
FORMAT = 2
HASH_THREADS = 4


class Entry(NamedTuple):
    """Expected size and hash of a file.

    Attributes:
        bytes: Size of the file.
        sha256: Hash of the file, in hexadecimal.
    """

    bytes: int
    sha256: str


class _Format(BaseModel):
    """The field that every version has; it was added after the first."""

    model_config = ConfigDict(strict=True)

    format: int = 1


class _EntryTable(ForeignTable):
    """An `Entry` as it is stored."""

    bytes: Count
    sha256: Sha256


class _Table(ForeignTable):
    """The manifest as it is stored."""

    format: int
    files: dict[RelativePath, _EntryTable]


def seal(folder: Path, hashed: Mapping[str, Entry]) -> None:
    """Write the manifest and sync all files to disk.

    Args:
        folder: The checkpoint under its temporary name.
        hashed: Entries of files that are already synced and hashed.
    """
    files = dict(hashed)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(file.relative_to(folder))
        if name not in files:
            files[name] = entry_of(file)
            fsync(file)
    manifest = folder / MANIFEST
    table = {"format": FORMAT, "files": {name: files[name]._asdict() for name in sorted(files)}}
    manifest.write_text(json.dumps(table, indent=1), encoding="utf-8")
    fsync(manifest)
    for path in (*(path for path in folder.rglob("*") if path.is_dir()), folder):
        fsync(path)


def read_manifest(data: bytes | str, where: object) -> dict[str, Entry]:
    """Entries of a manifest by file name; all names stay inside the checkpoint's folder.

    Args:
        data: Contents of the manifest.
        where: Its path or URL, for error messages.

    Raises:
        CheckpointError: It is no manifest, has another format, or a name leads out of the folder.
    """
    try:
        found = _Format.model_validate_json(data).format
        if found != FORMAT:
            raise CheckpointError(f"{where}: format {found}; expected {FORMAT}")
        files = _Table.model_validate_json(data).files
    except ValidationError as error:
        raise CheckpointError(
            f"{where}: expected sizes and hashes of the checkpoint's files: {first_problem(error)}"
        ) from error
    if MANIFEST in files:
        raise CheckpointError(f"{where}: expected entries of other files, found its own name")
    return {name: Entry(entry.bytes, entry.sha256) for name, entry in files.items()}


def verified(checkpoint: Path) -> Path:
    """Compare every file of a checkpoint with its manifest.

    Returns:
        The same path.

    Raises:
        CheckpointError: Names the first file that differs.
    """
    manifest = checkpoint / MANIFEST
    try:
        text = read_regular(manifest, MAX_JSON_BYTES)
    except (OSError, DataError) as error:
        raise CheckpointError(f"{manifest}: cannot be read: {error}") from error
    files = read_manifest(text, manifest)
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        for problem in pool.map(lambda item: damage(checkpoint / item[0], item[1]), files.items()):
            if problem:
                raise CheckpointError(problem)
    return checkpoint


def damage(file: Path, expected: Entry) -> str:
    """Description of a file's damage; empty if there is none."""
    try:
        status = file.stat()
        require_regular(file, status.st_mode)
        if status.st_size != expected.bytes:
            return f"{file}: found {status.st_size:,} bytes; expected {expected.bytes:,} bytes"
        if file_sha256(file) != expected.sha256:
            return f"{file}: its SHA-256 differs from the manifest: damaged"
    except FileNotFoundError:
        return f"{file}: found no file; expected {expected.bytes:,} bytes"
    except DataError as error:
        return str(error)
    except (OSError, ValueError) as error:
        return f"{file}: cannot be read: {error}"
    return ""


def entry_of(file: Path) -> Entry:
    """Size and hash of a file."""
    return Entry(file.stat().st_size, file_sha256(file))


def file_sha256(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open_regular(file) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fsync(path: Path) -> None:
    """Sync a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(partial: Path, final: Path) -> None:
    """Rename a sealed folder to its final name, replacing an earlier checkpoint of that name."""
    if final.exists():
        discard(final)
    partial.rename(final)
    fsync(final.parent)


def discard(checkpoint: Path) -> None:
    """Delete a checkpoint; an interrupted deletion leaves nothing named like a checkpoint."""
    hidden = checkpoint.with_name(f".{checkpoint.name}.discarded")
    shutil.rmtree(hidden, ignore_errors=True)
    checkpoint.rename(hidden)
    shutil.rmtree(hidden)


def sweep(root: Path) -> None:
    """Delete partial and half-deleted checkpoints of interrupted processes."""
    for stale in root.glob(".step-*"):
        shutil.rmtree(stale)
