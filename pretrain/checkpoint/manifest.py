"""The completion marker of a checkpoint: size and SHA-256 of every file (imports no torch).

A folder without `manifest.json` is no checkpoint. It is the last file that is written; then the
folder gets its name.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from pretrain.errors import CheckpointError

MANIFEST = "manifest.json"
# of the files' meaning; raised when an older reader would misunderstand them
FORMAT = 2
HASH_THREADS = 4


class Entry(NamedTuple):
    """What a file must be.

    Attributes:
        bytes: Its size.
        sha256: Its hash, in hexadecimal.
    """

    bytes: int
    sha256: str


def seal(folder: Path, hashed: Mapping[str, Entry]) -> None:
    """Write the manifest, and force everything onto the disk.

    Args:
        folder: The checkpoint under its temporary name.
        hashed: Files that are on the disk and hashed already.
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
    """Parse a manifest; names lead into the checkpoint's folder.

    Raises:
        CheckpointError: It is no manifest, or of another format.
    """
    try:
        table = json.loads(data)
        files = {str(name): _entry(entry) for name, entry in table["files"].items()}
        found = table.get("format", 1)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{where}: expected sizes and hashes of files, found something else "
            f"({type(error).__name__}: {error})"
        ) from error
    if found != FORMAT:
        raise CheckpointError(f"{where}: format {found}; expected {FORMAT}")
    for name in files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name:
            raise CheckpointError(f"{where}: {name!r} leads out of the checkpoint")
    return files


def verified(checkpoint: Path) -> Path:
    """Compare every file with the manifest.

    Raises:
        CheckpointError: Names the first file that differs.
    """
    manifest = checkpoint / MANIFEST
    try:
        text = manifest.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{manifest}: cannot be read: {error}") from error
    files = read_manifest(text, manifest)
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        for problem in pool.map(lambda item: damage(checkpoint / item[0], item[1]), files.items()):
            if problem:
                raise CheckpointError(problem)
    return checkpoint


def damage(file: Path, expected: Entry) -> str:
    """What is wrong with a file; empty if nothing is."""
    size = file.stat().st_size if file.is_file() else None
    if size != expected.bytes:
        found = "no file" if size is None else f"{size:,} bytes"
        return f"{file}: found {found}; expected {expected.bytes:,} bytes"
    if file_sha256(file) != expected.sha256:
        return f"{file}: its SHA-256 differs from the manifest: damaged"
    return ""


def entry_of(file: Path) -> Entry:
    """What a file is."""
    return Entry(file.stat().st_size, file_sha256(file))


def file_sha256(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fsync(path: Path) -> None:
    """Force a file or a folder onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(partial: Path, final: Path) -> None:
    """Give a sealed folder its name; one that had it before is complete until then."""
    if final.exists():
        discard(final)
    partial.rename(final)
    fsync(final.parent)


def discard(checkpoint: Path) -> None:
    """Delete a checkpoint; if interrupted, nothing that looks like one is left."""
    hidden = checkpoint.with_name(f".{checkpoint.name}.discarded")
    shutil.rmtree(hidden, ignore_errors=True)
    checkpoint.rename(hidden)
    shutil.rmtree(hidden)


def sweep(root: Path) -> None:
    """Delete what interrupted processes left behind."""
    for stale in root.glob(".step-*"):
        shutil.rmtree(stale)


def _entry(entry: Any) -> Entry:
    return Entry(int(entry["bytes"]), str(entry["sha256"]))
