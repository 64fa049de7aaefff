"""The span of a sequence that a model is given, and how its layers reach what lies outside of it.

On a single device the span is the whole sequence. Sequence parallelism gives each rank its own span
and an object of another subclass.

Shape letters: B batch, T time (tokens), J chunk, C time inside a chunk, N independent decays, F
features that share a decay, D channels, W tokens before the span, R rows (batch times chunks).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from kernels.state_scan.op import state_scan


class Carry(NamedTuple):
    """An exchange of states that is under way, like torch's `Work`.

    Attributes:
        wait: Gives (incoming_BJNF, the state before each chunk; final_BNF, the one after the span).
    """

    wait: Callable[[], tuple[Tensor, Tensor]]


class Span:
    """A whole sequence."""

    def position(self, length: int) -> int:  # noqa: ARG002
        """Tokens of the sequence before this span of `length` tokens."""
        return 0

    def start_carry(self, decay_BJN: Tensor, update_BJNF: Tensor, initial_BNF: Tensor) -> Carry:
        """Start to carry states from chunk to chunk; compute what else there is before `wait`.

        Args:
            decay_BJN: Total decay of each chunk, zero where a document begins.
            update_BJNF: Final state of each chunk, computed from a zero state.
            initial_BNF: State before the sequence.
        """
        return Carry(lambda: state_scan(decay_BJN, update_BJNF, initial_BNF))

    def before(self, x_BTD: Tensor, width: int) -> Tensor | None:  # noqa: ARG002
        """The `width` tokens' values before the span [B, W, D]; None at the sequence's beginning.

        Raises:
            ValueError: Spans are shorter than that.
        """
        return None

    def total(self, part: Tensor) -> Tensor:
        """The sum of what each span contributes."""
        return part

    def uniform(self, like_R: Tensor, batch: int) -> Tensor:  # noqa: ARG002
        """Random numbers in [0, 1) of that shape for chunks' rows: the same in every layout."""
        # not rand_like: it draws in the order in which a tensor happens to lie in memory
        return torch.rand(like_R.shape, dtype=like_R.dtype, device=like_R.device)


WHOLE = Span()
