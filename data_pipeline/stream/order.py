"""The order of training data: pure functions of integers, with no notion of ranks or workers.

An *epoch* of a dataset is one sequence of all its tokens. Its shards are shuffled; consecutive
shards form *blocks*, and the documents of a block are shuffled together. The sequence is divided
into *lanes*, equal stretches that are read in parallel, so that the rows of a batch come from
distant places. Row n of a dataset reads lane n mod L; a lane continues in its own stretch of the
next epoch. So the tokens of row n follow from n alone, by arithmetic and two binary searches.

Only integer hashing is used: numpy's generators may change their streams between versions.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
# (rows, length): number of rows read with windows of this length, in the order of reading
History = tuple[tuple[int, int], ...]

# purpose of a permutation: equal integers must give different orders for different purposes
_SHARDS, _DOCUMENTS, _OFFSET, _ROWS = range(4)

_GOLDEN = 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1
_MAX_AUTOMATIC_LANES = 64
_WINDOWS_PER_LANE = 8


def _splitmix(key: int) -> int:
    """A 64-bit integer, mixed by a bijection that looks random (Steele et al. 2014)."""
    key = (key ^ (key >> 30)) * 0xBF58476D1CE4E5B9 & _WORD
    key = (key ^ (key >> 27)) * 0x94D049BB133111EB & _WORD
    return key ^ (key >> 31)


def _splitmix_array(keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))


def hash_integers(*values: int) -> int:
    """A 64-bit hash of all values and of their order."""
    state = 0
    for value in values:
        state = _splitmix((state + (value + 1) * _GOLDEN) & _WORD)
    return state


def hashed_range(size: int, *key: int) -> npt.NDArray[np.uint64]:
    """`size` 64-bit integers that look random, a function of `key`."""
    start = np.uint64(hash_integers(*key))
    numbers = np.arange(size, dtype=np.uint64) * np.uint64(_GOLDEN) + start
    return _splitmix_array(numbers)


def permutation(size: int, *key: int) -> Integers:
    """A shuffled arange(size), a function of `key`."""
    return np.argsort(hashed_range(size, *key), kind="stable")


class DocumentSlice(NamedTuple):
    """Tokens [start, start + num_tokens) of a document, which is a row of a shard."""

    epoch: int
    shard: int
    row: int
    start: int
    num_tokens: int


class EpochRange(NamedTuple):
    """Tokens [start, start + num_tokens) of the sequence of an epoch."""

    epoch: int
    start: int
    num_tokens: int


class EpochOrder(NamedTuple):
    """Order of the shards of an epoch, and the starts of its blocks.

    Attributes:
        shards: Shard numbers, in order.
        block: Shards per block.
        starts: Number of tokens before each block; the last entry is the total.
    """

    shards: Integers
    block: int
    starts: Integers

    def block_shards(self, number: int) -> Integers:
        """The shards of a block."""
        return self.shards[number * self.block : (number + 1) * self.block]


class BlockOrder(NamedTuple):
    """Order of the documents of a block: shard, row and start within the block of each."""

    shard: Integers
    row: Integers
    starts: Integers


def epoch_order(shard_tokens: Integers, block: int, shuffle: bool, *key: int) -> EpochOrder:
    """The order of the shards of an epoch; `key` is seed, dataset and epoch."""
    num_shards = len(shard_tokens)
    shards = permutation(num_shards, _SHARDS, *key) if shuffle else np.arange(num_shards)
    tokens = np.add.reduceat(shard_tokens[shards], np.arange(0, num_shards, block))
    return EpochOrder(shards, block, np.concatenate([[0], np.cumsum(tokens)]))


def block_order(
    shards: Sequence[int], lengths: Sequence[Integers], shuffle: bool, *key: int
) -> BlockOrder:
    """The order of the documents of a block; `lengths` are their numbers of tokens, by shard."""
    counts = [len(rows) for rows in lengths]
    shard = np.repeat(np.asarray(shards, dtype=np.int64), counts)
    row = np.concatenate([np.arange(count) for count in counts])
    tokens = np.concatenate(list(lengths))
    if shuffle:
        order = permutation(len(row), _DOCUMENTS, *key)
        shard, row, tokens = shard[order], row[order], tokens[order]
    return BlockOrder(shard, row, np.concatenate([[0], np.cumsum(tokens)]))


def spans_of_block(
    order: BlockOrder, epoch: int, start: int, num_tokens: int
) -> list[DocumentSlice]:
    """The slices of documents that make up tokens [start, start + num_tokens) of a block."""
    spans = []
    number = int(order.starts.searchsorted(start, side="right")) - 1
    end = start + num_tokens
    while start < end:
        first, last = int(order.starts[number]), int(order.starts[number + 1])
        taken = min(last, end) - start
        if taken:
            shard, row = int(order.shard[number]), int(order.row[number])
            spans.append(DocumentSlice(epoch, shard, row, start - first, taken))
        start += taken
        number += 1
    return spans


def automatic_lanes(tokens: int, length: int) -> int:
    """Number of lanes that leaves each several windows, so that rows come from many places."""
    return min(max(tokens // (_WINDOWS_PER_LANE * length), 1), _MAX_AUTOMATIC_LANES)


def rows_read(history: History) -> int:
    """Number of rows read, over all window lengths."""
    return sum(rows for rows, _ in history)


def advance(history: History, rows: int, length: int) -> History:
    """A history with `rows` more rows."""
    if rows == 0:
        return history
    if history and history[-1][1] == length:
        return (*history[:-1], (history[-1][0] + rows, length))
    return (*history, (rows, length))


def lane_depth(history: History, lanes: int, lane: int) -> int:
    """Number of tokens read from a lane so far."""
    depth = first = 0
    for rows, length in history:
        # row numbers in [first, first + rows) that are `lane` modulo `lanes`
        taken = (first + rows - 1 - lane) // lanes - (first - 1 - lane) // lanes
        depth += taken * length
        first += rows
    return depth


def lane_stretches(
    tokens: int, lanes: int, lane: int, depth: int, num_tokens: int
) -> list[EpochRange]:
    """The ranges of epochs that hold `num_tokens` tokens of a lane, starting at `depth`.

    Lane l holds the tokens [l * N // L, (l + 1) * N // L) of every epoch, so an epoch's lanes
    hold each of its N tokens exactly once.
    """
    low, high = lane * tokens // lanes, (lane + 1) * tokens // lanes
    stretches = []
    while num_tokens:
        epoch, inside = divmod(depth, high - low)
        taken = min(num_tokens, high - low - inside)
        stretches.append(EpochRange(epoch, low + inside, taken))
        depth += taken
        num_tokens -= taken
    return stretches


def row_stretches(
    tokens: int, lanes: int, history: History, row: int, length: int
) -> list[EpochRange]:
    """The tokens of the row that comes `row` rows of this length after `history`."""
    history = advance(history, row, length)
    lane = rows_read(history) % lanes
    return lane_stretches(tokens, lanes, lane, lane_depth(history, lanes, lane), length)


def weight_at(schedule: Sequence[tuple[int, float]], step: int) -> float:
    """A weight, interpolated between (step, weight) corners; constant before and after them."""
    steps = [corner[0] for corner in schedule]
    return float(np.interp(step, steps, [corner[1] for corner in schedule]))


def choose_datasets(weights: Sequence[float], rows: int, *key: int) -> Integers:
    """The dataset of each row of a global step; `key` is seed and step.

    Systematic sampling: dataset d gets its share of the rows, rounded down or up, and its exact
    share on average over the steps.
    """
    if len(weights) == 1:
        return np.zeros(rows, dtype=np.int64)
    shares = np.cumsum(np.asarray(weights, dtype=np.float64))
    offset = (hash_integers(_OFFSET, *key) >> 11) * 2.0**-53
    points = (np.arange(rows) + offset) / rows * shares[-1]
    chosen = np.searchsorted(shares, points, side="right")
    # rounding may put the last point on the end of the last share
    last = int(np.flatnonzero(np.asarray(weights))[-1])
    chosen = np.minimum(chosen, last)
    return chosen[permutation(rows, _ROWS, *key)].astype(np.int64)
