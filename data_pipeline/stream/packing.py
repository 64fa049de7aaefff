"""Packed windows of tokens as numpy arrays, read from shards in the order of `order`."""

import functools
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from data_pipeline.config import DataConfig
from data_pipeline.errors import DataError
from data_pipeline.shards.manifest import Manifest, TokenizerEntry, load_manifest
from data_pipeline.shards.reader import ShardReader
from data_pipeline.stream.order import (
    BlockOrder,
    DocumentSlice,
    EpochOrder,
    EpochRange,
    History,
    automatic_lanes,
    block_order,
    epoch_order,
    row_stretches,
    spans_of_block,
)

IGNORED_LABEL = -100
Integers = npt.NDArray[np.int64]


@dataclass
class Windows:
    """Rows of packed tokens, filled in place.

    Attributes:
        tokens: [rows, length].
        labels: The next token of the same document, IGNORED_LABEL where there is none.
        segment_ids: Number of the document within the row; padding has its own.
        documents: Per row, the (dataset, document) of each segment; document -1 is padding.
        corrupt: Number of masked tokens, by the reason why their shard is unreadable.
    """

    tokens: Integers
    labels: Integers
    segment_ids: Integers
    documents: list[tuple[tuple[int, int], ...]]
    corrupt: dict[str, int] = field(default_factory=dict)


# changes windows in place, given their step (-1 for a held-out split) and the numbers of their rows
Preparation = Callable[[Windows, int, Sequence[int]], None]
# makes it for the tokenizer of the data
Preparing = Callable[[TokenizerEntry], Preparation]


def empty_windows(rows: int, length: int, pad_id: int) -> Windows:
    """Rows of padding."""
    return Windows(
        tokens=np.full((rows, length), pad_id, dtype=np.int64),
        labels=np.full((rows, length), IGNORED_LABEL, dtype=np.int64),
        segment_ids=np.zeros((rows, length), dtype=np.int64),
        documents=[((-1, -1),)] * rows,
    )


class PackedDataset:
    """Dataset as sequences of tokens, one per epoch.

    Args:
        path: Folder or URL with the manifest.
        number: Number of the dataset within the mixture.
        config: Seed, shuffling, checks and storage.
        manifest: The manifest there; None to read it.
    """

    def __init__(
        self, path: str, number: int, config: DataConfig, manifest: Manifest | None = None
    ):
        self.path, self.number, self._config = path, number, config
        self.manifest: Manifest = manifest or load_manifest(path, config.storage)
        self.tokens = self.manifest.tokens
        if self.tokens == 0:
            raise DataError(f"{path}: the manifest lists no tokens; expected at least one document")
        self.reader = ShardReader(path, self.manifest, config)
        checksums = "".join(entry.sha256 for entry in self.manifest.shards)
        self.content = zlib.crc32(checksums.encode())
        self._shard_tokens = np.array([entry.tokens for entry in self.manifest.shards])
        # lanes are at many places of an epoch, and each needs its block again and again
        self._epoch = functools.lru_cache(maxsize=4)(self._order_epoch)
        self._block = functools.lru_cache(maxsize=256)(self._order_block)

    def _order_epoch(self, epoch: int) -> EpochOrder:
        config = self._config
        key = (config.seed, self.number, epoch)
        return epoch_order(self._shard_tokens, config.shuffle_block, config.shuffle, *key)

    def _order_block(self, epoch: int, block: int) -> BlockOrder:
        shards = self._epoch(epoch).block_shards(block).tolist()
        lengths = [self.reader.index(shard)[:, 1] for shard in shards]
        key = (self._config.seed, self.number, epoch, block)
        return block_order(shards, lengths, self._config.shuffle, *key)

    def spans(self, stretches: Sequence[EpochRange]) -> list[DocumentSlice]:
        """The slices of documents that make up ranges of epochs, in order."""
        spans: list[DocumentSlice] = []
        for stretch in stretches:
            starts = self._epoch(stretch.epoch).starts
            start, end = stretch.start, stretch.start + stretch.num_tokens
            block = int(starts.searchsorted(start, side="right")) - 1
            while start < end:
                first, last = int(starts[block]), int(starts[block + 1])
                num_tokens = min(last, end) - start
                if num_tokens:
                    order = self._block(stretch.epoch, block)
                    spans += spans_of_block(order, stretch.epoch, start - first, num_tokens)
                start += num_tokens
                block += 1
        return spans

    def lanes(self) -> int:
        """Number of places of an epoch that are read in parallel.

        Raises:
            DataError: More are configured than there are tokens.
        """
        lanes = self._config.lanes
        if lanes > self.tokens:
            raise DataError(
                f"data.lanes: {lanes} is more than the {self.tokens} tokens of {self.path}"
            )
        return lanes or automatic_lanes(self.tokens, self._config.sequence_length)

    def row_spans(self, lanes: int, history: History, row: int, length: int) -> list[DocumentSlice]:
        """The slices of the row that comes `row` rows of this length after `history`."""
        return self.spans(row_stretches(self.tokens, lanes, history, row, length))

    def num_windows(self, length: int) -> int:
        """Number of windows that hold the whole dataset."""
        return -(-self.tokens // length)

    def window_spans(self, number: int, length: int) -> list[DocumentSlice]:
        """The slices of a window of the dataset, in its order."""
        position = number * length
        num_tokens = min(length, self.tokens - position)
        return self.spans([EpochRange(0, position, num_tokens)])

    def fill(self, windows: Windows, row: int, spans: Sequence[DocumentSlice]) -> None:
        """Write slices of documents into a row of padding, one after another."""
        documents: list[tuple[int, int]] = []
        position = 0
        for span in spans:
            end = position + span.num_tokens
            # and the token after them, the label of the last
            stop = span.start + span.num_tokens
            tokens = self.reader.tokens(span.shard, span.row, span.start, stop + 1)
            if isinstance(tokens, str):
                windows.corrupt[tokens] = windows.corrupt.get(tokens, 0) + span.num_tokens
            else:
                windows.tokens[row, position:end] = tokens[: span.num_tokens]
                following = tokens[1:]
                windows.labels[row, position : position + len(following)] = following
            windows.segment_ids[row, position:end] = len(documents)
            documents.append((self.number, self.reader.document(span.shard, span.row)))
            position = end
        if position < windows.tokens.shape[1]:
            windows.segment_ids[row, position:] = len(documents)
            documents.append((self.number, -1))
        windows.documents[row] = tuple(documents)
