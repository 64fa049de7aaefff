"""Runs: files of records sorted by partition, which joins read across many of them.

A task of the first side writes one run; a task of the second side reads its partition of all runs.
This needs one file per task instead of one per task and partition.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from data_pipeline.storage.atomic import write_atomically

Integers = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
Records = npt.NDArray[Any]

# 128 bits of a hash, and the number of the document that has it
HASHED = np.dtype([("key", "<u8"), ("check", "<u8"), ("document", "<i8")])
# the hash of one band of a document's signature
BANDED = np.dtype([("key", "<u8"), ("document", "<i8")])
DOCUMENT = np.dtype("<i8")


class Limits(NamedTuple):
    """Sizes of tasks.

    Attributes:
        documents: Documents of a task that reads parts, unless one part has more.
        records: Records that a task of a join holds at a time.
        pairs: Pairs of signatures in memory at a time.
    """

    documents: int = 1 << 20
    records: int = 1 << 22
    pairs: int = 1 << 14


LIMITS = Limits()


class RunWriter:
    """Writer of a run; records come in the order of the corpus and keep it inside a partition.

    Args:
        path: The file, which appears whole or not at all.
        num_partitions: Number of partitions.
        limits: `records` are sorted at a time.
    """

    def __init__(self, path: Path, num_partitions: int, limits: Limits):
        self._context = write_atomically(path)
        self._num_partitions, self._limit = num_partitions, limits.records
        self._pending: list[tuple[Records, Integers]] = []
        self._num_pending = 0
        # per page, the byte at which each partition begins
        self._starts: list[Integers] = []

    def __enter__(self) -> Self:
        self._file: BinaryIO = self._context.__enter__()
        return self

    def add(self, records: Records, partitions: Integers) -> None:
        """Append records, each to its partition."""
        self._pending.append((records, partitions))
        self._num_pending += len(records)
        if self._num_pending >= self._limit:
            self._write_page()

    def _write_page(self) -> None:
        if not self._pending:
            return
        records = np.concatenate([records for records, _ in self._pending])
        partitions = np.concatenate([partitions for _, partitions in self._pending])
        self._pending, self._num_pending = [], 0
        order = np.argsort(partitions, kind="stable")
        counts = np.bincount(partitions, minlength=self._num_partitions)
        ends = np.cumsum(counts) * records.itemsize
        self._starts.append(self._file.tell() + np.concatenate([[0], ends]))
        self._file.write(records[order].tobytes())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self._write_page()
            table = np.array(self._starts, dtype="<i8").reshape(-1, self._num_partitions + 1)
            self._file.write(table.tobytes())
            self._file.write(np.array([len(table)], dtype="<i8").tobytes())
        self._context.__exit__(kind, error, traceback)


def read_partition(
    paths: Sequence[Path], dtype: np.dtype[Any], partition: int, num_partitions: int, limit: int
) -> Iterator[Records]:
    """The records of a partition in the order of the corpus, about `limit` at a time."""
    blocks: list[Records] = []
    num_records = 0
    for path in paths:
        with path.open("rb") as file:
            for start, end in _segments(file, partition, num_partitions):
                step = limit * dtype.itemsize
                for place in range(start, end, step):
                    file.seek(place)
                    data = file.read(min(step, end - place))
                    blocks.append(np.frombuffer(data, dtype=dtype))
                    num_records += len(blocks[-1])
                    if num_records >= limit:
                        yield np.concatenate(blocks)
                        blocks, num_records = [], 0
    if blocks:
        yield np.concatenate(blocks)


def _segments(file: BinaryIO, partition: int, num_partitions: int) -> list[tuple[int, int]]:
    """The bytes of a partition: their start and end in each page."""
    file.seek(-8, 2)
    num_pages = int(np.frombuffer(file.read(8), dtype="<i8")[0])
    row = (num_partitions + 1) * 8
    table = file.seek(-8 - num_pages * row, 2)
    segments = []
    for page in range(num_pages):
        file.seek(table + page * row + partition * 8)
        start, end = np.frombuffer(file.read(16), dtype="<i8").tolist()
        if end > start:
            segments.append((start, end))
    return segments


class ListWriter(RunWriter):
    """Writer of a run with a single partition: a list of records."""

    def __init__(self, path: Path, limits: Limits):
        super().__init__(path, 1, limits)

    def extend(self, records: npt.NDArray[Any]) -> None:
        """Append records."""
        self.add(records, np.zeros(len(records), dtype=np.int64))


def read_list(path: Path, dtype: np.dtype[Any], limit: int) -> Iterator[npt.NDArray[Any]]:
    """The records of a list, about `limit` at a time."""
    return read_partition([path], dtype, 0, 1, limit)


class FirstSeen:
    """First document of each key, over blocks of entries in the order of the corpus.

    Memory: 24 bytes per different key, so a key with most of the corpus costs nothing.
    """

    def __init__(self) -> None:
        self._keys: Keys = np.empty(0, dtype=np.uint64)
        self._checks: Keys = np.empty(0, dtype=np.uint64)
        self._documents: Integers = np.empty(0, dtype=np.int64)
        # entries that share a key by chance: one of 10¹⁹ pairs
        self._collided: dict[tuple[int, int], int] = {}

    def update(self, keys: Keys, checks: Keys, documents: Integers) -> Integers:
        """Add a block; returns the first document of each entry's key and check together."""
        different, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        first_checks, firsts = checks[first], documents[first]
        places = np.searchsorted(self._keys, different)
        if len(self._keys):
            inside = np.minimum(places, len(self._keys) - 1)
            known = self._keys[inside] == different
            first_checks[known] = self._checks[inside[known]]
            firsts[known] = self._documents[inside[known]]
        else:
            known = np.zeros(len(different), dtype=np.bool_)
        new = ~known
        self._keys = np.insert(self._keys, places[new], different[new])
        self._checks = np.insert(self._checks, places[new], first_checks[new])
        self._documents = np.insert(self._documents, places[new], firsts[new])
        firsts = firsts[inverse]
        for place in np.flatnonzero(first_checks[inverse] != checks).tolist():
            pair = (int(keys[place]), int(checks[place]))
            firsts[place] = self._collided.setdefault(pair, int(documents[place]))
        return firsts
