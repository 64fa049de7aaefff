"""Packed rows of whole documents: labelled texts or pairs, none divided between two rows.

Documents are in the order of `order`. A row takes as many as fit, one after another, and ends with
padding; a new epoch begins a new row. So the documents of row n follow from n alone, by a walk over
the lengths of the documents before it, of which the starts of all rows so far are kept.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_pipeline.config import DataConfig
from data_pipeline.errors import DataError
from data_pipeline.shards.manifest import Manifest, load_manifest
from data_pipeline.stream.order import DocumentSlice, History, Integers
from data_pipeline.stream.packing import PackedDataset, Windows

# label c of a text with several is at one of its tokens as this number minus c; see
# `spectral/classifier.py`
MORE_LABELS = -101


class _Epoch(NamedTuple):
    """Documents of an epoch in their order: shard, row and length, and the tokens before each."""

    shard: Integers
    row: Integers
    length: Integers
    before: Integers


class WholeDataset(PackedDataset):
    """Dataset of labelled texts as rows of whole texts.

    Raises:
        DataError: As `PackedDataset`, or a text is too long and may not be cut.
    """

    def __init__(
        self, path: str, number: int, config: DataConfig, manifest: Manifest | None = None
    ):
        super().__init__(path, number, config, manifest)
        self._samples = self.manifest.samples
        self._order = functools.lru_cache(maxsize=2)(self._order_documents)
        self._starts = functools.lru_cache(maxsize=8)(lambda first, _length: [first])
        longest = int(self._order(0, 0).length.max())
        if config.long_texts == "refuse" and longest > config.sequence_length:
            raise DataError(
                f"{path}: its longest text has {longest:,} tokens; expected at most "
                f"data.sequence_length {config.sequence_length:,}, or data.long_texts 'cut'"
            )

    def lanes(self) -> int:
        """A single lane: texts are short, and neighbours are shuffled."""
        return 1

    def row_spans(self, lanes: int, history: History, row: int, length: int) -> list[DocumentSlice]:
        """The documents of the row that comes `row` rows of this length after `history`."""
        del lanes
        first = 0
        for rows, earlier_length in history:
            first = self._start(first, rows, earlier_length)
        return self._documents(
            self._start(first, row, length), self._start(first, row + 1, length), length
        )

    def num_windows(self, length: int) -> int:
        """Number of rows of an epoch."""
        number = 0
        while self._start(0, number, length) < self._samples:
            number += 1
        return number

    def window_spans(self, number: int, length: int) -> list[DocumentSlice]:
        """The documents of a row of the first epoch."""
        return self.row_spans(1, (), number, length)

    def fill(self, windows: Windows, row: int, spans: Sequence[DocumentSlice]) -> None:
        """Write texts into a row of padding, each with its labels."""
        documents: list[tuple[int, int]] = []
        position, width = 0, windows.tokens.shape[1]
        for span in spans:
            end = position + span.num_tokens
            stored = self.reader.tokens(span.shard, span.row)
            if isinstance(stored, str):
                windows.corrupt[stored] = windows.corrupt.get(stored, 0) + span.num_tokens
            else:
                windows.tokens[row, position:end] = stored[: span.num_tokens]
                slots = stored[len(stored) - self.manifest.label_slots :].astype(np.int64)
                self._label(windows.labels[row, position:end], slots, span)
            windows.segment_ids[row, position:end] = len(documents)
            documents.append((self.number, self.reader.document(span.shard, span.row)))
            position = end
        if position < width:
            windows.segment_ids[row, position:] = len(documents)
            documents.append((self.number, -1))
        windows.documents[row] = tuple(documents)

    def _label(self, places: Integers, slots: Integers, span: DocumentSlice) -> None:
        """Write the labels of a text to the places of its tokens."""
        number = len(self.manifest.labels)
        labels = slots[slots != number]
        problem = ""
        if (labels > number).any():
            problem = f"has label {labels.max()}; expected less than {number}"
        elif not self.manifest.multi_label and len(labels) != 1:
            problem = f"has {len(labels)} labels; expected one"
        elif len(labels) >= len(places):
            problem = f"has {len(labels)} labels; expected fewer than its {len(places)} tokens"
        if problem:
            raise DataError(f"{self.reader.url(span.shard)}: document {span.row} {problem}")
        if not self.manifest.multi_label:
            places[0] = labels[0]
            return
        places[0] = 0
        places[1 : 1 + len(labels)] = MORE_LABELS - labels

    def _start(self, first: int, row: int, length: int) -> int:
        """Number of the first document of a row, over all epochs, if row 0 begins with `first`."""
        starts = self._starts(first, length)
        while len(starts) <= row:
            epoch, inside = divmod(starts[-1], self._samples)
            before = self._order(epoch, length).before
            end = int(before.searchsorted(before[inside] + length, side="right")) - 1
            starts.append(epoch * self._samples + end)
        return starts[row]

    def _documents(self, first: int, end: int, length: int) -> list[DocumentSlice]:
        epoch, inside = divmod(first, self._samples)
        order = self._order(epoch, length)
        places = range(inside, inside + end - first)
        return [
            DocumentSlice(epoch, int(order.shard[i]), int(order.row[i]), 0, int(order.length[i]))
            for i in places
        ]

    def _order_documents(self, epoch: int, length: int) -> _Epoch:
        """The documents of an epoch, cut to a length if there is one."""
        num_blocks = len(self._epoch(epoch).starts) - 1
        blocks = [self._order_block(epoch, block) for block in range(num_blocks)]
        tokens = np.concatenate([np.diff(block.starts) for block in blocks])
        lengths = tokens - self.manifest.label_slots
        if (lengths < 2).any():
            raise DataError(
                f"{self.path}: a document of {tokens.min()} tokens and labels; expected BOS, EOS "
                f"and {self.manifest.label_slots} labels"
            )
        if length:
            lengths = np.minimum(lengths, length)
        return _Epoch(
            np.concatenate([block.shard for block in blocks]),
            np.concatenate([block.row for block in blocks]),
            lengths,
            np.concatenate([[0], np.cumsum(lengths)]),
        )


class PairDataset(WholeDataset):
    """Dataset of pairs as rows of whole pairs: segment 2 n is a source, 2 n + 1 its target."""

    def fill(self, windows: Windows, row: int, spans: Sequence[DocumentSlice]) -> None:
        """Write pairs into a row of padding; labels are the next tokens of targets."""
        documents: list[tuple[int, int]] = []
        eos, position = self.manifest.tokenizer.eos_id, 0
        for span in spans:
            end = middle = position + span.num_tokens
            stored = self.reader.tokens(span.shard, span.row)
            if isinstance(stored, str):
                windows.corrupt[stored] = windows.corrupt.get(stored, 0) + span.num_tokens
            else:
                ids = stored[: span.num_tokens].astype(np.int64)
                (ends,) = np.nonzero(stored == eos)
                if len(ends) != 2:
                    raise DataError(
                        f"{self.reader.url(span.shard)}: document {span.row} has {len(ends)} "
                        "texts; expected a pair of two"
                    )
                middle = min(position + int(ends[0]) + 1, end)
                windows.tokens[row, position:end] = ids
                windows.labels[row, middle : end - 1] = ids[middle - position + 1 :]
            windows.segment_ids[row, position:middle] = len(documents)
            windows.segment_ids[row, middle:end] = len(documents) + 1
            documents += [(self.number, self.reader.document(span.shard, span.row))] * 2
            position = end
        if position < windows.tokens.shape[1]:
            windows.segment_ids[row, position:] = len(documents)
            documents.append((self.number, -1))
        windows.documents[row] = tuple(documents)


def open_dataset(path: str, number: int, config: DataConfig) -> PackedDataset:
    """The dataset of a folder, by the kind of its documents.

    Raises:
        DataError: Its manifest or index is unusable.
    """
    manifest = load_manifest(path, config.storage)
    kinds = {"labelled": WholeDataset, "pairs": PairDataset}
    return kinds.get(manifest.kind, PackedDataset)(path, number, config, manifest)
