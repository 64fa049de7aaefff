"""Amounts of the data benchmark, and the best of alternating rounds."""

import gc
from collections.abc import Callable
from typing import NamedTuple


class Sizes(NamedTuple):
    """Amounts of all measurements.

    Attributes:
        text_bytes: Bytes of text that are tokenized.
        vocab_size: Pieces of the tokenizer.
        rounds: Rounds of which the best counts.
        length: Tokens per window.
        rows: Windows per step.
        read_tokens: Tokens that are read per round.
        resume_shards: Shards of the data set that is resumed.
        resume_tokens: Tokens read before.
    """

    text_bytes: int
    vocab_size: int
    rounds: int
    length: int
    rows: int
    read_tokens: int
    resume_shards: int
    resume_tokens: int


FULL = Sizes(16_000_000, 4_096, 3, 2_048, 16, 12_000_000, 100_000, 10**9)
QUICK = Sizes(300_000, 512, 1, 128, 4, 20_000, 100, 10**6)


def best(rounds: int, *sides: Callable[[], float]) -> list[float]:
    """The best figure of each side; sides take turns."""
    figures: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for side, side_figures in zip(sides, figures, strict=True):
            gc.collect()
            side_figures.append(side())
    return [max(side_figures) for side_figures in figures]
