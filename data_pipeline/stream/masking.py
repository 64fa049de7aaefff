"""Masked tokens as a pure function of seed, step and row: equal for any ranks and workers."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipeline.stream.order import hash_integers, hashed_range
from data_pipeline.stream.packing import IGNORED_LABEL, Windows

# streams of random numbers of a row
_SPANS, _CHOICES, _TOKENS = range(3)


class Masking(NamedTuple):
    """Rule by which tokens are hidden, to be predicted from what is around them.

    Attributes:
        seed: Seed of the choice.
        rate: Share of the tokens that are predicted, of those that are no BOS, EOS or padding.
        span: Neighbouring tokens that are chosen together; fewer at the end of a document.
        random: Share of the chosen that become a random token.
        keep: Share of the chosen that stay as they are. All others become the mask.
        mask_id: Id of the mask.
        vocab_size: Ids below it are random tokens.
        specials: Ids that are never chosen.
    """

    seed: int
    rate: float
    span: int
    random: float
    keep: float
    mask_id: int
    vocab_size: int
    specials: tuple[int, ...]

    def apply(self, windows: Windows, step: int, rows: Sequence[int]) -> None:
        """Mask windows in place; their labels become the tokens that are hidden.

        Args:
            windows: Rows of packed tokens.
            step: Global step, or -1 for a held-out split.
            rows: Number of each row within the step, or within the split.
        """
        for place, row in enumerate(rows):
            self._mask_row(
                windows.tokens[place],
                windows.labels[place],
                windows.segment_ids[place],
                hash_integers(self.seed, step + 1, row),
            )

    def _mask_row(
        self,
        tokens: npt.NDArray[np.int64],
        labels: npt.NDArray[np.int64],
        segments: npt.NDArray[np.int64],
        key: int,
    ) -> None:
        size = len(tokens)
        place = np.arange(size)
        # a token is free with this chance if each of `span` tokens may begin a masked span
        begins = _uniform(size, key, _SPANS) >= (1.0 - self.rate) ** (1.0 / self.span)
        last = np.maximum.accumulate(np.where(begins, place, -1))
        chosen = (last >= 0) & (place - last < self.span) & (segments == segments[last])
        chosen &= ~np.isin(tokens, self.specials)
        labels[:] = np.where(chosen, tokens, IGNORED_LABEL)
        choice = _uniform(size, key, _CHOICES)
        drawn = (_uniform(size, key, _TOKENS) * self.vocab_size).astype(np.int64)
        shown = np.where(choice < self.random, drawn, self.mask_id)
        shown = np.where(choice >= 1.0 - self.keep, tokens, shown)
        tokens[:] = np.where(chosen, shown, tokens)


def _uniform(size: int, key: int, stream: int) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1), a function of the arguments."""
    return (hashed_range(size, key, stream) >> np.uint64(11)).astype(np.float64) * 2.0**-53
