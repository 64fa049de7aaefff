"""The order of training data: pure functions of integers, with no notion of ranks or workers.

An *epoch* of a dataset is one sequence of all its tokens. Its shards are shuffled; consecutive
shards form *blocks*, and the documents of a block are shuffled together. The sequence is cut into
*lanes*, equal stretches that are read side by side, so that the rows of a batch come from distant
places. Row n of a dataset reads lane n mod L; a lane goes on into its own stretch of the next
epoch. So row n's tokens follow from n alone, by arithmetic and two binary searches.

Only integer hashing is used: numpy's generators may change their streams between versions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
# (rows, length): so many rows were read with windows of that length. In the order of reading.
History = tuple[tuple[int, int], ...]

# What a permutation is for: equal integers must not give equal orders elsewhere.
_SHARDS, _DOCUMENTS, _OFFSET, _ROWS = range(4)

_GOLDEN = 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1
_MAX_AUTOMATIC_LANES = 64
_WINDOWS_PER_LANE = 8


def _splitmix(key: int) -> int:
    """Mix a 64-bit integer (Steele et al. 2014): a bijection that looks random."""
    key = (key ^ (key >> 30)) * 0xBF58476D1CE4E5B9 & _WORD
    key = (key ^ (key >> 27)) * 0x94D049BB133111EB & _WORD
    return key ^ (key >> 31)


def _splitmix_array(keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))


def hash_integers(*values: int) -> int:
    """Return 64 bits that depend on all of the values and on their order."""
    state = 0
    for value in values:
        state = _splitmix((state + (value + 1) * _GOLDEN) & _WORD)
    return state


def permutation(size: int, *key: int) -> Integers:
    """Return a shuffled arange(size), a function of `key`."""
    start = np.uint64(hash_integers(*key))
    numbers = np.arange(size, dtype=np.uint64) * np.uint64(_GOLDEN) + start
    return np.argsort(_splitmix_array(numbers), kind="stable")


@dataclass(frozen=True)
class DocumentSlice:
    """Consecutive tokens of one document: tokens [start, start + count) of a row of a shard."""

    epoch: int
    shard: int
    row: int
    start: int
    count: int


@dataclass(frozen=True)
class EpochRange:
    """Consecutive tokens of one epoch: [start, start + count) of its sequence."""

    epoch: int
    start: int
    count: int


@dataclass(frozen=True)
class EpochOrder:
    """The shards of one epoch in their order, and where each block starts.

    Attributes:
        shards: Shard numbers, in order.
        block: Shards per block.
        starts: Tokens in front of each block, and at last all tokens.
    """

    shards: Integers
    block: int
    starts: Integers

    def block_shards(self, number: int) -> Integers:
        """Return the shards of a block."""
        return self.shards[number * self.block : (number + 1) * self.block]


@dataclass(frozen=True)
class BlockOrder:
    """The documents of a block in their order: shard, row, and where each starts in the block."""

    shard: Integers
    row: Integers
    starts: Integers


def epoch_order(shard_tokens: Integers, block: int, shuffle: bool, *key: int) -> EpochOrder:
    """Order the shards of an epoch; `key` names seed, dataset and epoch."""
    num_shards = len(shard_tokens)
    shards = permutation(num_shards, _SHARDS, *key) if shuffle else np.arange(num_shards)
    tokens = np.add.reduceat(shard_tokens[shards], np.arange(0, num_shards, block))
    return EpochOrder(shards, block, np.concatenate([[0], np.cumsum(tokens)]))


def block_order(
    shards: Sequence[int], lengths: Sequence[Integers], shuffle: bool, *key: int
) -> BlockOrder:
    """Order the documents of a block; `lengths` are their tokens, by shard."""
    counts = [len(rows) for rows in lengths]
    shard = np.repeat(np.asarray(shards, dtype=np.int64), counts)
    row = np.concatenate([np.arange(count) for count in counts])
    tokens = np.concatenate(list(lengths))
    if shuffle:
        order = permutation(len(row), _DOCUMENTS, *key)
        shard, row, tokens = shard[order], row[order], tokens[order]
    return BlockOrder(shard, row, np.concatenate([[0], np.cumsum(tokens)]))


def spans_of_block(order: BlockOrder, epoch: int, start: int, count: int) -> list[DocumentSlice]:
    """Return the documents' pieces that make up tokens [start, start + count) of a block."""
    spans = []
    number = int(order.starts.searchsorted(start, side="right")) - 1
    end = start + count
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
    """Return as many lanes as leave each several windows, so that rows come from many places."""
    return min(max(tokens // (_WINDOWS_PER_LANE * length), 1), _MAX_AUTOMATIC_LANES)


def rows_read(history: History) -> int:
    """Return the number of rows of all window lengths."""
    return sum(rows for rows, _ in history)


def advance(history: History, rows: int, length: int) -> History:
    """Add rows to a history."""
    if rows == 0:
        return history
    if history and history[-1][1] == length:
        return (*history[:-1], (history[-1][0] + rows, length))
    return (*history, (rows, length))


def lane_depth(history: History, lanes: int, lane: int) -> int:
    """Return how many tokens a lane has given so far."""
    depth = first = 0
    for rows, length in history:
        # Row numbers in [first, first + rows) that are `lane` modulo `lanes`.
        taken = (first + rows - 1 - lane) // lanes - (first - 1 - lane) // lanes
        depth += taken * length
        first += rows
    return depth


def lane_stretches(tokens: int, lanes: int, lane: int, depth: int, count: int) -> list[EpochRange]:
    """Return where `count` tokens of a lane are, from `depth` on.

    Lane l holds the tokens [l * N // L, (l + 1) * N // L) of every epoch, so an epoch's lanes
    hold each of its N tokens exactly once.
    """
    low, high = lane * tokens // lanes, (lane + 1) * tokens // lanes
    stretches = []
    while count:
        epoch, inside = divmod(depth, high - low)
        taken = min(count, high - low - inside)
        stretches.append(EpochRange(epoch, low + inside, taken))
        depth += taken
        count -= taken
    return stretches


def row_stretches(
    tokens: int, lanes: int, history: History, row: int, length: int
) -> list[EpochRange]:
    """Return the tokens of the row that comes `row` rows of this length after `history`."""
    history = advance(history, row, length)
    lane = rows_read(history) % lanes
    return lane_stretches(tokens, lanes, lane, lane_depth(history, lanes, lane), length)


def weight_at(schedule: Sequence[tuple[int, float]], step: int) -> float:
    """Interpolate a weight between (step, weight) corners; constant before and after them."""
    steps = [corner[0] for corner in schedule]
    return float(np.interp(step, steps, [corner[1] for corner in schedule]))


def choose_datasets(weights: Sequence[float], rows: int, *key: int) -> Integers:
    """Choose a dataset for each row of a global step; `key` names seed and step.

    Systematic sampling: dataset d gets its share of the rows, rounded down or up, and its exact
    share on average over the steps.
    """
    if len(weights) == 1:
        return np.zeros(rows, dtype=np.int64)
    shares = np.cumsum(np.asarray(weights, dtype=np.float64))
    offset = (hash_integers(_OFFSET, *key) >> 11) * 2.0**-53
    points = (np.arange(rows) + offset) / rows * shares[-1]
    chosen = np.searchsorted(shares, points, side="right")
    # Rounding may put the last point on the end of the last share.
    last = int(np.flatnonzero(np.asarray(weights))[-1])
    chosen = np.minimum(chosen, last)
    return chosen[permutation(rows, _ROWS, *key)].astype(np.int64)
