"""A coverage penalty without attention: tokens cost more, the more often they were generated.

Shape letters: B rows, T time (tokens), V vocabulary.
"""

import torch
from torch import Tensor
from transformers import LogitsProcessor


class CoveragePenalty(LogitsProcessor):
    """A logits processor that subtracts penalty * log(1 + count) from a token's score.

    Wu et al. 2016 (arXiv 1609.08144) reward that attention covers every source position; here, the
    tokens after the prompt cover the vocabulary. The penalty grows with the logarithm of the count:
    unlike a repetition penalty, it does not rule out tokens that a text needs often.

    Args:
        penalty: At least 0.
        prompt_tokens: Length of the prompt, which does not count.
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
