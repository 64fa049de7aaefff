"""The order of tokens: every token of an epoch exactly once, whatever is asked of it."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.stream.order import (
    DocumentSlice,
    History,
    advance,
    automatic_lanes,
    block_order,
    choose_datasets,
    epoch_order,
    lane_depth,
    permutation,
    row_stretches,
    rows_read,
    spans_of_block,
    weight_at,
)

# Documents' lengths, by shard.
SHARDS = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=5), min_size=1, max_size=7)
LENGTHS = st.integers(1, 40)

GOLDEN_PERMUTATION = [5, 7, 3, 1, 2, 4, 6, 9, 8, 0]
GOLDEN_CHOICE = [1, 0, 1, 1, 1, 1, 1, 0]


def read_spans(
    shards: Sequence[Sequence[int]], lanes: int, block: int, rows: Sequence[int]
) -> list[DocumentSlice]:
    """Read one row after another, each with its own window length."""
    lengths = [np.array(documents) for documents in shards]
    tokens = np.array([documents.sum() for documents in lengths])
    history: History = ()
    spans = []
    for length in rows:
        for stretch in row_stretches(int(tokens.sum()), lanes, history, 0, length):
            order = epoch_order(tokens, block, True, 7, stretch.epoch)
            start, end = stretch.start, stretch.start + stretch.num_tokens
            for number, (first, last) in enumerate(
                zip(order.starts[:-1].tolist(), order.starts[1:].tolist(), strict=True)
            ):
                low, high = max(start, first), min(end, last)
                if low < high:
                    chosen = order.block_shards(number).tolist()
                    documents = [lengths[shard] for shard in chosen]
                    inside = block_order(chosen, documents, True, 7, stretch.epoch, number)
                    spans += spans_of_block(inside, stretch.epoch, low - first, high - low)
        history = advance(history, 1, length)
    return spans


@given(
    SHARDS,
    st.integers(1, 6),
    st.integers(1, 3),
    st.lists(LENGTHS, min_size=1, max_size=3),
    st.integers(0, 20),
)
def test_every_token_of_an_epoch_comes_exactly_once(
    shards: list[list[int]], lanes: int, block: int, lengths: list[int], change: int
) -> None:
    total = sum(map(sum, shards))
    lanes = min(lanes, total)
    # Window lengths change on the way, at any row.
    rows = [lengths[0]] * change
    while sum(rows) < (total + max(lengths)) * lanes * 2:
        rows += [lengths[len(rows) % len(lengths)]] * 3
    seen: Counter[tuple[int, int, int, int]] = Counter()
    for span in read_spans(shards, lanes, block, rows):
        for token in range(span.start, span.start + span.num_tokens):
            seen[span.epoch, span.shard, span.row, token] += 1
    expected = {
        (0, shard, row, token)
        for shard, documents in enumerate(shards)
        for row, length in enumerate(documents)
        for token in range(length)
    }
    assert {place for place in seen if place[0] == 0} == expected
    assert set(seen.values()) == {1}


@given(st.integers(1, 7), st.lists(st.tuples(st.integers(1, 20), LENGTHS), max_size=4))
def test_lane_depth_equals_counting_row_by_row(lanes: int, segments: list[tuple[int, int]]) -> None:
    history: History = ()
    depths = [0] * lanes
    for rows, length in segments:
        for _ in range(rows):
            depths[rows_read(history) % lanes] += length
            history = advance(history, 1, length)
    assert [lane_depth(history, lanes, lane) for lane in range(lanes)] == depths


@given(st.integers(0, 30), st.integers(0, 30), LENGTHS)
def test_history_does_not_depend_on_where_a_run_was_interrupted(
    first: int, second: int, length: int
) -> None:
    split = advance(advance((), first, length), second, length)
    assert split == advance((), first + second, length)
    assert len(split) <= 1


@given(st.integers(0, 300), st.integers(0, 2**63), st.integers(0, 2**63))
def test_permutation_is_one_and_depends_on_its_key(size: int, seed: int, epoch: int) -> None:
    shuffled = permutation(size, seed, epoch)
    assert sorted(shuffled.tolist()) == list(range(size))
    assert shuffled.tolist() == permutation(size, seed, epoch).tolist()
    if size > 50:
        assert shuffled.tolist() != permutation(size, seed, epoch + 1).tolist()
        assert shuffled.tolist() != permutation(size, seed + 1, epoch).tolist()


def test_the_order_is_the_same_in_every_version() -> None:
    # Checkpoints rely on these: a change here makes runs resume with other data.
    assert permutation(10, 1, 2, 3).tolist() == GOLDEN_PERMUTATION
    assert choose_datasets([1.0, 3.0], 8, 5, 9).tolist() == GOLDEN_CHOICE


def test_permutations_are_uniform() -> None:
    counts = np.zeros((6, 6))
    for key in range(6000):
        counts[np.arange(6), permutation(6, key)] += 1
    # Each cell is binomial(6000, 1/6): a standard deviation is 29.
    assert np.abs(counts - 1000).max() < 5 * 29


@given(
    st.lists(st.integers(0, 100), min_size=1, max_size=5).filter(any),
    st.integers(1, 64),
    st.integers(0, 10**9),
)
def test_datasets_get_their_share_of_every_step(weights: list[int], rows: int, step: int) -> None:
    chosen = choose_datasets([float(weight) for weight in weights], rows, 3, step)
    for number, weight in enumerate(weights):
        share = rows * weight / sum(weights)
        assert abs(int((chosen == number).sum()) - share) < 1 + 1e-9
        if weight == 0:
            assert number not in chosen


def test_datasets_get_their_exact_share_over_many_steps() -> None:
    counts = np.zeros(3)
    for step in range(4000):
        counts += np.bincount(choose_datasets([0.7, 0.05, 0.25], 5, 0, step), minlength=3)
    # A dataset's count per step varies by less than one half: 4000 steps, five deviations.
    assert np.abs(counts / 4000 - 5 * np.array([0.7, 0.05, 0.25])).max() < 5 * 0.5 / 4000**0.5


def test_weights_change_linearly_between_their_corners() -> None:
    corners = [(100, 1.0), (300, 3.0)]
    weights = [weight_at(corners, step) for step in (0, 100, 200, 300, 400)]
    assert weights == [1.0, 1.0, 2.0, 3.0, 3.0]


def test_long_windows_get_fewer_lanes() -> None:
    assert automatic_lanes(3_000_000, 512) == 64
    assert automatic_lanes(3_000_000, 65_536) == 5
    assert automatic_lanes(3_000_000, 204_800) == 1
    assert automatic_lanes(10, 512) == 1
