"""The completion marker of a checkpoint: size and SHA-256 of every file (imports no torch).

A folder without `manifest.json` is no checkpoint. It is the last file to be written; then the
folder is renamed to its final name.
"""

import hashlib
import json
import os
import re
import shutil
import uuid
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
from pretrain.errors import CheckpointError, DamagedCheckpointError

MANIFEST = "manifest.json"
# format of all files of a checkpoint; raised when an older reader would misread them
FORMAT = 2
HASH_THREADS = 4
# leftovers of interrupted processes; other files that start with a dot are a user's
_LEFTOVER = re.compile(r"\.step-[0-9]+\.(partial|discarded).*")


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
        DamagedCheckpointError: It is no manifest.
        CheckpointError: It has another format, or a name leads out of the folder.
    """
    try:
        found = _Format.model_validate_json(data).format
        if found != FORMAT:
            raise CheckpointError(f"{where}: format {found}; expected {FORMAT}")
        files = _Table.model_validate_json(data).files
    except ValidationError as error:
        raise DamagedCheckpointError(
            f"{where}: expected sizes and hashes of the checkpoint's files: {first_problem(error)}"
        ) from error
    if MANIFEST in files:
        raise CheckpointError(f"{where}: expected entries of other files, found its own name")
    if not files:
        raise DamagedCheckpointError(f"{where}: it lists no files; expected those of a checkpoint")
    return {name: Entry(entry.bytes, entry.sha256) for name, entry in files.items()}


def read_entries(checkpoint: Path) -> dict[str, Entry]:
    """Entries of a checkpoint's manifest by file name.

    Raises:
        DamagedCheckpointError: There is no manifest, or something else.
        CheckpointError: It cannot be read.
    """
    manifest = checkpoint / MANIFEST
    try:
        return read_manifest(read_regular(manifest, MAX_JSON_BYTES), manifest)
    except (FileNotFoundError, NotADirectoryError, DataError) as error:
        raise DamagedCheckpointError(f"{manifest}: cannot be read: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{manifest}: cannot be read: {error}") from error


def verified(checkpoint: Path) -> Path:
    """Compare every file of a checkpoint with its manifest.

    Returns:
        The same path.

    Raises:
        DamagedCheckpointError: Names the first file that differs.
        CheckpointError: A file cannot be read.
    """
    files = read_entries(checkpoint)
    try:
        with ThreadPoolExecutor(HASH_THREADS) as pool:
            problems = pool.map(lambda item: damage(checkpoint / item[0], item[1]), files.items())
            for problem in filter(None, problems):
                raise DamagedCheckpointError(problem)
    except OSError as error:
        raise CheckpointError(f"{checkpoint}: cannot be read: {error}") from error
    return checkpoint


def require_sizes(checkpoint: Path) -> None:
    """Compare the sizes of a checkpoint's files with its manifest; cheap enough for every save.

    Raises:
        DamagedCheckpointError: Names the first file that differs.
        CheckpointError: A file cannot be read.
    """
    for name, entry in read_entries(checkpoint).items():
        try:
            problem = wrong_size(checkpoint / name, _size_of(checkpoint / name), entry)
        except OSError as error:
            raise CheckpointError(f"{checkpoint}: cannot be read: {error}") from error
        if problem:
            raise DamagedCheckpointError(problem)


def damage(file: Path, expected: Entry) -> str:
    """Description of a file's damage; empty if there is none."""
    try:
        if file.exists():
            require_regular(file, file.stat().st_mode)
        if problem := wrong_size(file, _size_of(file), expected):
            return problem
        if file_sha256(file) != expected.sha256:
            return f"{file}: its SHA-256 differs from the manifest: damaged"
    except DataError as error:
        return str(error)
    return ""


def wrong_size(file: object, size: int | None, expected: Entry) -> str:
    """Description of a wrong size; empty if it is right, None means that there is no file."""
    if size == expected.bytes:
        return ""
    found = "no file" if size is None else f"{size:,} bytes"
    return f"{file}: found {found}; expected {expected.bytes:,} bytes"


def _size_of(file: Path) -> int | None:
    return file.stat().st_size if file.is_file() else None


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


def publish(partial: Path, final: Path) -> str:
    """Rename a sealed folder to its final name, replacing an earlier checkpoint of that name.

    Returns:
        The problem with the deletion of an earlier one; empty if there is none.
    """
    problem = discard(final) if os.path.lexists(final) else ""
    partial.rename(final)
    fsync(final.parent)
    return problem


def discard(checkpoint: Path) -> str:
    """Delete a checkpoint; an interrupted deletion leaves nothing named like a checkpoint.

    Returns:
        The problem with the deletion; empty if there is none. The name is free in either case.

    Raises:
        OSError: Its name cannot be freed.
    """
    hidden = checkpoint.with_name(f".{checkpoint.name.lstrip('.')}.discarded-{uuid.uuid4().hex}")
    checkpoint.rename(hidden)
    return _remove(hidden)


def sweep(root: Path) -> list[str]:
    """Delete partial and half-deleted checkpoints of interrupted processes.

    Returns:
        A problem for each that cannot be deleted.
    """
    stale = [path for path in root.glob(".step-*") if _LEFTOVER.fullmatch(path.name)]
    return list(filter(None, map(_remove, stale)))


def put_aside(checkpoint: Path, label: str) -> Path:
    """Rename a checkpoint so that it no longer counts, and is not lost.

    Returns:
        The new path: with the label as its suffix, and a number if there is one already.

    Raises:
        OSError: It cannot be renamed.
    """
    aside, number = checkpoint.with_name(f"{checkpoint.name}.{label}"), 1
    while os.path.lexists(aside):
        number += 1
        aside = checkpoint.with_name(f"{checkpoint.name}.{label}-{number}")
    return checkpoint.rename(aside)


def _remove(path: Path) -> str:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError as error:
        return f"{path}: cannot be removed, and can be deleted by hand: {error}"
    return ""
