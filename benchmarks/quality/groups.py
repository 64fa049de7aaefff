"""State tracking: the product of a group's elements so far, to be named after every token.

Source: groups as tests of linear recurrences (Grazzi et al. 2024, arXiv 2411.12537).

Shape letters: B batch, T time (tokens), G elements of a group.
"""

import itertools

import torch
from torch import Tensor

VOCAB_SIZE = 16
PERMUTATIONS = list(itertools.permutations(range(3)))


def cyclic(size: int) -> Tensor:
    """The sum of two numbers modulo `size`: [G, G]."""
    return (torch.arange(size)[:, None] + torch.arange(size)) % size


def symmetric() -> Tensor:
    """The permutation that applies the second of two permutations after the first: [G, G]."""
    products = [
        [PERMUTATIONS.index(tuple(second[i] for i in first)) for second in PERMUTATIONS]
        for first in PERMUTATIONS
    ]
    return torch.tensor(products)


# name -> product of a state and a token, both numbers of elements
GROUPS = {"parity": cyclic(2), "sum modulo 3": cyclic(3), "S3": symmetric()}


def examples(group: str, batch: int, length: int, seed: int) -> tuple[Tensor, Tensor]:
    """(tokens_BT, the state after each token [B, T]); every state begins at element 0."""
    table_GG = GROUPS[group]
    random = torch.Generator().manual_seed(seed)
    tokens_BT = torch.randint(len(table_GG), (batch, length), generator=random)
    state_B, states = torch.zeros(batch, dtype=torch.long), []
    for token_B in tokens_BT.unbind(1):
        state_B = table_GG[state_B, token_B]
        states.append(state_B)
    return tokens_BT, torch.stack(states, dim=1)
