"""Interpolated n-grams: against the formula, written out."""

from collections import Counter

import numpy as np
import pytest

from pretrain.evaluation.ngram import NgramModel

VOCAB = 5
TRAIN = [np.array([0, 1, 2, 1, 2, 3]), np.array([0, 2, 1]), np.array([0, 1, 1, 1])]


def _probability(context: tuple[int, ...], token: int) -> float:
    """Witten-Bell by counting, from the definition."""
    order = len(context)
    counts: Counter[tuple[int, ...]] = Counter()
    for document in TRAIN:
        tokens = tuple(int(t) for t in document)
        # BOS is given, never predicted
        for place in range(max(1, order), len(tokens)):
            counts[tokens[place - order : place + 1]] += 1
    shorter = 1.0 / VOCAB if order == 0 else _probability(context[1:], token)
    seen = {gram: n for gram, n in counts.items() if gram[:-1] == context}
    if not seen:
        return shorter
    return (seen.get((*context, token), 0) + len(seen) * shorter) / (sum(seen.values()) + len(seen))


def test_losses_equal_the_definition() -> None:
    document = np.array([0, 1, 2, 4, 4, 1, 1, 3])
    losses = NgramModel(TRAIN, VOCAB).loss([document])
    for order in (1, 2, 3):
        expected = 0.0
        for place in range(1, len(document)):
            context = tuple(int(t) for t in document[max(0, place - order + 1) : place])
            expected -= np.log(_probability(context, int(document[place])))
        assert losses[order - 1] == pytest.approx(expected)


@pytest.mark.parametrize("context", [(0,), (0, 1), (0, 1, 2), (4, 4, 4)])
def test_probabilities_sum_to_one(context: tuple[int, ...]) -> None:
    model = NgramModel(TRAIN, VOCAB)
    before = model.loss([np.array(context)])
    totals = np.zeros(3)
    for token in range(VOCAB):
        after = model.loss([np.array([*context, token])])
        totals += np.exp(np.array(before) - np.array(after))
    assert totals == pytest.approx(1.0)


def test_a_vocabulary_too_large_for_the_order_is_refused() -> None:
    with pytest.raises(ValueError, match="order 3 over 3000000 tokens do not fit"):
        NgramModel(TRAIN, 3_000_000)
