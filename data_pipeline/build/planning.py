"""Second stage of a build: drop duplicates, hold documents out, cut the rest into shards."""

import array
import io
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

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


@dataclass(frozen=True)
class Kept:
    """The documents that survive, in the order of the corpus: one entry of each array."""

    part: Integers
    row: Integers
    text_bytes: Integers
    is_valid: Integers


@dataclass(frozen=True)
class ShardTask:
    """One shard to write: documents by part and row, and the number of the first of them."""

    split: Split
    index: int
    first: int
    part: Integers
    row: Integers

    @property
    def name(self) -> str:
        """The shard's file name."""
        return f"shard-{self.index:06d}.tar"


def choose_documents(config: BuildConfig, num_parts: int, work: Path) -> tuple[Kept, Counts]:
    """Walk over all parts in order and decide about each document; keeps the decision in `work`."""
    path = work / "kept.npz"
    if path.is_file():
        with np.load(path, allow_pickle=False) as saved:
            counts = Counts(**json.loads(str(saved["counts"])))
            return Kept(*(saved[name] for name in Kept.__annotations__)), counts
    counts = Counts()
    finder = DuplicateFinder(config.cleaning)
    # 32 bytes per document: a list of tuples would take ten times as much.
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
    np.savez(buffer, counts=np.array(json.dumps(asdict(counts))), **kept.__dict__)
    with write_atomically(path) as file:
        file.write(buffer.getvalue())
    return kept, counts


def _documents(path: Path) -> Iterator[tuple[int, str, bytes, int, Signature | None]]:
    columns = ["source", "hash", "text_bytes", "signature"]
    row = 0
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=1024, columns=columns, use_threads=False):
            for record in batch.to_pylist():
                found = record["signature"]
                signature = None if found is None else np.array(found, dtype=np.uint32)
                yield row, record["source"], record["hash"], record["text_bytes"], signature
                row += 1


def plan_shards(config: BuildConfig, kept: Kept) -> list[ShardTask]:
    """Cut each split into shards of about `shard_bytes` of text: a function of the corpus alone."""
    total = int(kept.text_bytes.sum())
    automatic = min(max(total // _AUTOMATIC_SHARDS, _SMALLEST_SHARD), _LARGEST_SHARD)
    shard_bytes = config.shard_bytes or automatic
    tasks: list[ShardTask] = []
    for number, split in enumerate(SPLITS):
        chosen = np.flatnonzero(kept.is_valid == number)
        # The shard of a document is decided by the bytes in front of it.
        before = np.cumsum(kept.text_bytes[chosen]) - kept.text_bytes[chosen]
        borders = np.flatnonzero(np.diff(before // shard_bytes, prepend=-1))
        for index, documents in enumerate(np.split(chosen, borders[1:])):
            if len(documents):
                first = int(borders[index])
                part, row = kept.part[documents], kept.row[documents]
                tasks.append(ShardTask(split, index, first, part, row))
    return tasks
