"""Second stage of a build: drop duplicates, hold documents out, divide each split into shards."""

import array
import io
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pyarrow import parquet

from data_pipeline.build.cleaning import Counts
from data_pipeline.build.duplicates import DuplicateFinder, Signature, in_valid
from data_pipeline.build.extract import part_file
from data_pipeline.config import BuildConfig
from data_pipeline.storage.atomic import write_atomically

Split = Literal["train", "valid"]
SPLITS: tuple[Split, ...] = ("train", "valid")

_AUTOMATIC_SHARDS = 32
_SMALLEST_SHARD = 256 * 2**10
_LARGEST_SHARD = 64 * 2**20

Integers = npt.NDArray[np.int64]


class Kept(NamedTuple):
    """Documents that are kept, in the order of the corpus; every array has an entry for each."""

    part: Integers
    row: Integers
    text_bytes: Integers
    is_valid: Integers


class ShardTask(NamedTuple):
    """Shard to write.

    Attributes:
        split: Split that it belongs to.
        number: Number of the shard within the split.
        first: Number of its first document within the split.
        part: Part of each document.
        row: Row of each document in the file of its part.
    """

    split: Split
    number: int
    first: int
    part: Integers
    row: Integers

    @property
    def name(self) -> str:
        """File name of the shard."""
        return f"shard-{self.number:06d}.tar"


def choose_documents(config: BuildConfig, num_parts: int, work: Path) -> tuple[Kept, Counts]:
    """The documents to keep, decided in order over all parts; the decision is saved in `work`."""
    path = work / "kept.npz"
    if path.is_file():
        with np.load(path, allow_pickle=False) as saved:
            counts = Counts(**json.loads(str(saved["counts"])))
            return Kept(*(saved[name] for name in Kept._fields)), counts
    counts = Counts()
    finder = DuplicateFinder(config.cleaning)
    # 32 bytes per document: a list of tuples would need ten times as much
    rows = array.array("q")
    for part in range(num_parts):
        for row, source, hash_, text_bytes, signature in _documents(part_file(work, part)):
            reason = finder.reason_to_drop(hash_, signature)
            if reason is None:
                held_out = in_valid(hash_, config.valid_fraction)
                rows.extend((part, row, text_bytes, held_out))
            else:
                counts.add("dropped", reason, source, config.cleaning.num_examples)
    table = np.frombuffer(rows, dtype=np.int64).reshape(-1, 4)
    kept = Kept(*np.ascontiguousarray(table.T))
    buffer = io.BytesIO()
    np.savez(buffer, counts=np.array(json.dumps(asdict(counts))), **kept._asdict())
    with write_atomically(path) as file:
        file.write(buffer.getvalue())
    return kept, counts


def _documents(path: Path) -> Iterator[tuple[int, str, bytes, int, Signature | None]]:
    columns = ["source", "hash", "text_bytes", "signature"]
    row = 0
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=1024, columns=columns, use_threads=False):
            for record in batch.to_pylist():
                values = record["signature"]
                signature = None if values is None else np.array(values, dtype=np.uint32)
                yield row, record["source"], record["hash"], record["text_bytes"], signature
                row += 1


def plan_shards(config: BuildConfig, kept: Kept) -> list[ShardTask]:
    """The shards of both splits, about `shard_bytes` of text each; depends on the corpus alone."""
    total = int(kept.text_bytes.sum())
    automatic = min(max(total // _AUTOMATIC_SHARDS, _SMALLEST_SHARD), _LARGEST_SHARD)
    shard_bytes = config.shard_bytes or automatic
    tasks: list[ShardTask] = []
    for is_valid, split in enumerate(SPLITS):
        chosen = np.flatnonzero(kept.is_valid == is_valid)
        # the bytes in front of a document decide its shard
        before = np.cumsum(kept.text_bytes[chosen]) - kept.text_bytes[chosen]
        borders = np.flatnonzero(np.diff(before // shard_bytes, prepend=-1))
        for number, documents in enumerate(np.split(chosen, borders[1:])):
            if len(documents):
                first = int(borders[number])
                part, row = kept.part[documents], kept.row[documents]
                tasks.append(ShardTask(split, number, first, part, row))
    return tasks
