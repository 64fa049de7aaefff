"""Interpolated n-gram baselines: the losses that a model must beat to have learned anything.

Shape letters: N tokens, U distinct contexts, P distinct (context, token) pairs.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class NgramModel:
    """Unigram, bigram and trigram with Witten-Bell interpolation.

        p(w | c) = (count(c, w) + types(c) p(w | shorter c)) / (count(c) + types(c))

    down to the uniform distribution, so every token has a probability and they sum to one. A
    context never crosses a document: it is shorter at the beginning.

    Source: Witten and Bell 1991; Chen and Goodman 1998 for the interpolated form.
    """

    def __init__(self, documents: Iterable[Ints], vocab_size: int, max_order: int = 3):
        """Count n-grams.

        Args:
            documents: Token ids of each document, BOS first. BOS is given, never predicted.
            vocab_size: Number of token ids.
            max_order: Longest n-gram; vocab_size^max_order must fit an int64.

        Raises:
            ValueError: The n-grams cannot be numbered with 63 bits.
        """
        if vocab_size**max_order >= 2**63:
            raise ValueError(
                f"n-grams of order {max_order} over {vocab_size} tokens do not fit 63 bits"
            )
        self.vocab_size, self.max_order = vocab_size, max_order
        documents = list(documents)
        self._tables = [self._count(documents, order) for order in range(1, max_order + 1)]

    def loss(self, documents: Iterable[Ints]) -> list[float]:
        """Sums of negative log-likelihoods in nats, for each order from 1.

        Every token but a document's first is predicted.
        """
        totals = [0.0] * self.max_order
        for document in documents:
            probability = np.full(len(document) - 1, 1.0 / self.vocab_size)
            for order in range(1, self.max_order + 1):
                # the first tokens of a document keep their shorter context
                known = max(0, order - 2)
                context, token = self._split(document, order)
                refined = self._interpolate(order, context, token, probability[known:])
                probability = np.concatenate([probability[:known], refined])
                totals[order - 1] -= float(np.log(probability).sum())
        return totals

    def _split(self, document: Ints, order: int) -> tuple[Ints, Ints]:
        """Context number and token of each prediction that has order - 1 tokens before it."""
        first = max(1, order - 1)
        token = document[first:]
        context = np.zeros(len(token), dtype=np.int64)
        for back in range(order - 1, 0, -1):
            context = context * self.vocab_size + document[first - back : len(document) - back]
        return context, token

    def _count(self, documents: list[Ints], order: int) -> tuple[Ints, Ints, Ints, Ints, Ints]:
        pairs = [
            context * self.vocab_size + token
            for context, token in (self._split(document, order) for document in documents)
        ]
        pair_P, count_P = np.unique(np.concatenate(pairs), return_counts=True)
        context_U, first_U, types_U = np.unique(
            pair_P // self.vocab_size, return_index=True, return_counts=True
        )
        return pair_P, count_P, context_U, np.add.reduceat(count_P, first_U), types_U

    def _interpolate(self, order: int, context: Ints, token: Ints, shorter: Floats) -> Floats:
        pair_P, count_P, context_U, total_U, types_U = self._tables[order - 1]
        count = _look_up(context * self.vocab_size + token, pair_P, count_P)
        total = _look_up(context, context_U, total_U)
        types = _look_up(context, context_U, types_U)
        is_known = total > 0
        mixed = (count + types * shorter) / np.where(is_known, total + types, 1)
        return np.where(is_known, mixed, shorter)


def _look_up(keys: Ints, sorted_keys: Ints, values: Ints) -> Ints:
    """Values of keys in a sorted table; 0 for missing keys."""
    place = np.searchsorted(sorted_keys, keys).clip(max=len(sorted_keys) - 1)
    return np.where(sorted_keys[place] == keys, values[place], 0)
