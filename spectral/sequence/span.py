"""Span of a sequence that a model is given, and the layers' access to the rest of the sequence.

On a single device the span is the whole sequence. Sequence parallelism gives each rank its own span
and an object of another subclass.

Shape letters: B batch, T time (tokens), J chunk, C time inside a chunk, N independent decays, F
features that share a decay, H heads, K rows and V columns of a state, D channels, W tokens before
the span, R rows (batch times chunks).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from kernels.matrix_scan.op import matrix_scan
from kernels.state_scan.op import state_scan


class Carry(NamedTuple):
    """Exchange of states that is under way, like torch's `Work`.

    Attributes:
        wait: Function that completes it and returns the state before each chunk and the one after
            the span.
    """

    wait: Callable[[], tuple[Tensor, Tensor]]


class Span:
    """A whole sequence."""

    def position(self, length: int) -> int:  # noqa: ARG002
        """Tokens of the sequence before this span of `length` tokens."""
        return 0

    def reversed(self) -> "Span":
        """This span in the sequence that is read backwards: what came after it comes before."""
        return self

    def start_carry(self, decay_BJN: Tensor, update_BJNF: Tensor, initial_BNF: Tensor) -> Carry:
        """Start to carry states from chunk to chunk; the caller may compute until it waits.

        Args:
            decay_BJN: Total decay of each chunk, zero where a document begins.
            update_BJNF: Final state of each chunk, computed from a zero state.
            initial_BNF: State before the sequence.

        Returns:
            A carry of (incoming_BJNF, final_BNF).
        """
        return Carry(lambda: state_scan(decay_BJN, update_BJNF, initial_BNF))

    def start_matrix_carry(
        self, transition_BJHKK: Tensor, update_BJHKV: Tensor, initial_BHKV: Tensor
    ) -> Carry:
        """`start_carry` of states that every chunk multiplies by a matrix.

        Args:
            transition_BJHKK: Matrix of each chunk, zero where a document begins.
            update_BJHKV: Final state of each chunk, computed from a zero state.
            initial_BHKV: State before the sequence.

        Returns:
            A carry of (incoming_BJHKV, final_BHKV).
        """
        return Carry(lambda: matrix_scan(transition_BJHKK, update_BJHKV, initial_BHKV))

    def before(self, x_BTD: Tensor, width: int) -> Tensor | None:  # noqa: ARG002
        """Values of the `width` tokens before the span [B, W, D]; None if it is the first.

        Raises:
            ValueError: Spans are shorter than `width`.
        """
        return None

    def total(self, part: Tensor) -> Tensor:
        """Sum of the parts of all spans."""
        return part

    def largest(self, part: Tensor) -> Tensor:
        """Elementwise maximum of the parts of all spans."""
        return part

    def num_documents(self, segment_ids_BT: Tensor) -> int:
        """Largest number of documents in a row, padding included."""
        return int(segment_ids_BT.max()) + 1

    def uniform(self, like_R: Tensor, batch: int) -> Tensor:  # noqa: ARG002
        """Random numbers in [0, 1) for rows of chunks: the same in every layout."""
        # not rand_like: it draws in the order of the tensor's memory
        return torch.rand(like_R.shape, dtype=like_R.dtype, device=like_R.device)


WHOLE = Span()
