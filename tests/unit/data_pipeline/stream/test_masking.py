"""Masked rows: a pure function of seed, step and row, at the rate that was asked for."""

import numpy as np
import pytest

from data_pipeline.stream.masking import Masking
from data_pipeline.stream.packing import IGNORED_LABEL, Windows, empty_windows

BOS, EOS, PAD, MASK, VOCAB = 300, 301, 302, 303, 300


def _masking(**changes: float) -> Masking:
    values = {"seed": 1, "rate": 0.3, "span": 1, "random": 0.1, "keep": 0.1}
    values |= {"mask_id": MASK, "vocab_size": VOCAB, "specials": (BOS, EOS, PAD)} | changes
    return Masking(**values)


def _rows(rows: int, length: int = 4_000) -> Windows:
    """Rows of documents of 50 tokens, BOS and EOS included, and padding at the end."""
    windows = empty_windows(rows, length, PAD)
    document = np.array([BOS, *range(48), EOS])
    for row in range(rows):
        for number in range(length // 50 - 1):
            place = slice(50 * number, 50 * (number + 1))
            windows.tokens[row, place] = document
            windows.segment_ids[row, place] = number
        windows.segment_ids[row, 50 * (number + 1) :] = number + 1
    return windows


def _masked(masking: Masking, rows: range, step: int = 7) -> Windows:
    windows = _rows(len(rows))
    masking.apply(windows, step, rows)
    return windows


def test_a_row_is_masked_alike_wherever_it_is_read() -> None:
    whole = _masked(_masking(), range(8))
    for first in (0, 4):
        part = _masked(_masking(), range(first, first + 4))
        np.testing.assert_array_equal(part.tokens, whole.tokens[first : first + 4])
        np.testing.assert_array_equal(part.labels, whole.labels[first : first + 4])
    for other in (_masked(_masking(), range(8), step=8), _masked(_masking(seed=2), range(8))):
        assert (other.tokens != whole.tokens).any()
    assert (whole.tokens[0] != whole.tokens[1]).any()


@pytest.mark.parametrize("span", [1, 3])
def test_shares_are_those_of_the_table(span: int) -> None:
    windows, before = _masked(_masking(span=span), range(20)), _rows(20)
    chosen = windows.labels != IGNORED_LABEL
    ordinary = before.tokens < VOCAB
    assert not chosen[~ordinary].any()
    # a span that begins near the end of a document is shorter, and tokens at the start have fewer
    # places before them where one may begin
    assert chosen[ordinary].mean() == pytest.approx(0.3, abs=0.015)
    np.testing.assert_array_equal(windows.labels[chosen], before.tokens[chosen])
    np.testing.assert_array_equal(windows.tokens[~chosen], before.tokens[~chosen])
    shown = windows.tokens[chosen]
    assert (shown == MASK).mean() == pytest.approx(0.8, abs=0.01)
    # a random token is the right one once in 300 times
    assert (shown == before.tokens[chosen]).mean() == pytest.approx(0.1, abs=0.01)


def test_spans_are_neighbours_and_end_with_their_document() -> None:
    windows = _masked(_masking(span=4, rate=0.1), range(20))
    chosen = (windows.labels != IGNORED_LABEL).reshape(20, -1, 50)
    runs = [
        len(run)
        for row in chosen.reshape(-1, 50)[:, 1:-1]
        for run in "".join("x" if token else " " for token in row[:-4]).split()
    ]
    # runs that end inside of the piece are whole spans, or longer where spans overlap
    assert np.mean([run >= 4 for run in runs]) > 0.85
    assert not chosen[:, -1].any()
