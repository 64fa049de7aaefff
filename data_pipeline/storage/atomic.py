"""Files that appear whole or not at all."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from data_pipeline.errors import WriteError

PARTIAL_SUFFIX = ".partial"

# no space, no quota, larger than the file size limit
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's errors about writing `path` into a `WriteError`."""
    try:
        yield
    except OSError as error:
        problem = "the disk is full" if error.errno in _FULL else "cannot write"
        raise WriteError(
            f"{path}: {problem} ({error.strerror or error}); expected room and permission to write "
            "there. Nothing was left half-written."
        ) from error


@contextlib.contextmanager
def write_atomically(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file next to `path`, and rename it to `path` when the block succeeds.

    A link stays, and its target is replaced. What exists and is not a regular file (a device, a
    FIFO) is written into.

    Raises:
        WriteError: The disk is full, or the folder is not writable.
    """
    with disk_errors(path):
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            mode = None
        if mode is None or stat.S_ISREG(mode):
            with _replacing(Path(os.path.realpath(path)), mode) as file:
                yield file
        else:
            with path.open("wb") as file:
                yield file


@contextlib.contextmanager
def _replacing(path: Path, mode: int | None) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces a regular file, or nothing, and keeps its permissions."""
    # two machines may have processes of one number, and share the folder
    writer = f"{os.uname().nodename}-{os.getpid()}"
    partial = path.with_name(f".{path.name}.{writer}{PARTIAL_SUFFIX}")
    try:
        # one of an ended process of the same number; never a file that a link leads to
        partial.unlink(missing_ok=True)
        with partial.open("xb") as file:
            if mode is not None:
                os.fchmod(file.fileno(), stat.S_IMODE(mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text_atomically(path: Path, text: str) -> None:
    """Write a small UTF-8 file whole or not at all."""
    with write_atomically(path) as file:
        file.write(text.encode())
