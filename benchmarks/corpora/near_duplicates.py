"""Near-duplicates by joins: time and memory as the corpus grows, and which pairs are found."""

import math
import multiprocessing
import resource
import tempfile
import time
from collections import Counter
from itertools import combinations, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from datasketch import MinHash, MinHashLSH

from benchmarks.corpora.synthetic import PERMUTATIONS, edited_texts, signatures, write_signatures
from benchmarks.harness.thresholds import Figure
from data_pipeline.build.duplicates.documents import EXACT, RowFile, open_states
from data_pipeline.build.duplicates.finder import DuplicateFinder
from data_pipeline.build.duplicates.runs import LIMITS
from data_pipeline.build.duplicates.signatures import (
    band_keys,
    bands_of,
    ngram_hashes,
    resembling,
    signature,
)
from data_pipeline.build.workers.pool import ProcessPool
from data_pipeline.cleaning_config import CleaningConfig

CONFIG = CleaningConfig(near_duplicates=True, exact_duplicates=False)


class Run(NamedTuple):
    """Seconds and bytes of memory of one process, and the documents that it drops."""

    seconds: float
    peak_bytes: int
    dropped: int


def _joins(folder: Path, files: list[RowFile]) -> int:
    finder = DuplicateFinder(folder / "joins", CONFIG, ProcessPool(1), (), files, LIMITS)
    return int((open_states(finder.find()) >= EXACT).sum())


def _index(number: int) -> int:
    """The same rule by datasketch's index, one document after another."""
    index = MinHashLSH(threshold=CONFIG.near_threshold, num_perm=PERMUTATIONS)
    kept: list[np.ndarray[tuple[int], np.dtype[np.uint32]]] = []
    dropped = 0
    for block in signatures(number, seed=0):
        for row in block:
            minhash = MinHash(num_perm=PERMUTATIONS, scheme="affine32", hashvalues=row)
            candidates = index.query(minhash)
            if any((kept[key] == row).mean() >= CONFIG.near_threshold for key in candidates):
                dropped += 1
            else:
                index.insert(len(kept), minhash)
                kept.append(row.copy())
    return dropped


def _measured(kind: str, number: int, results: "multiprocessing.Queue[Run]") -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = write_signatures(folder, number) if kind == "joins" else []
        started_s = time.perf_counter()
        dropped = _joins(folder, files) if kind == "joins" else _index(number)
        seconds = time.perf_counter() - started_s
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    results.put(Run(seconds, peak, dropped))


def run(kind: str, number: int) -> Run:
    """Measure one side in a process of its own."""
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[Run] = context.Queue()
    process = context.Process(target=_measured, args=(kind, number, results))
    process.start()
    found = results.get()
    process.join()
    print(
        f"  {kind:8} {number:>9,} documents {found.seconds:8.1f} s "
        f"{found.peak_bytes / 2**20:8.0f} MiB, {found.dropped:,} dropped"
    )
    return found


def measure_growth(sizes: tuple[int, ...], compared: int) -> list[Figure]:
    """Time and memory of joins from the smallest to the largest corpus, and of an index."""
    runs = {number: run("joins", number) for number in sizes}
    index = run("index", compared)
    joins = runs[compared]
    if joins.dropped != index.dropped:
        raise SystemExit(
            f"joins drop {joins.dropped:,} of {compared:,}, an index {index.dropped:,}"
        )
    figures = [
        Figure(f"near-duplicates of {number:,} documents, 1 process", found.seconds, "s")
        for number, found in runs.items()
    ]
    figures += [
        Figure(f"memory for near-duplicates of {number:,} documents", found.peak_bytes / 2**20,
               "MiB", limit=2048.0, at_most=True)
        for number, found in runs.items()
    ]  # fmt: skip
    for small, large in pairwise(sizes):
        growth = large * math.log(large) / (small * math.log(small))
        figures.append(
            Figure(f"growth of time from {small:,} to {large:,} documents over n log n",
                   runs[large].seconds / runs[small].seconds / growth, limit=1.0, at_most=True)
        )  # fmt: skip
    return [
        *figures,
        Figure(f"datasketch's index of {compared:,} documents, 1 process", index.seconds, "s"),
        Figure(f"memory of datasketch's index of {compared:,} documents",
               index.peak_bytes / 2**20, "MiB"),
        Figure(f"speed of joins over datasketch's index at {compared:,} documents",
               index.seconds / joins.seconds, limit=1.0),
    ]  # fmt: skip


def measure_pairs(number: int) -> list[Figure]:
    """Precision and recall of the pairs that resemble each other, against all pairs of texts."""
    texts = edited_texts(number, seed=0)
    rows = np.stack([signature(text, CONFIG) for text in texts])
    bands = bands_of(CONFIG.near_threshold, PERMUTATIONS)
    buckets: dict[tuple[int, int], list[int]] = {}
    for document, keys in enumerate(band_keys(rows, bands).tolist()):
        for band, key in enumerate(keys):
            buckets.setdefault((band, key), []).append(document)
    candidates = sorted({pair for found in buckets.values() for pair in combinations(found, 2)})
    first, second = np.array(candidates, dtype=np.int64).reshape(-1, 2).T
    similar = resembling(rows[first], rows[second], bands, CONFIG.near_threshold)
    found = {pair for pair, is_similar in zip(candidates, similar.tolist(), strict=True)
             if is_similar}  # fmt: skip
    ngrams = [set(ngram_hashes(text, CONFIG.near_ngram).tolist()) for text in texts]
    holders: dict[int, list[int]] = {}
    for document, hashes in enumerate(ngrams):
        for hash_ in hashes:
            holders.setdefault(hash_, []).append(document)
    # pairs without a common n-gram have similarity 0
    common = Counter(pair for holding in holders.values() for pair in combinations(holding, 2))
    true = {
        pair
        for pair, shared in common.items()
        if shared / (len(ngrams[pair[0]]) + len(ngrams[pair[1]]) - shared) >= CONFIG.near_threshold
    }
    right = len(found & true)
    print(f"  {len(true):,} pairs of {number:,} texts resemble each other, {len(found):,} found")
    return [
        Figure("precision of pairs against brute force", right / max(len(found), 1)),
        Figure("recall of pairs against brute force", right / max(len(true), 1)),
    ]
