"""The state of a model as a cache of transformers.

Shape letters: B rows of the batch, R rows of a group.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from spectral.backbone import LMState


class RowGroup(NamedTuple):
    """Rows with equally many tokens so far, and their state.

    Attributes:
        row_R: Indices of the rows in the batch.
        state: State after their tokens; None at the beginning.
    """

    row_R: Tensor
    state: LMState | None


class RecurrentCache:
    """The model's state after the tokens so far; its size does not depend on their number.

    A step makes a new cache and leaves the old one as it was.

    Attributes:
        groups: The rows of the batch, each in one group.
        num_columns: Columns of the batch so far, padding included.
    """

    is_compileable = False

    def __init__(self, groups: list[RowGroup], num_columns: int):
        self.groups, self.num_columns = groups, num_columns

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of columns so far, the same in every layer."""
        del layer_idx
        return self.num_columns

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Give row i the state of row beam_idx[i]."""
        groups = []
        for row_R, state in self.groups:
            index_RB = row_R[:, None] == beam_idx
            place_R, new_row_R = index_RB.nonzero(as_tuple=True)
            if len(new_row_R):
                groups.append(RowGroup(new_row_R, _rows(state, place_R)))
        self.groups = groups

    def split(self, count_B: Tensor | None) -> "list[tuple[RowGroup, int | None]]":
        """Groups of rows with equally many tokens before and now, and the number of tokens now.

        Args:
            count_B: Number of new tokens of each row; None: all of them, for which the number is
                None.
        """
        if count_B is None:
            return [(group, None) for group in self.groups]
        parts: list[tuple[RowGroup, int | None]] = []
        for row_R, state in self.groups:
            for count in count_B[row_R].unique().tolist():
                place_R = (count_B[row_R] == count).nonzero()[:, 0]
                parts.append((RowGroup(row_R[place_R], _rows(state, place_R)), count))
        return parts


def _rows(state: LMState | None, place_R: Tensor) -> LMState | None:
    if state is None:
        return None
    layers = tree_map(lambda tensor: tensor.index_select(0, place_R), state.layers)
    return LMState(state.position, layers)


def whole_batch(batch: int, state: LMState | None, device: torch.device) -> list[RowGroup]:
    """One group of all rows."""
    return [RowGroup(torch.arange(batch, device=device), state)]
