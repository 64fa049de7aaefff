"""Buckets of documents with an equal band, and the comparison of candidate pairs."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipeline.build.duplicates.documents import (
    EARLIER,
    UNDECIDED,
    Span,
    States,
    batches,
    open_states,
    signatures_of,
)
from data_pipeline.build.duplicates.runs import (
    BANDED,
    Integers,
    Limits,
    Records,
    RunWriter,
    read_partition,
)
from data_pipeline.build.duplicates.signatures import Bands, Signatures, band_keys, resembling
from data_pipeline.storage.atomic import write_atomically


class Similarity(NamedTuple):
    """When documents resemble each other, and where their signatures are.

    Attributes:
        threshold: Smallest share of equal values.
        permutations: Values of a signature.
        bands: Bands, one of which must be equal.
        firsts: Number of the first document in each file of signatures.
        files: The files: rows of 32-bit integers.
        num_partitions: Partitions of the buckets.
        limits: Sizes of tasks.
    """

    threshold: float
    permutations: int
    bands: Bands
    firsts: tuple[int, ...]
    files: tuple[Path, ...]
    num_partitions: int
    limits: Limits

    def gather(self, documents: Integers) -> Signatures:
        """The signatures of documents, a row each."""
        rows = np.empty((len(documents), self.permutations), dtype=np.uint32)
        spans = np.searchsorted(self.firsts, documents, side="right") - 1
        for span in np.unique(spans).tolist():
            inside = spans == span
            # mapped for one call, so that pages that were read do not stay with this process
            stored = np.memmap(self.files[span], dtype="<u4", mode="r")
            rows[inside] = stored.reshape(-1, self.permutations)[
                documents[inside] - self.firsts[span]
            ]
        return rows

    def resemble(
        self, first: Integers, second: Integers
    ) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Whether the documents of each pair resemble each other."""
        size = self.limits.pairs
        return np.concatenate(
            [np.empty(0, dtype=np.bool_)]
            + [
                resembling(
                    self.gather(first[start : start + size]),
                    self.gather(second[start : start + size]),
                    self.bands,
                    self.threshold,
                )
                for start in range(0, len(first), size)
            ]
        )


def write_bands(
    span: Span, similarity: Similarity, states_file: Path, signatures: Path, path: Path
) -> None:
    """Write the signatures of a span, and the run of its buckets: those of undecided documents."""
    states = open_states(states_file)
    bands = similarity.bands
    with (
        write_atomically(signatures) as file,
        RunWriter(path, similarity.num_partitions, similarity.limits) as run,
    ):
        for first, batch in batches(span, ["signature"]):
            rows = signatures_of(batch)
            file.write(np.ascontiguousarray(rows, dtype="<u4").tobytes())
            state = states[first : first + len(rows)]
            chosen = np.flatnonzero((state == UNDECIDED) | (state == EARLIER))
            keys = band_keys(rows[chosen], bands).ravel()
            records = np.empty(len(keys), dtype=BANDED)
            records["key"] = keys
            records["document"] = np.repeat(chosen + first, bands.number)
            partitions = keys % np.uint64(similarity.num_partitions)
            run.add(records, partitions.astype(np.int64))


class Buckets(NamedTuple):
    """Entries (hash of a band, document) of one partition, in the order of the corpus."""

    runs: tuple[Path, ...]
    partition: int
    num_partitions: int

    def blocks(self, states: States, chosen: tuple[int, ...], limits: Limits) -> Iterator[Records]:
        """The entries of documents in the chosen states, some at a time."""
        for block in read_partition(
            self.runs, BANDED, self.partition, self.num_partitions, limits.records
        ):
            yield block[np.isin(states[block["document"]], chosen)]


def pairs_of(later: Records, earlier: Records, limit: int) -> Iterator[tuple[Integers, Integers]]:
    """The documents that share a bucket: (one of `later`, an earlier one of `earlier`).

    Yields:
        About `limit` pairs at a time; a pair that shares two buckets comes twice.
    """
    earlier = earlier[np.argsort(earlier["key"], kind="stable")]
    # inside a bucket documents ascend, so those before `end` are earlier in the corpus
    start = np.searchsorted(earlier["key"], later["key"], side="left")
    end = np.searchsorted(earlier["key"], later["key"], side="right")
    place = np.flatnonzero(end > start)
    start, end, documents = start[place], end[place], later["document"][place]
    pending: list[tuple[Integers, Integers]] = []
    num_pending = 0
    while len(start):
        others = earlier["document"][start]
        before = others < documents
        pending.append((documents[before], others[before]))
        num_pending += int(before.sum())
        if num_pending >= limit:
            yield _joined(pending)
            pending, num_pending = [], 0
        start = start + 1
        # the next one of the bucket, until it is the document itself
        remaining = before & (start < end)
        start, end, documents = start[remaining], end[remaining], documents[remaining]
    if pending:
        yield _joined(pending)


def _joined(pending: list[tuple[Integers, Integers]]) -> tuple[Integers, Integers]:
    return (
        np.concatenate([later for later, _ in pending]),
        np.concatenate([earlier for _, earlier in pending]),
    )
