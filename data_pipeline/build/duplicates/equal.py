"""Join of documents with equal hashes, or equal signatures."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_pipeline.build.duplicates.documents import (
    Span,
    batches,
    hashes_of,
    signatures_of,
)
from data_pipeline.build.duplicates.runs import (
    HASHED,
    FirstSeen,
    Integers,
    Limits,
    ListWriter,
    RunWriter,
    read_partition,
)
from data_pipeline.build.duplicates.signatures import Signatures

# of documents found by a join: the number of one, and the first with its hash
FOUND = np.dtype([("document", "<i8"), ("first", "<i8")])


def write_hashes(span: Span, column: str, num_partitions: int, limits: Limits, path: Path) -> None:
    """Write the run of a span: the hash of each document, or of its signature.

    Args:
        span: The documents.
        column: `hash` or `signature`.
        num_partitions: Partitions of all runs.
        limits: Sizes of tasks.
        path: The run.
    """
    with RunWriter(path, num_partitions, limits) as run:
        for first, batch in batches(span, [column]):
            hashes = hashes_of(batch) if column == "hash" else _digests(signatures_of(batch))
            records = np.empty(len(hashes), dtype=HASHED)
            records["key"], records["check"] = hashes.T
            records["document"] = np.arange(first, first + len(hashes))
            run.add(records, _partitions(hashes[:, 0], num_partitions))


def _digests(signatures: Signatures) -> npt.NDArray[np.uint64]:
    rows = (row.tobytes() for row in np.ascontiguousarray(signatures))
    data = b"".join(hashlib.blake2b(row, digest_size=16).digest() for row in rows)
    return np.frombuffer(data, dtype="<u8").reshape(-1, 2)


def _partitions(keys: npt.NDArray[np.uint64], num_partitions: int) -> Integers:
    return (keys % np.uint64(num_partitions)).astype(np.int64)


def find_equal(
    runs: Sequence[Path], partition: int, num_partitions: int, limits: Limits, path: Path
) -> None:
    """Write the documents of a partition whose hash an earlier document has."""
    seen = FirstSeen()
    with ListWriter(path, limits) as found:
        for block in read_partition(runs, HASHED, partition, num_partitions, limits.records):
            documents = block["document"]
            firsts = seen.update(block["key"], block["check"], documents)
            later = firsts != documents
            records = np.empty(int(later.sum()), dtype=FOUND)
            records["document"], records["first"] = documents[later], firsts[later]
            found.extend(records)
