"""Append-only files of JSON lines that survive a full disk (imports no torch)."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from launch.json_lines import Check, any_record, mend_lines, read_lines

Record = dict[str, float]


def read_metrics(path: Path) -> list[Record]:
    """Records of a metrics.jsonl; lines that hold none are left out."""
    return read_lines(path, is_metrics)


def is_metrics(record: dict[str, Any]) -> bool:
    """Whether an object is a record of metrics.jsonl: numbers, a step and tokens among them."""
    numbers = all(type(value) in (int, float) for value in record.values())
    return numbers and type(record.get("step")) is int and "tokens" in record


def is_spectrum(record: dict[str, Any]) -> bool:
    """Whether an object is a record of spectrum.jsonl: a step, and figures by filter."""
    return type(record.get("step")) is int and isinstance(record.get("filters"), dict)


class JsonLines:
    """An append-only file of records; what cannot be read in an earlier one is put aside.

    Records that the disk refuses are kept in memory and retried with the next record: a failing log
    must not end a run on one rank alone.

    Raises:
        OSError: The folder cannot be written.
    """

    def __init__(self, path: Path, is_record: Check = any_record):
        self.path = path
        if problem := mend_lines(path, is_record):
            print(problem, file=sys.stderr)
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
