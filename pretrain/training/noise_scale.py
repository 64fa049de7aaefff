"""The gradient noise scale: the number of tokens at which a larger batch stops to pay.

A gradient over B tokens is the true one, G, plus noise of variance tr(S) / B. Both tr(S) and |G|^2
follow from the norms of the gradients of single micro-batches and of the whole step. Their quotient
is the noise scale: smaller steps are nearly as good per token, much larger ones waste tokens.

Source: McCandlish et al. 2018, An Empirical Model of Large-Batch Training (arXiv 1812.06162),
appendix A.1.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.monitoring.jsonl import Record
from pretrain.runtime.ranks import summed

# of the means of both estimates, over measured steps: single ones are noisy
DECAY = 0.9


class NoiseScale:
    """Measures every n-th step.

    State, kept in checkpoints: the means of both estimates, and the number of measured steps.

    Args:
        every: Steps between measurements; 0 for none.
        parameters: Parameters of the model on this rank, which has all of it.
    """

    def __init__(self, every: int, parameters: Iterable[nn.Parameter]):
        self._every = every
        self._is_measured = False
        self._square: Tensor | None = None
        self._squares: list[tuple[Tensor, int]] = []
        self._means, self._count = [0.0, 0.0], 0
        if every:
            for parameter in parameters:
                parameter.register_hook(self._add)

    def _add(self, grad: Tensor) -> None:
        if self._is_measured:
            square = grad.detach().float().square().sum()
            self._square = square if self._square is None else self._square + square

    def begin(self, step: int) -> None:
        """Start the passes of a step, counted from 1; those of an earlier attempt are forgotten."""
        self._is_measured = self._every > 0 and step % self._every == 0
        self._square, self._squares = None, []

    def end_pass(self, num_labels: int) -> None:
        """Close the backward pass of a micro-batch with this number of predicted tokens."""
        if self._square is not None and num_labels:
            self._squares.append((self._square, num_labels))
        self._square = None

    def record(self, norm: float, num_labels: float, ranks: int, device: torch.device) -> Record:
        """The figures of a measured step, empty for others; a collective.

        Args:
            norm: Norm of the whole gradient, of the mean loss over all tokens.
            num_labels: Predicted tokens of the step.
            ranks: Ranks whose gradients are averaged.
            device: Device of the collective.
        """
        if not self._is_measured:
            return {}
        # the gradient of a micro-batch's own mean loss
        squares = sum(
            float(square) * (num_labels / (ranks * count)) ** 2 for square, count in self._squares
        )
        counts = sum(count for _, count in self._squares)
        total, labels, passes = summed([squares, float(counts), float(len(self._squares))], device)
        if passes < 2:
            return {}
        small, large = labels / passes, num_labels
        small_square, large_square = total / passes, norm**2
        variance = (small_square - large_square) / (1.0 / small - 1.0 / large)
        signal = (large * large_square - small * small_square) / (large - small)
        self._count += 1
        self._means = [
            DECAY * mean + (1.0 - DECAY) * value
            for mean, value in zip(self._means, (variance, signal), strict=True)
        ]
        variance, signal = (mean / (1.0 - DECAY**self._count) for mean in self._means)
        figures = {"gradient_variance": variance, "gradient_signal": signal}
        return figures | ({"noise_scale": variance / signal} if signal > 0.0 else {})

    def state_dict(self) -> dict[str, Any]:
        """State as JSON-able numbers; empty if nothing is measured."""
        return {"means": self._means, "count": self._count} if self._every else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state; one that is empty changes nothing."""
        if state and self._every:
            self._means, self._count = list(map(float, state["means"])), int(state["count"])
