"""Files from outside: regular ones only, of bounded size; the JSON in them."""

import io
import os
import stat
from pathlib import Path
from typing import Any

import pydantic_core

from data_pipeline.errors import DataError

# 1,000 times a usual one: the index of a checkpoint by 4,096 ranks has about this size
MAX_JSON_BYTES = 512 * 2**20

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def require_regular(path: Path, mode: int) -> None:
    """Reject what is no regular file: a pipe may never be written to, a device may never end.

    Args:
        path: The path, for the message.
        mode: `st_mode` of the file that it leads to.

    Raises:
        DataError: Names the kind of the file.
    """
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "a special file")
        raise DataError(f"{path}: found {kind}; expected a regular file")


def open_regular(path: Path) -> io.BufferedReader:
    """Open a regular file for reading; waits for nothing.

    Raises:
        DataError: It is no regular file.
        OSError: It cannot be opened.
    """
    try:
        require_regular(path, path.stat().st_mode)
        # a pipe that has replaced the file since must not block
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{str(path)!r}: not the name of a file ({error})") from error
    file = os.fdopen(descriptor, "rb")
    try:
        require_regular(path, os.fstat(descriptor).st_mode)
    except DataError:
        file.close()
        raise
    return file


def read_regular(path: Path, limit: int) -> bytes:
    """Contents of a regular file of at most `limit` bytes.

    Raises:
        DataError: It is no regular file, or larger.
        OSError: It cannot be read.
    """
    with open_regular(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise DataError(f"{path}: larger than {limit:,} bytes; expected a small file")
    return data


def parse_json(data: bytes | str, where: object) -> Any:
    """The value of a JSON text; NaN and infinities are read as Python's `json` writes them.

    Args:
        data: The text; bytes are UTF-8.
        where: Its path or URL, for the message.

    Raises:
        DataError: It is no JSON, nested deeper than 200 levels, has a number of more than 4,300
            digits or half of a surrogate pair.
    """
    try:
        return pydantic_core.from_json(data)
    except ValueError as error:
        raise DataError(f"{where}: not readable as JSON ({error})") from error


def shown(value: object) -> str:
    """A value as a message shows it: its `repr`, cut after 200 characters."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."


def read_json(path: Path) -> Any:
    """The value in a JSON file of at most MAX_JSON_BYTES.

    Raises:
        DataError: It is no regular file, too large, or no JSON.
        OSError: It cannot be read.
    """
    return parse_json(read_regular(path, MAX_JSON_BYTES), path)
