"""Duplicates found by joins are those of the sequential rule, whatever the sizes of tasks."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from data_pipeline.build.duplicates import finder as finder_module
from data_pipeline.build.duplicates.candidates import pairs_of
from data_pipeline.build.duplicates.documents import REASONS, RowFile, open_states
from data_pipeline.build.duplicates.finder import DuplicateFinder
from data_pipeline.build.duplicates.runs import BANDED, FirstSeen, Limits
from data_pipeline.build.duplicates.signatures import Signatures, bands_of, resembling
from data_pipeline.build.workers.pool import ProcessPool
from data_pipeline.cleaning_config import CleaningConfig
from tests.unit.data_pipeline.build.sequential import SequentialFinder

PERMUTATIONS = 16
CONFIG = CleaningConfig(near_duplicates=True, near_threshold=0.6, near_permutations=PERMUTATIONS)
TINY = Limits(documents=7, records=11, pairs=3)


@pytest.fixture(autouse=True, scope="module")
def _no_waits_for_the_disk() -> Iterator[None]:
    """Tasks of a few documents write thousands of files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


def write_files(folder: Path, name: str, hashes: list[bytes], rows: Signatures) -> list[RowFile]:
    """Write documents as the first stage does, in files of three to five rows."""
    files = []
    start = 0
    while start < len(hashes):
        end = min(start + 3 + len(files) % 3, len(hashes))
        table = pa.table(
            {
                "hash": pa.array(hashes[start:end], pa.binary(16)),
                "signature": pa.array(rows[start:end].tolist(), pa.list_(pa.uint32())),
            }
        )
        path = folder / f"{name}-{start:06d}.parquet"
        parquet.write_table(table, path)
        files.append(RowFile(path, end - start))
        start = end
    return files


def by_joins(
    folder: Path,
    config: CleaningConfig,
    hashes: list[bytes],
    rows: Signatures,
    num_earlier: int = 0,
    limits: Limits = TINY,
) -> list[str | None]:
    """The reasons that joins find, for the documents after those of earlier builds."""
    earlier = write_files(folder, "earlier", hashes[:num_earlier], rows[:num_earlier])
    files = write_files(folder, "part", hashes[num_earlier:], rows[num_earlier:])
    finder = DuplicateFinder(folder / "joins", config, ProcessPool(1), earlier, files, limits)
    states = open_states(finder.find())
    assert sorted(path.name for path in (folder / "joins").iterdir())[0] == "progress.json"
    assert len(list((folder / "joins").iterdir())) == 2
    return [REASONS.get(state) for state in states[num_earlier:].tolist()]


def in_sequence(
    config: CleaningConfig, hashes: list[bytes], rows: Signatures, num_earlier: int = 0
) -> list[str | None]:
    """The reasons that the sequential rule gives."""
    reference = SequentialFinder(config)
    for hash_, row in zip(hashes[:num_earlier], rows, strict=False):
        reference.keep(hash_, row)
    later = zip(hashes[num_earlier:], rows[num_earlier:], strict=True)
    return [reference.reason_to_drop(hash_, row) for hash_, row in later]


def corpus(seed: int, kinds: Sequence[str], num_values: int) -> tuple[list[bytes], Signatures]:
    """Documents that copy, resemble or share bands with earlier ones.

    A link of a chain resembles the link before it and hardly the one before that; ties are exactly
    at the threshold.
    """
    generator = np.random.default_rng(seed)
    rows: list[np.ndarray[Any, Any]] = []
    hashes: list[bytes] = []
    link = num_links = 0
    for kind in kinds:
        row = generator.integers(0, num_values, PERMUTATIONS, dtype=np.uint32)
        hash_ = generator.bytes(16)
        if rows and kind != "new":
            other = link if kind == "chain" else int(generator.integers(len(rows)))
            changed = {"copy": 0, "same": 0, "chain": 4, "near": 3, "tie": 6, "band": 12}[kind]
            places = generator.permutation(PERMUTATIONS)[:changed]
            if kind == "band":
                places = np.arange(PERMUTATIONS - changed, PERMUTATIONS)
            if kind == "chain":
                # another quarter than the link before, so that a band stays equal
                places = np.arange(changed) + changed * (num_links % 4)
            base = rows[other].copy()
            base[places] = row[places] + np.uint32(num_values)
            row = base
            hash_ = hashes[other] if kind == "copy" else hash_
        if kind == "chain":
            link, num_links = len(rows), num_links + 1
        rows.append(row)
        hashes.append(hash_)
    return hashes, np.array(rows, dtype=np.uint32).reshape(-1, PERMUTATIONS)


KINDS = st.sampled_from(["new", "copy", "same", "chain", "near", "tie", "band"])


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.lists(KINDS, max_size=40), st.sampled_from([2, 50, 2**31]))
def test_joins_find_what_the_sequential_rule_finds(
    seed: int, kinds: list[str], num_values: int
) -> None:
    hashes, rows = corpus(seed, kinds, num_values)
    for config in (CONFIG, CONFIG.model_copy(update={"exact_duplicates": False})):
        with tempfile.TemporaryDirectory() as name:
            assert by_joins(Path(name), config, hashes, rows) == in_sequence(config, hashes, rows)


@settings(max_examples=20)
@given(st.integers(0, 2**32), st.lists(KINDS, max_size=30), st.integers(0, 12), st.integers(2, 50))
def test_documents_of_earlier_builds_are_all_kept(
    seed: int, kinds: list[str], num_earlier: int, num_values: int
) -> None:
    hashes, rows = corpus(seed, kinds, num_values)
    expected = in_sequence(CONFIG, hashes, rows, num_earlier)
    with tempfile.TemporaryDirectory() as name:
        found = by_joins(Path(name), CONFIG, hashes, rows, num_earlier)
    of_any = [None if reason is None else reason.removesuffix(" of an earlier build")
              for reason in found]  # fmt: skip
    assert of_any == expected


def test_reasons_name_earlier_builds(tmp_path: Path) -> None:
    hashes, rows = corpus(0, ["new", "new", "new"], 2**31)
    rows = rows[[0, 1, 0, 0, 2, 2]]
    hashes = [hashes[0], hashes[1], hashes[0], b"a" * 16, hashes[2], b"b" * 16]
    assert by_joins(tmp_path, CONFIG, hashes, rows, num_earlier=2) == [
        "exact duplicate of an earlier build",
        "near-duplicate of an earlier build",
        None,
        "near-duplicate",
    ]


@pytest.mark.parametrize("order", ["along", "back", "mixed"])
def test_long_chains_end_in_the_rule_itself(
    order: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each round decides about two links of a chain: the pairs that are left decide the rest."""
    hashes, rows = corpus(3, ["chain"] * 120 + ["new"] * 3, 2**31)
    if order != "along":
        chosen = np.arange(len(rows))[::-1]
        if order == "mixed":
            chosen = np.random.default_rng(0).permutation(len(rows))
        rows, hashes = rows[chosen], [hashes[place] for place in chosen]
    calls: list[int] = []
    original = finder_module.drop_in_order

    def counted(runs: Any, num_ranges: int, states: Any, limit: int) -> None:
        calls.append(num_ranges)
        original(runs, num_ranges, states, limit)

    monkeypatch.setattr(finder_module, "drop_in_order", counted)
    monkeypatch.setattr(finder_module, "_RANGE_DOCUMENTS", 16)
    found = by_joins(tmp_path, CONFIG, hashes, rows)
    assert found == in_sequence(CONFIG, hashes, rows)
    assert 30 < found.count(None) < 100
    if order != "mixed":
        assert len(calls) == 1
        assert calls[0] > 3


def test_an_interrupted_finder_repeats_no_finished_task(tmp_path: Path) -> None:
    hashes, rows = corpus(5, ["new", "chain", "copy", "near", "same", "band"] * 12, 50)
    files = write_files(tmp_path, "part", hashes, rows)
    expected = in_sequence(CONFIG, hashes, rows)

    finished: set[tuple[str, Path]] = set()

    class Interrupted(ProcessPool):
        left = 3

        def run(self, name: str, function: Any, tasks: Any) -> None:
            for task in tasks:
                if not self.left:
                    raise KeyboardInterrupt
                assert (name, task[-1]) not in finished
                self.left -= 1
                super().run(name, function, [task])
                finished.add((name, task[-1]))

    runs = 0
    while True:
        workers = Interrupted(1)
        finder = DuplicateFinder(tmp_path / "joins", CONFIG, workers, (), files, TINY)
        runs += 1
        try:
            states = open_states(finder.find())
            break
        except KeyboardInterrupt:
            continue
    assert runs > 20
    assert [REASONS.get(state) for state in states.tolist()] == expected


def test_keys_that_are_equal_by_chance_are_told_apart() -> None:
    seen = FirstSeen()
    keys = np.array([1, 1, 2, 1], dtype=np.uint64)
    checks = np.array([5, 6, 5, 5], dtype=np.uint64)
    assert seen.update(keys, checks, np.arange(4)).tolist() == [0, 1, 2, 0]
    checks = np.array([6, 5, 9, 7], dtype=np.uint64)
    assert seen.update(keys, checks, np.arange(4, 8)).tolist() == [1, 0, 6, 7]


def test_candidates_by_chance_do_not_resemble() -> None:
    bands = bands_of(0.6, PERMUTATIONS)
    first = np.zeros((1, PERMUTATIONS), dtype=np.uint32)
    second = first.copy()
    # most values are equal, and no band is
    second[0, :: bands.width] = 1
    assert (first == second).mean() >= 0.6
    assert not resembling(first, second, bands, 0.6).any()
    second[0, 0] = 0
    assert resembling(first, second, bands, 0.6).all()


@given(st.lists(st.integers(0, 3), max_size=25), st.integers(0, 25), st.integers(1, 9))
def test_pairs_are_all_that_share_a_bucket(keys: list[int], cut: int, limit: int) -> None:
    entries = np.array(list(zip(keys, range(len(keys)), strict=True)), dtype=BANDED)
    # a block with itself, and one with the block before it
    for later, earlier in ((entries, entries), (entries[cut:], entries[:cut])):
        found = [
            pair
            for block in pairs_of(later, earlier, limit)
            for pair in zip(*(side.tolist() for side in block), strict=True)
        ]
        assert sorted(found) == sorted(
            (number, other)
            for key, number in later.tolist()
            for other_key, other in earlier.tolist()
            if key == other_key and other < number
        )
