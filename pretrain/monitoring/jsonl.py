"""Append-only files of JSON lines that survive a full disk."""

import json
import os
import sys
from pathlib import Path
from typing import Any


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Records of a file, without an incomplete last line; none if there is no file."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


class JsonLines:
    """An append-only file of records.

    Records that the disk refuses are kept in memory and retried with the next record: a failing log
    must not end a run on one rank alone.
    """

    def __init__(self, path: Path):
        self.path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._pending = b""
        self._refused = False

    def append(self, record: dict[str, Any]) -> None:
        """Write a record, after those that were refused before it."""
        self._pending += json.dumps(record).encode() + b"\n"
        try:
            while self._pending:
                written = os.write(self._descriptor, self._pending)
                self._pending = self._pending[written:]
            self._refused = False
        except OSError as error:
            if not self._refused:
                print(f"{self.path}: {error.strerror}; its lines are kept for now", file=sys.stderr)
            self._refused = True

    def close(self) -> None:
        """Close the file; lost lines are reported on stderr."""
        os.close(self._descriptor)
        if self._pending:
            print(
                f"{self.path}: {len(self._pending):,} bytes could not be written", file=sys.stderr
            )
