"""Files of JSON lines that a crash, a full disk or an editor has damaged (imports no torch)."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

Record = dict[str, Any]
Check = Callable[[Record], bool]


def any_record(_record: Record) -> bool:
    """Whether an object is a record: any is."""
    return True


def read_lines(path: Path, is_record: Check = any_record) -> list[Record]:
    """Records of a file; lines that hold none are left out; an empty list if there is no file.

    Args:
        path: The file.
        is_record: Whether an object has the keys that its reader needs.

    Raises:
        OSError: The file cannot be opened.
    """
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    records = (_parse(line, is_record) for line in lines)
    return [record for record in records if record is not None]


def mend_lines(path: Path, is_record: Check = any_record) -> str:
    """Make a file fit for appending: put aside what cannot be read, and keep the good lines.

    Args:
        path: The file; it need not exist.
        is_record: Whether an object has the keys that its reader needs.

    Returns:
        A message with the file's name; empty if nothing was put aside.

    Raises:
        OSError: The folder cannot be written.
    """
    if not path.exists():
        return ""
    try:
        data = path.read_bytes() if path.is_file() else None
    except OSError:
        data = None
    if data is None:
        aside = put_aside(path)
        return f"{path}: cannot be read as a file; kept as {aside.name}, a new one is begun"
    lines = [line for line in data.split(b"\n") if line.strip()]
    good = [line for line in lines if _parse(line, is_record) is not None]
    kept = b"".join(line + b"\n" for line in good)
    if kept == data:
        return ""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(kept)
    message = ""
    if num_bad := len(lines) - len(good):
        aside = put_aside(path)
        message = (
            f"{path}: {num_bad} of {len(lines)} lines cannot be read; the file is kept as "
            f"{aside.name}, the other lines stay in {path.name}"
        )
    partial.replace(path)
    return message


def put_aside(path: Path) -> Path:
    """Rename a file to the first free name with `.unreadable-N` at its end.

    Returns:
        The new path.

    Raises:
        OSError: It cannot be renamed.
    """
    number = 1
    while os.path.lexists(aside := path.with_name(f"{path.name}.unreadable-{number}")):
        number += 1
    path.rename(aside)
    return aside


def _parse(line: bytes, is_record: Check) -> Record | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and is_record(record) else None
