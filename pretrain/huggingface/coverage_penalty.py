"""A coverage penalty without attention: a token costs more, the more often it was generated.

Shape letters: B rows, T time (tokens), V vocabulary.
"""

import torch
from torch import Tensor
from transformers import LogitsProcessor


class CoveragePenalty(LogitsProcessor):
    """Subtract penalty * log(1 + count) from a token's score.

    Wu et al. 2016 (arXiv 1609.08144) ask that every source position be covered by attention once;
    what is covered here is the vocabulary, by the tokens after the prompt. Grows with the logarithm
    of the count: unlike a repetition penalty it does not forbid what a text needs often.
    """

    def __init__(self, penalty: float, prompt_tokens: int):
        if not penalty >= 0.0:
            raise ValueError(f"coverage_penalty: expected at least 0, got {penalty}")
        self.penalty, self.prompt_tokens = penalty, prompt_tokens

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores [B, V] of the token after input_ids [B, T]."""
        new_BT = input_ids[:, self.prompt_tokens :]
        count_BV = torch.zeros_like(scores)
        count_BV.scatter_add_(1, new_BT, torch.ones_like(new_BT, dtype=scores.dtype))
        return scores - self.penalty * count_BV.log1p()
