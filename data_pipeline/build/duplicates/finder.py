"""Decisions about all documents, step by step; an interrupted finder resumes at its last step."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_pipeline.build.duplicates.candidates import Buckets, Similarity, write_bands
from data_pipeline.build.duplicates.documents import (
    EXACT,
    EXACT_EARLIER,
    KEPT,
    NEAR,
    NEAR_EARLIER,
    ROOT,
    UNDECIDED,
    RowFile,
    States,
    count_states,
    create_states,
    drop,
    open_states,
    plan_spans,
    replace_states,
    save_states,
)
from data_pipeline.build.duplicates.equal import FOUND, find_equal, write_hashes
from data_pipeline.build.duplicates.rounds import (
    drop_in_order,
    find_blocked,
    find_earlier,
    find_like_roots,
    find_pairs,
)
from data_pipeline.build.duplicates.runs import DOCUMENT, Integers, Limits, read_list
from data_pipeline.build.duplicates.signatures import bands_of
from data_pipeline.build.workers.interface import Workers
from data_pipeline.cleaning_config import CleaningConfig
from data_pipeline.input_files import read_json
from data_pipeline.storage.atomic import disk_errors, write_text_atomically

# a round that leaves more of the undecided documents is the last one
_MOST_LEFT = 7 / 8
# undecided documents per range of the pairs that are visited in order
_RANGE_DOCUMENTS = 1 << 14
_MOST_RANGES = 1 << 12


class _Progress(NamedTuple):
    """Where the work is.

    Attributes:
        step: Name of the next step.
        number: Number of steps that are finished; the states after them are `states-NUMBER`.
        round: Number of the round.
        undecided: Undecided documents at its beginning.
    """

    step: str
    number: int = 0
    round: int = 0
    undecided: int = 0


class DuplicateFinder:
    """Finder of all duplicates among documents in Parquet files.

    Args:
        folder: Folder for its files, the same after an interruption.
        config: What counts as a duplicate.
        workers: Processes that run the tasks.
        earlier: Files of documents of earlier builds.
        files: Files of the documents, in the order of the corpus.
        limits: Sizes of tasks.
    """

    def __init__(
        self,
        folder: Path,
        config: CleaningConfig,
        workers: Workers,
        earlier: Sequence[RowFile],
        files: Sequence[RowFile],
        limits: Limits,
    ):
        self._folder, self._config, self._workers, self._limits = folder, config, workers, limits
        self._spans = plan_spans([*earlier, *files], limits.documents)
        self._num_earlier = sum(file.rows for file in earlier)
        self._num_documents = sum(span.rows for span in self._spans)

    def find(self) -> Path:
        """Decide about every document; returns the file of their states."""
        with disk_errors(self._folder):
            self._folder.mkdir(exist_ok=True)
            path = self._folder / "progress.json"
            if not path.is_file():
                create_states(self._states(0), self._num_earlier, self._num_documents)
                self._save(_Progress(self._first_step()))
            progress = _Progress(**read_json(path))
            while progress.step != "done":
                self._remove_old(progress)
                shutil.copyfile(self._states(progress.number), self._states(progress.number + 1))
                step: Callable[[_Progress, States], _Progress] = getattr(self, f"_{progress.step}")
                states = open_states(self._states(progress.number + 1), writable=True)
                progress = step(progress, states)._replace(number=progress.number + 1)
                save_states(states)
                self._save(progress)
            self._remove_old(progress)
        return self._states(progress.number)

    def _first_step(self) -> str:
        if not self._num_documents:
            return "done"
        if self._config.exact_duplicates:
            return "hashes"
        return "signatures" if self._config.near_duplicates else "done"

    def _states(self, number: int) -> Path:
        return self._folder / f"states-{number}"

    def _save(self, progress: _Progress) -> None:
        path = self._folder / "progress.json"
        write_text_atomically(path, json.dumps(progress._asdict()))

    def _remove_old(self, progress: _Progress) -> None:
        """Remove what neither the next step nor a later one reads, and has not written before."""
        kept = {
            "hashes": ("hash", "hash_equal"), "signatures": ("signature", "signature_equal"),
            "bands": ("bands", "values"), "earlier": ("bands", "values", "earlier"),
            "blocked": ("bands", "values", "shared", "blocked"),
            "roots": ("values", "shared", "roots"), "pairs": ("values", "shared", "pairs"),
            "done": (),
        }[progress.step]  # fmt: skip
        rounds = range(progress.round - 1, progress.round + 1)
        for path in self._folder.iterdir():
            kind, *rest = path.name.split("-")
            is_old = kind not in kept or (len(rest) == 2 and int(rest[0]) not in rounds)
            if path.name != "progress.json" and path != self._states(progress.number) and is_old:
                path.unlink(missing_ok=True)

    def _run(
        self, name: str, function: Callable[..., None], tasks: Sequence[tuple[Any, ...]]
    ) -> list[Path]:
        """Run the tasks whose file, their last argument, is missing; returns all files."""
        files: list[Path] = [task[-1] for task in tasks]
        missing = [task for task in tasks if not task[-1].is_file()]
        self._workers.run(f"duplicates: {name}", function, missing)
        return files

    def _hashes(self, progress: _Progress, states: States) -> _Progress:
        self._find_equal("hash", states, EXACT, EXACT_EARLIER)
        return progress._replace(step="signatures" if self._config.near_duplicates else "done")

    def _signatures(self, progress: _Progress, states: States) -> _Progress:
        self._find_equal("signature", states, NEAR, NEAR_EARLIER)
        return progress._replace(step="bands")

    def _find_equal(self, column: str, states: States, state: int, earlier_state: int) -> None:
        """Drop all but the first of the documents with equal values of a column."""
        num_partitions = self._num_partitions(self._num_documents)
        runs = self._run(f"{column} runs", write_hashes, [
            (span, column, num_partitions, self._limits, self._folder / f"{column}-{span.number}")
            for span in self._spans
        ])  # fmt: skip
        found = self._run(f"equal {column}", find_equal, [
            (runs, partition, num_partitions, self._limits,
             self._folder / f"{column}_equal-{partition}")
            for partition in range(num_partitions)
        ])  # fmt: skip
        for path in found:
            for block in read_list(path, FOUND, self._limits.records):
                is_earlier = block["first"] < self._num_earlier
                drop(states, block["document"][~is_earlier], state)
                drop(states, block["document"][is_earlier], earlier_state)

    def _num_partitions(self, num_records: int) -> int:
        return max(1, -(-num_records // self._limits.records))

    def _similarity(self) -> Similarity:
        threshold, permutations = self._config.near_threshold, self._config.near_permutations
        bands = bands_of(threshold, permutations)
        return Similarity(
            threshold,
            permutations,
            bands,
            tuple(span.first for span in self._spans),
            tuple(self._folder / f"values-{span.number}" for span in self._spans),
            self._num_partitions(self._num_documents * bands.number),
            self._limits,
        )

    def _bands(self, progress: _Progress, states: States) -> _Progress:
        similarity = self._similarity()
        self._run("bands", write_bands, [
            (span, similarity, self._states(progress.number),
             similarity.files[span.number], self._folder / f"bands-{span.number}")
            for span in self._spans
        ])  # fmt: skip
        step = "earlier" if self._num_earlier else "blocked"
        return progress._replace(step=step, undecided=count_states(states, UNDECIDED))

    def _buckets(self, round_: int, similarity: Similarity) -> Iterator[Buckets]:
        """The buckets of each partition, as a round has left them."""
        for partition in range(similarity.num_partitions):
            if round_ < 0:
                runs = tuple(self._folder / f"bands-{span.number}" for span in self._spans)
                yield Buckets(runs, partition, similarity.num_partitions)
            else:
                yield Buckets((self._folder / f"shared-{round_}-{partition}",), 0, 1)

    def _join(
        self, function: Callable[..., None], kind: str, round_: int, progress: _Progress
    ) -> Iterator[Integers]:
        """Run a task per partition; yields the documents that they write."""
        similarity = self._similarity()
        files = self._run(kind, function, [
            (buckets, similarity, self._states(progress.number),
             self._folder / f"{kind}-{progress.round}-{partition}")
            for partition, buckets in enumerate(self._buckets(round_, similarity))
        ])  # fmt: skip
        for path in files:
            yield from read_list(path, DOCUMENT, self._limits.records)

    def _earlier(self, progress: _Progress, states: States) -> _Progress:
        for documents in self._join(find_earlier, "earlier", -1, progress):
            drop(states, documents, NEAR_EARLIER)
        return progress._replace(step="blocked", undecided=count_states(states, UNDECIDED))

    def _blocked(self, progress: _Progress, states: States) -> _Progress:
        replace_states(states, UNDECIDED, ROOT)
        for documents in self._join(find_blocked, "blocked", progress.round - 1, progress):
            states[documents] = UNDECIDED
        return progress._replace(step="roots")

    def _roots(self, progress: _Progress, states: States) -> _Progress:
        for documents in self._join(find_like_roots, "roots", progress.round, progress):
            drop(states, documents, NEAR)
        replace_states(states, ROOT, KEPT)
        left = count_states(states, UNDECIDED)
        step = "pairs" if left > _MOST_LEFT * progress.undecided else "blocked"
        return progress._replace(
            step=step if left else "done", round=progress.round + 1, undecided=left
        )

    def _pairs(self, progress: _Progress, states: States) -> _Progress:
        similarity = self._similarity()
        num_ranges = min(1 + progress.undecided // _RANGE_DOCUMENTS, _MOST_RANGES)
        runs = self._run("pairs", find_pairs, [
            (buckets, similarity, self._states(progress.number), num_ranges,
             self._folder / f"pairs-{progress.round}-{partition}")
            for partition, buckets in enumerate(self._buckets(progress.round - 1, similarity))
        ])  # fmt: skip
        drop_in_order(runs, num_ranges, states, self._limits.records)
        return progress._replace(step="done")
