"""Greedy decoding by the recurrent form: the definition that exported models are compared with."""

from collections.abc import Iterator

import torch
from torch import Tensor

from spectral.lm import SpectralLM


@torch.no_grad()
def greedy_tokens(model: SpectralLM, tokens_BT: Tensor) -> Iterator[Tensor]:
    """Yield the likeliest next tokens [B], endlessly, by the recurrent form.

    The definition that exported models are compared with: no library in between.

    Args:
        model: In evaluation mode.
        tokens_BT: Prompts of equal length, at least one token.
    """
    logits_BTV, state = model.prefill(tokens_BT, num_logits=1)
    token_B = logits_BTV[:, -1].argmax(-1)
    while True:
        yield token_B
        logits_BV, state = model.step(token_B, state)
        token_B = logits_BV.argmax(-1)
