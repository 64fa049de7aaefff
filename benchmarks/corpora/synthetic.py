"""Synthetic documents: signatures of any number of them, and texts with a known share of edits."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from data_pipeline.build.duplicates.documents import RowFile
from data_pipeline.build.duplicates.signatures import Signatures

PERMUTATIONS = 128
_FILE_ROWS = 50_000


def signatures(number: int, seed: int) -> Iterator[Signatures]:
    """Signatures in the order of a corpus, some thousand at a time.

    Seven of ten documents are new; the others keep 60 to 100% of the values of an earlier one.
    """
    generator = np.random.default_rng(seed)
    pool = np.empty((0, PERMUTATIONS), dtype=np.uint32)
    for start in range(0, number, _FILE_ROWS):
        rows = min(_FILE_ROWS, number - start)
        block = generator.integers(0, 2**32, (rows, PERMUTATIONS), dtype=np.uint32)
        # enough earlier documents to resemble, without all of them in memory
        pool = np.concatenate([pool, block])[-200_000:]
        edited = generator.random(rows) < 0.3
        sources = pool[generator.integers(0, len(pool), int(edited.sum()))]
        kept = generator.uniform(0.6, 1.0, (len(sources), 1))
        same = generator.random(sources.shape) < kept
        block[edited] = np.where(same, sources, block[edited])
        yield block


def write_signatures(folder: Path, number: int, seed: int = 0) -> list[RowFile]:
    """Write signatures as the first stage of a build does."""
    files = []
    for place, block in enumerate(signatures(number, seed)):
        flat = pa.array(block.ravel(), pa.uint32())
        offsets = pa.array(np.arange(len(block) + 1, dtype=np.int32) * PERMUTATIONS)
        hashes = np.random.default_rng((seed, place)).bytes(16 * len(block))
        buffers = [None, pa.py_buffer(hashes)]
        table = pa.table(
            {
                "hash": pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(block), buffers),
                "signature": pa.ListArray.from_arrays(offsets, flat),
            }
        )
        path = folder / f"part-{place:06d}.parquet"
        parquet.write_table(table, path, use_dictionary=False, row_group_size=4096)
        files.append(RowFile(path, len(block)))
    return files


def edited_texts(number: int, seed: int) -> list[str]:
    """Texts of 200 words, each second one an earlier text with 1 to 30% of its words changed."""
    generator = np.random.default_rng(seed)
    texts: list[list[str]] = []
    for place in range(number):
        words = [f"w{word}" for word in generator.integers(0, 20_000, 200)]
        if place % 2:
            other = texts[int(generator.integers(place))]
            # edits lie together, as those of people do
            changed = int(len(words) * generator.uniform(0.01, 0.3))
            start = int(generator.integers(len(words) - changed))
            words = other[:start] + words[start : start + changed] + other[start + changed :]
        texts.append(words)
    return [" ".join(words) for words in texts]
