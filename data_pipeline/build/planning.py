"""Second stage of a build: drop duplicates, hold documents out, divide each split into shards.

Documents are read in spans of about a million; what is chosen of each span lies in a file, so no
process holds the whole corpus.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipeline.build.cleaning import Counts
from data_pipeline.build.duplicates.documents import (
    EXACT,
    REASONS,
    RowFile,
    Span,
    batches,
    open_states,
    plan_spans,
)
from data_pipeline.build.duplicates.finder import DuplicateFinder
from data_pipeline.build.duplicates.runs import LIMITS, Limits
from data_pipeline.build.duplicates.signatures import in_valid
from data_pipeline.build.workers.interface import Workers
from data_pipeline.config import BuildConfig
from data_pipeline.input_files import read_json
from data_pipeline.storage.atomic import write_atomically, write_text_atomically

Split = Literal["train", "valid"]
SPLITS: tuple[Split, ...] = ("train", "valid")

_AUTOMATIC_SHARDS = 32
_SMALLEST_SHARD = 256 * 2**10
_LARGEST_SHARD = 64 * 2**20
# a document that is dropped has this place instead of that of its split in `SPLITS`
DROPPED = 255

Integers = npt.NDArray[np.int64]


class Choice(NamedTuple):
    """Documents of a span: the place of each one's split in `SPLITS`, and its bytes of text."""

    split: npt.NDArray[np.uint8]
    text_bytes: Integers


class Piece(NamedTuple):
    """Documents of a shard in one part: those of its split among the rows [start, end).

    Attributes:
        part: Number of the part.
        span: Number of the span that the part belongs to.
        first: Row of the span at which the part begins.
        start: Row of the part.
        end: Row of the part.
    """

    part: int
    span: int
    first: int
    start: int
    end: int


class ShardTask(NamedTuple):
    """Shard to write.

    Attributes:
        split: Split that it belongs to.
        number: Number of the shard within the split.
        first: Number of its first document within the split.
        pieces: Its documents.
    """

    split: Split
    number: int
    first: int
    pieces: tuple[Piece, ...]

    @property
    def name(self) -> str:
        """File name of the shard."""
        return f"shard-{self.number:06d}.tar"


def choose_documents(
    config: BuildConfig,
    earlier: Sequence[RowFile],
    files: Sequence[RowFile],
    work: Path,
    workers: Workers,
    limits: Limits = LIMITS,
) -> tuple[list[Span], Counts]:
    """Decide about all documents, in the order of the corpus.

    Returns:
        The spans of the corpus, for whose documents `load_choice` has the decisions, and the counts
        of what was dropped.
    """
    finder = DuplicateFinder(work / "duplicates", config.cleaning, workers, earlier, files, limits)
    states = finder.find()
    spans = plan_spans(files, limits.documents)
    num_earlier = sum(file.rows for file in earlier)
    tasks = [(config, span, states, num_earlier, work) for span in spans]
    missing = [task for task in tasks if not _counts_file(work, task[1].number).is_file()]
    workers.run("choose", choose_span, missing)
    counts = Counts()
    for span in spans:
        part = Counts(**read_json(_counts_file(work, span.number)))
        counts.merge(part, config.cleaning.num_examples)
    return spans, counts


def _choice_file(work: Path, span: int) -> Path:
    return work / f"choice-{span:06d}.npz"


def _counts_file(work: Path, span: int) -> Path:
    return work / f"choice-{span:06d}.json"


def load_choice(work: Path, span: int) -> Choice:
    """The decisions about the documents of a span."""
    with np.load(_choice_file(work, span), allow_pickle=False) as saved:
        return Choice(saved["split"], saved["text_bytes"])


def choose_span(
    config: BuildConfig, span: Span, states_file: Path, num_earlier: int, work: Path
) -> None:
    """Write what is chosen of a span, then the counts of what is dropped."""
    counts = Counts()
    states = open_states(states_file)
    splits: list[int] = []
    sizes: list[Integers] = [np.empty(0, dtype=np.int64)]
    for first, batch in batches(span, ["source", "hash", "text_bytes"]):
        sizes.append(batch.column("text_bytes").to_numpy())
        place = num_earlier + first
        state_of_rows = states[place : place + len(batch)].tolist()
        columns = (batch.column(name).to_pylist() for name in ("source", "hash"))
        for source, hash_, state in zip(*columns, state_of_rows, strict=True):
            if state < EXACT:
                splits.append(int(in_valid(hash_, config.valid_fraction)))
            else:
                splits.append(DROPPED)
                counts.add("dropped", REASONS[state], source, config.cleaning.num_examples)
    choice = Choice(np.array(splits, dtype=np.uint8), np.concatenate(sizes))
    with write_atomically(_choice_file(work, span.number)) as file:
        np.savez(file, **choice._asdict())
    write_text_atomically(_counts_file(work, span.number), json.dumps(asdict(counts)))


def plan_shards(config: BuildConfig, spans: Sequence[Span], work: Path) -> list[ShardTask]:
    """The shards of both splits, about `shard_bytes` of text each; depends on the corpus alone."""
    total = 0
    for span in spans:
        choice = load_choice(work, span.number)
        total += int(choice.text_bytes[choice.split != DROPPED].sum())
    automatic = min(max(total // _AUTOMATIC_SHARDS, _SMALLEST_SHARD), _LARGEST_SHARD)
    shard_bytes = config.shard_bytes or automatic
    return [
        task for place in range(len(SPLITS)) for task in _shards_of(place, shard_bytes, spans, work)
    ]


def _shards_of(
    place: int, shard_bytes: int, spans: Sequence[Span], work: Path
) -> Iterator[ShardTask]:
    """The shards of one split."""
    pieces: list[Piece] = []
    number = first = num_documents = num_bytes = 0
    # the shard of a document follows from the bytes in front of it
    current = -1
    for span in spans:
        choice = load_choice(work, span.number)
        rows = np.flatnonzero(choice.split == place)
        sizes = choice.text_bytes[rows]
        ends = num_bytes + np.cumsum(sizes)
        shard_of_row = (ends - sizes) // shard_bytes
        borders = np.flatnonzero(np.diff(shard_of_row, prepend=current))
        for start, end in zip([0, *borders.tolist()], [*borders.tolist(), len(rows)], strict=True):
            if start in borders and pieces:
                yield ShardTask(SPLITS[place], number, first, tuple(pieces))
                number, first, pieces = number + 1, num_documents + start, []
            if end > start:
                pieces += _pieces(span, int(rows[start]), int(rows[end - 1]) + 1)
        if len(rows):
            current, num_bytes = int(shard_of_row[-1]), int(ends[-1])
        num_documents += len(rows)
    if pieces:
        yield ShardTask(SPLITS[place], number, first, tuple(pieces))


def _pieces(span: Span, start: int, end: int) -> Iterator[Piece]:
    """The rows [start, end) of a span, part by part."""
    first = 0
    for part, file in enumerate(span.files, span.first_file):
        if first < end and first + file.rows > start:
            yield Piece(
                part, span.number, first, max(start - first, 0), min(end - first, file.rows)
            )
        first += file.rows


def rows_of_piece(split: Split, choice: Choice, piece: Piece) -> Integers:
    """The rows of a part that a piece of a shard consists of."""
    rows = slice(piece.first + piece.start, piece.first + piece.end)
    return np.flatnonzero(choice.split[rows] == SPLITS.index(split)) + piece.start
