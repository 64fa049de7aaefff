"""Multi-query associative recall: key-value pairs, then keys whose values are to be named.

Source: Arora et al. 2023, Zoology (arXiv 2312.04927), `multiquery_ar` with its defaults: vocabulary
8,192, power-law gaps (exponent 0.01), random tokens between the queries.

Shape letters: B batch, T time (tokens), P pairs.
"""

import numpy as np
import torch
from torch import Tensor

VOCAB_SIZE = 8_192
POWER = 0.01
IGNORED = -100


def examples(batch: int, length: int, num_pairs: int, seed: int) -> tuple[Tensor, Tensor]:
    """(tokens_BT, labels_BT); a label is the value of the key at its place, IGNORED elsewhere.

    Raises:
        ValueError: The pairs and one query for each do not fit into the length.
    """
    if 4 * num_pairs > length or length % 2:
        raise ValueError(
            f"length must be even and at least 4 * num_pairs, got {length} and {num_pairs}"
        )
    generator = np.random.default_rng(seed)
    context = 2 * num_pairs
    places = (length - context) // 2
    gap_weight = POWER * np.arange(1, places + 1) ** (POWER - 1.0)
    gap_weight = gap_weight / gap_weight.sum()
    tokens = np.zeros((batch, length + 1), dtype=np.int64)
    labels = np.full((batch, length + 1), IGNORED, dtype=np.int64)
    for row in range(batch):
        keys = 1 + generator.choice(VOCAB_SIZE // 2 - 1, num_pairs, replace=False)
        values = VOCAB_SIZE // 2 + generator.choice(VOCAB_SIZE // 2, num_pairs, replace=False)
        tokens[row, 0:context:2], tokens[row, 1:context:2] = keys, values
        gaps = generator.choice(places, num_pairs, replace=False, p=gap_weight)
        tokens[row, context + 2 * gaps] = keys
        labels[row, context + 2 * gaps + 1] = values
    empty = tokens == 0
    tokens[empty] = generator.integers(0, VOCAB_SIZE, size=int(empty.sum()))
    return torch.from_numpy(tokens[:, :-1]), torch.from_numpy(labels[:, 1:])
