"""Greedy decoding by the recurrent form: the definition that exported models are compared with."""

from collections.abc import Iterator

import torch
from torch import Tensor

from spectral.lm import SpectralLM


@torch.no_grad()
def greedy_tokens(
    model: SpectralLM, tokens_BT: Tensor, num_ids: int | None = None
) -> Iterator[Tensor]:
    """The likeliest next tokens [B], endlessly, by the recurrent form.

    Exported models are compared with this definition, which uses no generation library.

    Args:
        model: Model in evaluation mode.
        tokens_BT: Prompts of equal length, at least one token.
        num_ids: Ids from this on stand for nothing and are never chosen; None for none.
    """
    logits_BTV, state = model.prefill(tokens_BT, num_logits=1)
    token_B = logits_BTV[:, -1, :num_ids].argmax(-1)
    while True:
        yield token_B
        logits_BV, state = model.step(token_B, state)
        token_B = logits_BV[:, :num_ids].argmax(-1)
