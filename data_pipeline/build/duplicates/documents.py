"""Documents by number: where their rows are, and what has been decided about each."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import parquet

from data_pipeline.build.duplicates.runs import Integers
from data_pipeline.build.duplicates.signatures import Signatures

States = npt.NDArray[np.uint8]

# about a document; those from `EXACT` are dropped
UNDECIDED, KEPT, ROOT, EARLIER, EXACT, NEAR, EXACT_EARLIER, NEAR_EARLIER = range(8)
REASONS = {
    EXACT: "exact duplicate",
    NEAR: "near-duplicate",
    EXACT_EARLIER: "exact duplicate of an earlier build",
    NEAR_EARLIER: "near-duplicate of an earlier build",
}
# documents whose states are changed at a time
_BLOCK = 1 << 24
_BATCH_ROWS = 4096


class RowFile(NamedTuple):
    """Parquet file with documents: columns `hash` and `signature`."""

    path: Path
    rows: int


class Span(NamedTuple):
    """Consecutive files of documents, which one task reads.

    Attributes:
        number: Number of the span.
        first: Number of its first document.
        first_file: Number of its first file.
        files: The files, in the order of the corpus.
    """

    number: int
    first: int
    first_file: int
    files: tuple[RowFile, ...]

    @property
    def rows(self) -> int:
        """Number of documents."""
        return sum(file.rows for file in self.files)


def plan_spans(files: Sequence[RowFile], limit: int) -> list[Span]:
    """All files, as spans of at most `limit` documents unless one file has more."""
    spans: list[Span] = []
    pending: list[RowFile] = []
    first = first_file = size = 0

    def close() -> None:
        nonlocal pending, first, first_file, size
        if pending:
            spans.append(Span(len(spans), first, first_file, tuple(pending)))
        first, first_file, pending, size = first + size, first_file + len(pending), [], 0

    for file in files:
        if size + file.rows > limit:
            close()
        pending.append(file)
        size += file.rows
    close()
    return spans


def batches(span: Span, columns: list[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The rows of a span, some thousand at a time, each with the number of its first document."""
    first = span.first
    for file in span.files:
        with parquet.ParquetFile(file.path) as rows:
            for batch in rows.iter_batches(
                batch_size=_BATCH_ROWS, columns=columns, use_threads=False
            ):
                yield first, batch
                first += len(batch)


def hashes_of(batch: pa.RecordBatch) -> npt.NDArray[np.uint64]:
    """The hashes of documents as two integers each."""
    column = batch.column("hash")
    data = column.buffers()[1]
    return np.frombuffer(data, dtype="<u8")[2 * column.offset :][: 2 * len(column)].reshape(-1, 2)


def signatures_of(batch: pa.RecordBatch) -> Signatures:
    """The signatures of documents, a row each."""
    column = batch.column("signature")
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)


def open_states(path: Path, writable: bool = False) -> States:
    """The states of all documents, mapped from their file."""
    if not path.stat().st_size:
        return np.empty(0, dtype=np.uint8)
    return np.memmap(path, dtype=np.uint8, mode="r+" if writable else "r")


def create_states(path: Path, num_earlier: int, num_documents: int) -> None:
    """Write the states before any decision."""
    with path.open("wb") as file:
        file.truncate(num_documents)
    states = open_states(path, writable=True)
    states[:num_earlier] = EARLIER


def replace_states(states: States, old: int, new: int) -> None:
    """Change one state into another for all documents."""
    for start in range(0, len(states), _BLOCK):
        block = states[start : start + _BLOCK]
        block[block == old] = new


def count_states(states: States, state: int) -> int:
    """The number of documents in a state."""
    blocks = (states[start : start + _BLOCK] for start in range(0, len(states), _BLOCK))
    return sum(int(np.count_nonzero(block == state)) for block in blocks)


def save_states(states: States) -> None:
    """Write mapped states to their file."""
    if isinstance(states, np.memmap):
        states.flush()


def drop(states: States, documents: Integers, state: int) -> None:
    """Drop documents that are not dropped yet; those of earlier builds stay."""
    current = states[documents]
    states[documents[(current < EXACT) & (current != EARLIER)]] = state
