"""The span of a sequence that a model is given, and how its layers reach what lies outside of it.

On one device the span is the whole sequence. Sequence parallelism gives each rank a span of its own
and another subclass's object, and no layer knows the difference.

Shape letters: B batch, T time (tokens), J chunk, C time inside a chunk, N independent decays, F
features that share a decay, D channels, W tokens before the span, R rows (batch times chunks).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from kernels.state_scan.op import state_scan

# gives (incoming_BJNF, final_BNF) when it is called
Carried = Callable[[], tuple[Tensor, Tensor]]


class Span:
    """A whole sequence."""

    def position(self, length: int) -> int:  # noqa: ARG002
        """Tokens of the sequence before this span of `length` tokens."""
        return 0

    def carry(self, decay_BJN: Tensor, update_BJNF: Tensor, initial_BNF: Tensor) -> Carried:
        """Begin to carry states from chunk to chunk; what can be done meanwhile may be.

        Args:
            decay_BJN: Total decay of each chunk, zero where a document begins.
            update_BJNF: End state of each chunk that begins from zero.
            initial_BNF: State before the sequence.

        Returns:
            A function that gives the state before each chunk and the one after the span.
        """
        return lambda: state_scan(decay_BJN, update_BJNF, initial_BNF)

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
